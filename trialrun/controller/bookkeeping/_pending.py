"""What waits to be written in one transaction; writing it twice is as good as once."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Table, update
from sqlalchemy.orm import Session

from trialrun.controller.bookkeeping import _dialects
from trialrun.controller.bookkeeping.schema import (
    AttemptRow,
    Base,
    CheckpointRow,
    TrainingMetricsRow,
    TrialRow,
    ValidationMetricsRow,
)
from trialrun.controller.bookkeeping.states import CheckpointState


class Pending:
    """Rows to add and values to set for one attempt, grouped by table.

    The order of what came in matters only within a group: the newest value of a column wins, and
    the newest row of a batch. A checkpoint is added before its state changes.
    """

    # Rows to add: a list of {column: value}.
    training_metrics: list[dict[str, Any]]
    validation_metrics: list[dict[str, Any]]
    checkpoints: list[dict[str, Any]]

    # Values to set: by column, and by uuid.
    attempt: dict[str, Any]
    trial: dict[str, Any]
    checkpoint_states: dict[str, CheckpointState]

    def __init__(self) -> None:
        self.training_metrics = []
        self.validation_metrics = []
        self.checkpoints = []
        self.attempt = {}
        self.trial = {}
        self.checkpoint_states = {}

    def __len__(self) -> int:
        """Counts rows to add and values to set."""
        return sum(map(len, vars(self).values()))

    def write(self, session: Session, *, trial_id: int, attempt_id: int) -> None:
        """Writes everything in the session's transaction."""
        if self.attempt:
            session.execute(
                update(AttemptRow).where(AttemptRow.id == attempt_id).values(self.attempt)
            )
        if self.trial:
            session.execute(update(TrialRow).where(TrialRow.id == trial_id).values(self.trial))
        _upsert_all(session, TrainingMetricsRow, self.training_metrics)
        _upsert_all(session, ValidationMetricsRow, self.validation_metrics)
        _upsert_all(session, CheckpointRow, self.checkpoints)
        for uuid, state in self.checkpoint_states.items():
            session.execute(
                update(CheckpointRow).where(CheckpointRow.uuid == uuid).values(state=state)
            )


def _upsert_all(session: Session, row_class: type[Base], rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    # On the connection, below the ORM: one prepared statement for all rows.
    connection = session.connection()
    table = cast(Table, row_class.__table__)
    connection.execute(_dialects.upsert(table, connection.dialect.name), rows)
