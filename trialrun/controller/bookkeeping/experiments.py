"""Experiments and their trials: made whole, found by number, listed with their progress."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session, aliased

from trialrun._errors import BookkeepingError
from trialrun.controller.bookkeeping.database import Database
from trialrun.controller.bookkeeping.schema import ExperimentRow, TrialRow, ValidationMetricsRow
from trialrun.controller.bookkeeping.states import RunState

_MAX_NUMBERS_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class TrialSummary:
    """A trial and how well it does."""

    trial: TrialRow
    latest_validation: ValidationMetricsRow | None


@dataclass(frozen=True, kw_only=True)
class ExperimentSummary:
    """An experiment and its trials, the first trial first."""

    experiment: ExperimentRow
    trials: tuple[TrialSummary, ...]


def create_experiment(
    database: Database,
    *,
    name: str,
    description: str = "",
    trial_file: Path | None,
    trial_class: str,
    trial_source_hash: str,
    config: dict[str, Any],
    hyperparameters: dict[str, Any],
    seed: int,
    experiments_directory: Path,
    git_commit: str | None = None,
    working_directory: Path | None = None,
) -> tuple[ExperimentRow, TrialRow]:
    """Records an experiment with one trial, which is PAUSED until an attempt claims it.

    Args:
        database: Where to record it.
        name: What people call it.
        description: What it is about.
        trial_file: The file with the trial class; None where there is none.
        trial_class: Name of the class in that file; ``module:Class`` where a script made it.
        trial_source_hash: Hash of the file's text.
        config: The whole configuration, as JSON.
        hyperparameters: Of the trial, as JSON.
        seed: Of the trial; fits in 63 bits.
        experiments_directory: Holds one folder per experiment, named by its number. No number is
            ever given twice. The folder is not made here.
        git_commit: Of the trial file, if it is in a repository.
        working_directory: Where the file finds modules besides its own folder.

    Returns:
        The experiment and its trial.
    """
    with database.session() as session:
        experiment = ExperimentRow(
            name=name,
            description=description,
            trial_file="" if trial_file is None else str(trial_file.absolute()),
            trial_class=trial_class,
            trial_source_hash=trial_source_hash,
            config=config,
            directory="",
            git_commit=git_commit,
            created_at=datetime.now(UTC),
            working_directory=None if working_directory is None else str(working_directory),
        )
        session.add(experiment)
        session.flush()  # gives the number
        experiment.directory = str(experiments_directory.absolute() / str(experiment.id))
        trial = TrialRow(
            experiment_id=experiment.id,
            hyperparameters=hyperparameters,
            seed=seed,
            state=RunState.PAUSED,
            batches_completed=0,
        )
        session.add(trial)
        session.flush()
        session.refresh(trial)
        return experiment, trial


def change_config(database: Database, experiment_id: int, config: dict[str, Any]) -> None:
    """Records another configuration of an experiment, such as a longer one.

    Args:
        database: Where it is recorded.
        experiment_id: Which experiment.
        config: The whole configuration, as JSON.

    Raises:
        BookkeepingError: There is no such experiment.
    """
    with database.session() as session:
        experiment = session.get(ExperimentRow, experiment_id)
        if experiment is None:
            raise BookkeepingError(_no_experiment(session, experiment_id, database.name))
        experiment.config = config


def get_experiment(database: Database, experiment_id: int) -> ExperimentRow:
    """Finds an experiment by its number.

    Raises:
        BookkeepingError: There is none; names those that exist.
    """
    with database.snapshot() as session:
        experiment = session.get(ExperimentRow, experiment_id)
        if experiment is None:
            raise BookkeepingError(_no_experiment(session, experiment_id, database.name))
        return experiment


def get_trial(database: Database, trial_id: int) -> TrialRow:
    """Finds a trial by its number.

    Raises:
        BookkeepingError: There is none.
    """
    with database.snapshot() as session:
        trial = session.get(TrialRow, trial_id)
    if trial is None:
        raise BookkeepingError(no_trial(trial_id))
    return trial


def list_experiments(database: Database) -> list[ExperimentSummary]:
    """Lists every experiment, oldest first, with its trials' progress and newest validation."""
    validation = aliased(ValidationMetricsRow)
    newest = (  # one step in the primary key's index for each trial
        select(func.max(ValidationMetricsRow.batches))
        .where(ValidationMetricsRow.trial_id == TrialRow.id)
        .correlate(TrialRow)
        .scalar_subquery()
    )
    trials_query = (
        select(TrialRow, validation)
        .outerjoin(
            validation, and_(validation.trial_id == TrialRow.id, validation.batches == newest)
        )
        .order_by(TrialRow.id)
    )
    with database.snapshot() as session:
        experiments = session.scalars(select(ExperimentRow).order_by(ExperimentRow.id)).all()
        trials: dict[int, list[TrialSummary]] = {experiment.id: [] for experiment in experiments}
        for trial, latest in session.execute(trials_query):
            summary = TrialSummary(trial=trial, latest_validation=latest)
            trials[trial.experiment_id].append(summary)
    return [
        ExperimentSummary(experiment=experiment, trials=tuple(trials[experiment.id]))
        for experiment in experiments
    ]


def trials_of_experiment(database: Database, experiment_id: int) -> list[TrialRow]:
    """Lists the trials of an experiment, the first one first."""
    query = select(TrialRow).where(TrialRow.experiment_id == experiment_id).order_by(TrialRow.id)
    with database.snapshot() as session:
        return list(session.scalars(query))


def delete_experiment_rows(database: Database, experiment_id: int) -> None:
    """Deletes an experiment with its trials, attempts, metrics and checkpoints, all or nothing.

    Raises:
        BookkeepingError: There is none.
    """
    with database.session() as session:
        experiment = session.get(ExperimentRow, experiment_id)
        if experiment is None:
            raise BookkeepingError(_no_experiment(session, experiment_id, database.name))
        session.delete(experiment)  # the database deletes what refers to it


def no_trial(trial_id: int) -> str:
    """Says that there is no such trial."""
    return f"There is no trial {trial_id}. `trialrun list` shows the experiments and their trials."


def _no_experiment(session: Session, experiment_id: int, name: str) -> str:
    newest_first = select(ExperimentRow.id).order_by(ExperimentRow.id.desc())
    numbers = session.scalars(newest_first.limit(_MAX_NUMBERS_SHOWN)).all()
    count = session.scalar(select(func.count()).select_from(ExperimentRow)) or 0
    if count == 0:
        known = f"The database {name} has none yet: `trialrun submit` makes the first."
    else:
        listed = ", ".join(map(str, reversed(numbers)))
        which = "These exist" if count <= len(numbers) else f"The newest of {count} are"
        known = f"{which}: {listed}. `trialrun list` shows them."
    return f"There is no experiment {experiment_id}. {known}"
