"""Checkpoints: found by uuid or its beginning, listed newest first, marked when no good."""

from __future__ import annotations

from sqlalchemy import select

from trialrun._errors import BookkeepingError
from trialrun.controller.bookkeeping.database import Database
from trialrun.controller.bookkeeping.schema import CheckpointRow
from trialrun.controller.bookkeeping.states import CheckpointState

MIN_PREFIX_CHARACTERS = 4
_MAX_MATCHES_SHOWN = 5


def checkpoints_of_trial(
    database: Database, trial_id: int, *, state: CheckpointState | None = None
) -> list[CheckpointRow]:
    """Lists the checkpoints of a trial, most batches first, then youngest first.

    Args:
        database: Where they are recorded.
        trial_id: Which trial.
        state: Only those in this state; all if None.
    """
    query = (
        select(CheckpointRow)
        .where(CheckpointRow.trial_id == trial_id)
        .order_by(CheckpointRow.batches.desc(), CheckpointRow.created_at.desc())
    )
    if state is not None:
        query = query.where(CheckpointRow.state == state)
    with database.snapshot() as session:
        return list(session.scalars(query))


def get_checkpoint(database: Database, uuid: str) -> CheckpointRow:
    """Finds a checkpoint by its uuid, or by a beginning of it that no other has.

    Args:
        database: Where it is recorded.
        uuid: At least 4 characters of it; upper or lower case.

    Raises:
        BookkeepingError: None begins so, or several do, or it is too short.
    """
    prefix = uuid.strip().lower()
    if len(prefix) < MIN_PREFIX_CHARACTERS:
        raise BookkeepingError(
            f"'{uuid}' is too short for a checkpoint: "
            f"give at least the first {MIN_PREFIX_CHARACTERS} characters of its uuid."
        )
    query = (
        select(CheckpointRow)
        .where(CheckpointRow.uuid.startswith(prefix, autoescape=True))
        .order_by(CheckpointRow.uuid)
        .limit(_MAX_MATCHES_SHOWN + 1)
    )
    with database.snapshot() as session:
        found = session.scalars(query).all()
    if not found:
        raise BookkeepingError(
            f"There is no checkpoint '{uuid}'. `trialrun checkpoint list` shows those that exist."
        )
    if len(found) > 1:
        listed = ", ".join(checkpoint.uuid for checkpoint in found[:_MAX_MATCHES_SHOWN])
        more = ", ..." if len(found) > _MAX_MATCHES_SHOWN else ""
        raise BookkeepingError(
            f"'{uuid}' is the beginning of several checkpoints: {listed}{more}. "
            "Give more characters."
        )
    return found[0]


def mark_checkpoint(database: Database, uuid: str, state: CheckpointState) -> None:
    """Records what became of a checkpoint's files.

    Args:
        database: Where it is recorded.
        uuid: All of it.
        state: The new state.

    Raises:
        BookkeepingError: There is no such checkpoint.
    """
    with database.session() as session:
        checkpoint = session.get(CheckpointRow, uuid)
        if checkpoint is None:
            raise BookkeepingError(
                f"There is no checkpoint '{uuid}' to mark as {state.name}. "
                "`trialrun checkpoint list` shows those that exist."
            )
        checkpoint.state = state
