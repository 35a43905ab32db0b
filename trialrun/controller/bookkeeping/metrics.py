"""The metrics of a trial: one row for each batch at which they were reported, in order."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import Select, delete, func, select, update

from trialrun.controller.bookkeeping.database import Database
from trialrun.controller.bookkeeping.schema import (
    TrainingMetricsRow,
    TrialRow,
    ValidationMetricsRow,
)

_Row = TypeVar("_Row", TrainingMetricsRow, ValidationMetricsRow)


def training_metrics_of_trial(
    database: Database, trial_id: int, *, start: int = 0, stop: int | None = None
) -> list[TrainingMetricsRow]:
    """Lists training metrics whose batches completed are in [start, stop), in order.

    Args:
        database: Where they are recorded.
        trial_id: Which trial.
        start: First count of batches completed that is wanted.
        stop: First count that is not wanted; None for no end.
    """
    return _of_trial(database, TrainingMetricsRow, trial_id, start, stop)


def validation_metrics_of_trial(
    database: Database, trial_id: int, *, start: int = 0, stop: int | None = None
) -> list[ValidationMetricsRow]:
    """Lists validation metrics whose batches completed are in [start, stop), in order.

    Args:
        database: Where they are recorded.
        trial_id: Which trial.
        start: First count of batches completed that is wanted.
        stop: First count that is not wanted; None for no end.
    """
    return _of_trial(database, ValidationMetricsRow, trial_id, start, stop)


def reports_of_trial(
    database: Database, trial_id: int, *, first_training: int, first_validation: int
) -> tuple[list[TrainingMetricsRow], list[ValidationMetricsRow]]:
    """Reads training and validation metrics of one moment, so that none is seen before its time.

    Args:
        database: Where they are recorded.
        trial_id: Which trial.
        first_training: First count of batches completed that is wanted.
        first_validation: The same for validation metrics.
    """
    training = _query(TrainingMetricsRow, trial_id, first_training, None)
    validation = _query(ValidationMetricsRow, trial_id, first_validation, None)
    with database.snapshot() as session:
        return list(session.scalars(training)), list(session.scalars(validation))


def rewind(database: Database, trial_id: int, batches: int) -> int:
    """Sets a trial's clock back: what comes after is forgotten, as it will be reported again.

    Checkpoints stay: they are as good as before.

    Args:
        database: Where the trial is recorded.
        trial_id: Which trial.
        batches: Batches completed from now on; rows of exactly this count stay.

    Returns:
        The number of metric rows deleted.
    """
    num_deleted = 0
    with database.session() as session:
        for table in (TrainingMetricsRow, ValidationMetricsRow):
            later = (table.trial_id == trial_id, table.batches > batches)
            counted = session.scalar(select(func.count()).select_from(table).where(*later))
            num_deleted += counted or 0
            session.execute(delete(table).where(*later))
        session.execute(
            update(TrialRow).where(TrialRow.id == trial_id).values(batches_completed=batches)
        )
    return num_deleted


def _of_trial(
    database: Database, table: type[_Row], trial_id: int, start: int, stop: int | None
) -> list[_Row]:
    with database.snapshot() as session:
        return list(session.scalars(_query(table, trial_id, start, stop)))


def _query(table: type[_Row], trial_id: int, start: int, stop: int | None) -> Select[Any]:
    query = select(table).where(table.trial_id == trial_id, table.batches >= start)
    if stop is not None:
        query = query.where(table.batches < stop)
    return query.order_by(table.batches)
