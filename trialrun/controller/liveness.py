"""Which experiments really run, and how a running one is stopped; loads no torch, no pydantic."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import time
from pathlib import Path

from trialrun._errors import RunConflictError
from trialrun.controller.bookkeeping import (
    AttemptRow,
    CheckpointState,
    Database,
    ExperimentRow,
    RunState,
    TrialRow,
    checkpoints_of_trial,
    finish_attempt,
    get_experiment,
    get_trial,
    request_stop,
    running_attempts,
    trials_of_experiment,
)
from trialrun.controller.checkpoints.folders import remove_leftovers
from trialrun.controller.launch.lock import TrialLock

_POLL_SECONDS = 0.05
_WAIT_SECONDS = 0.2
_KILL_WAIT_SECONDS = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialFolder:
    """Where one trial's files lie."""

    path: Path

    @classmethod
    def of(cls, experiment: ExperimentRow, trial: TrialRow) -> TrialFolder:
        """Returns the folder of a recorded trial."""
        return cls(path=Path(experiment.directory) / "trials" / str(trial.id))

    @property
    def lock(self) -> Path:
        """Held while any process trains the trial."""
        return self.path / "lock"

    @property
    def checkpoints(self) -> Path:
        """One folder for each checkpoint."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's events; those of the experiment's trials lie beside each other."""
        return self.path.parent.parent / "tensorboard" / f"trial_{self.path.name}"

    def attempt(self, number: int) -> Path:
        """Output of one attempt's processes."""
        return self.path / "attempts" / str(number)


def order_arrays_folder(experiment: ExperimentRow) -> Path:
    """Returns where the arrays lie by which samplers order the records, for all its trials."""
    return Path(experiment.directory) / "order-arrays"


def trial_of_experiment(database: Database, experiment_id: int) -> tuple[ExperimentRow, TrialRow]:
    """Returns an experiment and its one trial.

    Raises:
        BookkeepingError: There is no such experiment.
    """
    experiment = get_experiment(database, experiment_id)
    (trial,) = trials_of_experiment(database, experiment_id)
    return experiment, trial


def bury_dead_attempts(database: Database) -> list[AttemptRow]:
    """Marks attempts whose processes are gone, and removes what they were still writing.

    Only attempts of this machine can be judged; every command begins with this.

    Returns:
        The attempts that were found dead.
    """
    buried = []
    for attempt in running_attempts(database):
        if attempt.hostname != socket.gethostname():
            continue
        trial = get_trial(database, attempt.trial_id)
        experiment = get_experiment(database, trial.experiment_id)
        lock = TrialLock.take(TrialFolder.of(experiment, trial).lock)
        if lock is not None:
            try:
                buried += bury(database, experiment, trial)
            finally:
                lock.release()
    return buried


def pause_experiment(database: Database, experiment_id: int, wait: bool = True) -> TrialRow:
    """Asks a running experiment to stop at its next batch boundary.

    Args:
        database: Where it is recorded.
        experiment_id: Which experiment.
        wait: Whether to wait until it has stopped.

    Returns:
        The trial as it is then.

    Raises:
        RunConflictError: It does not run.
    """
    experiment, trial = trial_of_experiment(database, experiment_id)
    _running_attempt(database, experiment, trial)
    # Again and again: the one that was asked may have failed just before, and been restarted.
    while running := running_attempts(database, trial_id=trial.id):
        if running[0].stop_requested is None:
            request_stop(database, running[0].id)
            continue
        if not wait:
            break
        time.sleep(_POLL_SECONDS)
        bury_dead_attempts(database)
    return get_trial(database, trial.id)


def wait_for_experiment(database: Database, experiment_id: int) -> TrialRow:
    """Waits until an experiment does not run, and returns its trial as it is then.

    Raises:
        BookkeepingError: There is no such experiment.
    """
    _, trial = trial_of_experiment(database, experiment_id)
    while running_attempts(database, trial_id=trial.id):
        time.sleep(_WAIT_SECONDS)
        bury_dead_attempts(database)
    return get_trial(database, trial.id)


def kill_experiment(database: Database, experiment_id: int) -> TrialRow:
    """Ends a running experiment at once, without a checkpoint.

    Returns:
        The trial as it is then.

    Raises:
        RunConflictError: It does not run, or runs on another machine.
    """
    experiment, trial = trial_of_experiment(database, experiment_id)
    attempt = _running_attempt(database, experiment, trial)
    if attempt.hostname != socket.gethostname():
        raise RunConflictError(
            f"Experiment {experiment_id} runs on {attempt.hostname}. Kill it there, or pause it."
        )
    # The lock is held, so the recorded process lives and its number is nobody else's.
    with contextlib.suppress(ProcessLookupError):  # it has ended since
        os.kill(attempt.pid, signal.SIGKILL)
    lock = TrialLock.take(TrialFolder.of(experiment, trial).lock, wait_seconds=_KILL_WAIT_SECONDS)
    if lock is None:
        raise RunConflictError(
            f"Experiment {experiment_id} was killed, but a process of it does not end. Look for it "
            "with ps, and end it by hand."
        )
    try:
        # Which may be another one by now, where the first was just being restarted.
        for last in running_attempts(database, trial_id=trial.id):
            finish_attempt(database, last.id, RunState.KILLED, error="Killed on request.")
        clear_leftovers(database, experiment, trial)
    finally:
        lock.release()
    return get_trial(database, trial.id)


def _running_attempt(database: Database, experiment: ExperimentRow, trial: TrialRow) -> AttemptRow:
    bury_dead_attempts(database)
    running = running_attempts(database, trial_id=trial.id)
    if not running:
        state = get_trial(database, trial.id).state.name
        raise RunConflictError(f"Experiment {experiment.id} does not run: it is {state}.")
    return running[0]


def bury(database: Database, experiment: ExperimentRow, trial: TrialRow) -> list[AttemptRow]:
    """Marks a trial's running attempts of this machine dead, and removes what they were writing.

    The caller holds the trial's lock, so none of their processes lives.

    Returns:
        The attempts that were marked.
    """
    dead = [
        attempt
        for attempt in running_attempts(database, trial_id=trial.id)
        if attempt.hostname == socket.gethostname()
    ]
    for attempt in dead:
        finish_attempt(database, attempt.id, RunState.DEAD, error="Its process is gone.")
    if dead:
        clear_leftovers(database, experiment, trial)
    return dead


def clear_leftovers(database: Database, experiment: ExperimentRow, trial: TrialRow) -> None:
    """Deletes checkpoint folders that no record wants; the caller holds the trial's lock.

    Those are what a killed process was still writing, or had not deleted yet.
    """
    rows = checkpoints_of_trial(database, trial.id)
    recorded = [row.uuid for row in rows if row.state is not CheckpointState.DELETED]
    remove_leftovers(TrialFolder.of(experiment, trial).checkpoints, recorded)
