"""Deletes an experiment for good: its records, then its files."""

from __future__ import annotations

import shutil
from pathlib import Path

from trialrun._errors import RunConflictError, TrialrunError
from trialrun.controller.bookkeeping import (
    Database,
    ExperimentRow,
    delete_experiment_rows,
    running_attempts,
)
from trialrun.controller.launch.lock import TrialLock
from trialrun.controller.liveness import TrialFolder, bury, trial_of_experiment


def delete_experiment(database: Database, experiment_id: int) -> ExperimentRow:
    """Deletes everything of an experiment that does not run; its number is never given again.

    Args:
        database: Where it is recorded.
        experiment_id: Which experiment.

    Returns:
        What was recorded of it.

    Raises:
        BookkeepingError: There is no such experiment.
        RunConflictError: It runs.
        TrialrunError: Its records are gone, but not all of its files.
    """
    experiment, trial = trial_of_experiment(database, experiment_id)
    lock = TrialLock.take(TrialFolder.of(experiment, trial).lock)
    if lock is None:
        raise _runs(experiment_id)
    try:
        bury(database, experiment, trial)
        if running_attempts(database, trial_id=trial.id):  # on another machine
            raise _runs(experiment_id)
        # The records first: a recorded checkpoint must not lose its files.
        delete_experiment_rows(database, experiment_id)
        try:
            shutil.rmtree(Path(experiment.directory))
        except FileNotFoundError:
            pass  # somebody has deleted them by hand
        except OSError as error:
            raise TrialrunError(
                f"The records of experiment {experiment_id} are deleted, but not all of its files: "
                f"{error}. Delete {experiment.directory} by hand."
            ) from error
    finally:
        lock.release()
    return experiment


def _runs(experiment_id: int) -> RunConflictError:
    return RunConflictError(
        f"Experiment {experiment_id} runs, and what runs is not deleted. Pause or kill it first: "
        f"trialrun kill {experiment_id}."
    )
