"""Everything that differs from one database to another is in this file, and nowhere else."""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, NullPool, Table, create_engine, event, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DatabaseError, OperationalError

from trialrun._errors import BookkeepingError

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

logger = logging.getLogger(__name__)

DIALECTS = ("postgresql", "sqlite")

LOCK_TIMEOUT_SECONDS = 120.0
"""How long a statement waits for another writer before it fails."""

WRITES = "trialrun_writes"
"""The execution option of a connection that says whether its next transaction may write."""

_NOTICE_SECONDS = 2.0  # after which a transaction that waits for another writer says so
_OWN_TIMEOUT = "trialrun_own_timeout"  # of a connection for which ``set_lock_timeout`` was called
_RETRY_SECONDS = 0.05
_MIGRATION_LOCK = 0x7472_6961_6C72  # any number that no other program locks: "trialr"

# What SQLite and PostgreSQL say, and what to do about it.
_ADVICE = {
    "locked": "Another process has been writing to it all the time; try again when that has ended.",
    "full": "Free some space on its disk.",
    "disk I/O error": "Check its disk: is it full, or gone?",
    "readonly": "Make the file and its folder writable.",
    "unable to open": "Check that its folder exists and is writable.",
    "not a database": "Name another database with --db.",
    "malformed": "Take its last good copy from a backup.",
    "connection": "Check that the server runs and that the URL is right.",
}


def new_engine(url: URL) -> Engine:
    """Makes the engine for a URL; connects to nothing yet.

    Raises:
        BookkeepingError: The dialect is not supported, or its driver is not installed.
    """
    if url.get_backend_name() not in DIALECTS:
        raise BookkeepingError(
            f"The database URL '{url}' is for '{url.get_backend_name()}'; trialrun keeps its "
            f"records in one of: {', '.join(DIALECTS)}. Name another database with --db."
        )
    if url.get_backend_name() == "sqlite":
        return _new_sqlite_engine(url)
    try:
        return create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise BookkeepingError(
            f"The database URL '{url}' needs the package '{error.name}', which is not installed. "
            f"Install it with: pip install {error.name}"
        ) from error


def sqlite_file(url: URL) -> Path | None:
    """Returns the absolute path of the file that a SQLite URL names; None for other databases.

    Raises:
        BookkeepingError: The URL names no plain file: nothing would outlive the process.
    """
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database.startswith((":memory:", "file:")):
        raise BookkeepingError(
            f"The database URL '{url}' names no plain file, so the records would be lost. "
            "Write sqlite:///FOLDER/trialrun.db"
        )
    return Path(url.database).absolute()


def prepare(engine: Engine) -> None:
    """Makes the settings that a database keeps; may be called by many processes at once."""
    if engine.dialect.name != "sqlite":
        return
    # WAL: readers never wait for the writer, nor it for them. The change is refused at once,
    # without the usual waiting, while another process makes the same change.
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while True:
        try:
            with engine.connect() as connection:
                _run_outside_transaction(connection, "PRAGMA journal_mode=WAL")
            return
        except DatabaseError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)


def set_lock_timeout(connection: Connection, seconds: float) -> None:
    """Sets how long the statements of one connection wait for another writer."""
    milliseconds = round(seconds * 1000)
    if connection.dialect.name == "sqlite":
        connection.info[_OWN_TIMEOUT] = True
        _run_outside_transaction(connection, f"PRAGMA busy_timeout={milliseconds}")
    else:
        with connection.begin():
            connection.execute(text(f"SET lock_timeout = {milliseconds}"))


def suspend_foreign_keys(connection: Connection) -> None:
    """Lets a migration rebuild a table; for a connection that is closed right after it.

    SQLite changes a table by copying it and dropping the old one, and dropping deletes each row:
    with foreign keys on, the rows that refer to them would go too.
    """
    if connection.dialect.name == "sqlite":
        _run_outside_transaction(connection, "PRAGMA foreign_keys=OFF")


def lock_schema(connection: Connection) -> None:
    """Lets one process at a time change the schema, until its transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    # SQLite: a transaction that writes has the whole file to itself from its first statement.


def upsert(table: Table, dialect_name: str) -> sqlite.Insert | postgresql.Insert:
    """Builds an INSERT that replaces the row with the same primary key, if there is one."""
    insert: sqlite.Insert | postgresql.Insert
    if dialect_name == "sqlite":
        insert = sqlite.insert(table)
    else:
        from sqlalchemy.dialects import postgresql  # 50 ms that SQLite's users need not wait

        insert = postgresql.insert(table)
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={
            column.name: insert.excluded[column.name]
            for column in table.columns
            if not column.primary_key
        },
    )


def explain(name: str, error: DatabaseError) -> BookkeepingError:
    """Turns a database's complaint into ours: which database, what happened, what to do."""
    complaint = str(error.orig).strip().splitlines()[0].rstrip(".")
    advice = next((advice for words, advice in _ADVICE.items() if words in complaint), "")
    message = f"The database {name} cannot be read or written: {complaint}. {advice}"
    return BookkeepingError(message.strip())


def _new_sqlite_engine(url: URL) -> Engine:
    # No pool: a connection must not live in two processes, and trialrun forks.
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": LOCK_TIMEOUT_SECONDS})

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # begin() below, not the driver, opens transactions
        connection.execute("PRAGMA foreign_keys=ON")
        # FULL: a commit is on disk when it returns. NORMAL would lose the newest commits in a power
        # loss, e.g. the record of a checkpoint that is on disk, or a claim. The price is one fsync
        # per commit; the metrics' commits, 2 a second, pay it in a background thread.
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # IMMEDIATE waits its turn to write at the start. A transaction that starts by reading and
        # then writes fails at once, without waiting, if another wrote in between.
        writes = connection.get_execution_options().get(WRITES, True)
        if not writes:
            connection.exec_driver_sql("BEGIN")
        elif connection.info.get(_OWN_TIMEOUT):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            _begin_patiently(connection)

    return engine


def _begin_patiently(connection: Connection) -> None:
    """Waits for another writer, and after a while says so."""
    for seconds in (_NOTICE_SECONDS, LOCK_TIMEOUT_SECONDS):
        # No parameter is taken here; and SQLAlchemy would begin a transaction first.
        driver_connection = _driver_connection(connection)
        driver_connection.execute(f"PRAGMA busy_timeout={round(seconds * 1000)}")
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            return
        except OperationalError as error:
            if "locked" not in str(error) or seconds == LOCK_TIMEOUT_SECONDS:
                raise
            logger.warning(
                "Waiting for the database %s, to which another process is writing.",
                connection.engine.url.database,
            )


def _run_outside_transaction(connection: Connection, pragma: str) -> None:
    # SQLAlchemy begins a transaction before each statement, and these have no effect inside one.
    try:
        _driver_connection(connection).execute(pragma)
    except sqlite3.Error as error:
        raise DatabaseError(pragma, None, error) from error


def _driver_connection(connection: Connection) -> sqlite3.Connection:
    driver_connection = connection.connection.driver_connection
    assert isinstance(driver_connection, sqlite3.Connection)
    return driver_connection
