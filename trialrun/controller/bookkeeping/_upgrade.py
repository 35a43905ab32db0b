"""Brings the schema of a database to the one that the models describe; alembic loads only then."""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

from trialrun._errors import BookkeepingError
from trialrun.controller.bookkeeping import _dialects
from trialrun.controller.bookkeeping.migrations import HEAD, REVISIONS

_VERSION_TABLE = "alembic_version"


def is_current(connection: Connection, name: str, *, create: bool) -> bool:
    """Tells whether a database has the newest schema.

    Args:
        connection: To the database.
        name: Of the database, for messages.
        create: Whether an empty database may be filled.

    Raises:
        BookkeepingError: It is empty and ``create`` is False, or not ours, or newer.
    """
    revision = _revision(connection, name)
    if revision is None and not create:
        raise BookkeepingError(nothing_there(name))
    return revision == HEAD


def upgrade(connection: Connection, name: str) -> None:
    """Runs the missing migrations in the caller's transaction.

    Args:
        connection: In a transaction that writes, and that the caller commits.
        name: Of the database, for messages.

    Raises:
        BookkeepingError: It is not ours, or newer.
    """
    _dialects.lock_schema(connection)
    if _revision(connection, name) == HEAD:  # another process was faster
        return
    from alembic import command
    from alembic.config import Config

    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    logger = logging.getLogger("alembic")
    if logger.level == logging.NOTSET:  # nobody has asked what it does, whatever else is logged
        logger.setLevel(logging.WARNING)
    command.upgrade(config, HEAD)


def nothing_there(name: str) -> str:
    """Says that there is no database yet."""
    return (
        f"There is no trialrun database at {name}. "
        "`trialrun submit` makes one; --home or --db names another."
    )


def _revision(connection: Connection, name: str) -> str | None:
    """Reads the schema's revision; None for an empty database."""
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return None
    revision = None
    if _VERSION_TABLE in tables:
        revision = connection.scalar(
            select(column("version_num")).select_from(table(_VERSION_TABLE))
        )
    if revision is None:
        raise BookkeepingError(
            f"The database {name} belongs to another program: it holds the tables "
            f"{', '.join(sorted(tables))}. Name another database with --db."
        )
    if revision not in REVISIONS:
        raise BookkeepingError(
            f"The database {name} was made by a newer trialrun (schema {revision}; this version "
            f"knows {HEAD}). Upgrade trialrun, or name another database with --db."
        )
    return str(revision)
