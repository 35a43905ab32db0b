"""One open database: its schema is up to date, and every use is one transaction that ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError
from sqlalchemy.orm import Session

from trialrun._errors import BookkeepingError
from trialrun.controller.bookkeeping import _dialects, _upgrade


class Database:
    """The records of all experiments. Threads and processes may share one database freely.

    A transaction that writes has its turn alone; one that reads sees one moment, and waits for
    nobody. What is committed survives a power loss. An object may be used by all threads of a
    process and, on SQLite, by a forked child too, as no connection outlives its ``with`` block.
    """

    # Where it is.
    url: str  # with the password, absolute: opens the same database in another process
    name: str  # for messages: the SQLite file, or the URL without its password

    def __init__(self, engine: Engine) -> None:
        """Wraps an engine; use ``Database.open``."""
        self._engine = engine
        self.url = engine.url.render_as_string(hide_password=False)
        file = _dialects.sqlite_file(engine.url)
        self.name = str(file) if file else engine.url.render_as_string()

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> Database:
        """Opens a database and brings its schema up to date.

        Any number of processes may do this at once, on a new database too. The folder of a SQLite
        file must exist.

        Args:
            url: A SQLAlchemy URL, e.g. ``sqlite:////home/me/trialrun.db``.
            create: Whether to make the database if there is none.

        Raises:
            BookkeepingError: The URL is none, or nothing is there and ``create`` is False, or what
                is there is not trialrun's, is newer than this version, or cannot be written.
        """
        database = cls(_dialects.new_engine(_parse(url)))
        file = _dialects.sqlite_file(database._engine.url)
        if file is not None and not create and not file.exists():
            raise BookkeepingError(_upgrade.nothing_there(database.name))
        with database._explained():
            _dialects.prepare(database._engine)
            with database.snapshot() as session:
                is_current = _upgrade.is_current(session.connection(), database.name, create=create)
            if not is_current:
                database._upgrade_schema()
        return database

    @contextlib.contextmanager
    def session(self, connection: Connection | None = None) -> Iterator[Session]:
        """Opens a transaction that reads and writes: commits at the end, or undoes everything.

        The rows that it leaves behind are plain values and stay readable.

        Args:
            connection: An open one from ``connect`` to use; none opens one for this transaction.

        Raises:
            BookkeepingError: The database is locked, full, damaged or away.
        """
        with self._transaction(connection, writes=True) as session:
            yield session

    @contextlib.contextmanager
    def snapshot(self, connection: Connection | None = None) -> Iterator[Session]:
        """Opens a transaction that only reads: it sees one moment and holds up no writer.

        Args:
            connection: An open one from ``connect`` to use; none opens one for this transaction.

        Raises:
            BookkeepingError: The database is locked, full, damaged or away.
        """
        with self._transaction(connection, writes=False) as session:
            yield session

    @contextlib.contextmanager
    def connect(self, *, lock_timeout_seconds: float) -> Iterator[Connection]:
        """Holds one connection open for many transactions, of one thread.

        Args:
            lock_timeout_seconds: How long its statements wait for another writer.

        Raises:
            BookkeepingError: The database is locked, full, damaged or away.
        """
        with self._explained(), self._engine.connect() as connection:
            _dialects.set_lock_timeout(connection, lock_timeout_seconds)
            yield connection

    @contextlib.contextmanager
    def _transaction(self, connection: Connection | None, *, writes: bool) -> Iterator[Session]:
        # The one place that commits, rolls back and closes.
        with self._explained(), contextlib.ExitStack() as stack:
            if connection is None:
                connection = stack.enter_context(self._engine.connect())
            connection.execution_options(**{_dialects.WRITES: writes})
            session = stack.enter_context(Session(connection, expire_on_commit=False))
            with session.begin():
                yield session

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            # Its other children (a broken constraint, a wrong statement) are bugs, not conditions.
            if type(error) not in (DatabaseError, OperationalError):
                raise
            raise _dialects.explain(self.name, error) from error

    def _upgrade_schema(self) -> None:
        with self._engine.connect() as connection:
            _dialects.suspend_foreign_keys(connection)
            with self.session(connection) as session:
                _upgrade.upgrade(session.connection(), self.name)


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise BookkeepingError(
            f"'{text}' is not a database URL. For a SQLite file write sqlite:///FOLDER/trialrun.db"
        ) from error
    file = _dialects.sqlite_file(url)
    return url.set(database=str(file)) if file else url
