"""How a process takes a recorded trial for itself: the lock first, then the attempt."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trialrun._errors import CheckpointError, RunConflictError
from trialrun.controller.bookkeeping import (
    AttemptRow,
    CheckpointRow,
    CheckpointState,
    Database,
    ExperimentRow,
    RunState,
    TrialRow,
    checkpoints_of_trial,
    claim_trial,
    finish_attempt,
    get_experiment,
    get_trial,
    mark_checkpoint,
    rewind,
)
from trialrun.controller.checkpoints.manifest import verify
from trialrun.controller.launch.lock import TrialLock
from trialrun.controller.liveness import TrialFolder, bury, clear_leftovers

_LOCK_WAIT_SECONDS = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LockedTrial:
    """A trial whose lock this process holds, so that nobody else trains it."""

    experiment: ExperimentRow
    trial: TrialRow
    folder: TrialFolder
    lock: TrialLock


@contextmanager
def locked_trial(database: Database, trial_id: int) -> Iterator[LockedTrial]:
    """Takes a trial's lock until the block ends, and clears up after those who held it before.

    Raises:
        RunConflictError: The trial runs.
    """
    trial = get_trial(database, trial_id)
    experiment = get_experiment(database, trial.experiment_id)
    folder = TrialFolder.of(experiment, trial)
    lock = TrialLock.take(folder.lock, _LOCK_WAIT_SECONDS)
    if lock is None:
        raise RunConflictError(runs_already(experiment))
    try:
        bury(database, experiment, trial)
        clear_leftovers(database, experiment, trial)
        trial = get_trial(database, trial_id)
        yield LockedTrial(experiment=experiment, trial=trial, folder=folder, lock=lock)
    finally:
        lock.release()


@contextmanager
def claimed_attempt(
    database: Database,
    locked: LockedTrial,
    *,
    num_processes: int,
    first_batch: int,
    resumed_from: str | None,
) -> Iterator[AttemptRow]:
    """Begins the next attempt at a locked trial.

    What was recorded after its first batch will come again, and is forgotten. An end that nobody
    has recorded when the block ends, because something broke, is recorded as an error.

    Args:
        database: Where the trial is recorded.
        locked: The trial.
        num_processes: P.
        first_batch: Batches completed at the start.
        resumed_from: Uuid of the checkpoint that it starts from.

    Raises:
        RunConflictError: The trial runs on another machine.
    """
    trial_id = locked.trial.id
    attempt = claim_trial(
        database,
        trial_id,
        hostname=socket.gethostname(),
        pid=os.getpid(),
        num_processes=num_processes,
        first_batch=first_batch,
        resumed_from=resumed_from,
    )
    if attempt is None:
        raise RunConflictError(runs_already(locked.experiment))
    rewind(database, trial_id, first_batch)
    locked.folder.attempt(attempt.number).mkdir(parents=True, exist_ok=True)
    try:
        yield attempt
    except KeyboardInterrupt:
        error = "Stopped by Ctrl-C before training began."
        finish_attempt(database, attempt.id, RunState.KILLED, error=error)
        raise
    except BaseException as failure:
        error = f"{type(failure).__name__}: {failure}"
        finish_attempt(database, attempt.id, RunState.ERROR, error=error)
        raise


def newest_whole_checkpoint(
    database: Database, trial: TrialRow
) -> tuple[CheckpointRow | None, list[str]]:
    """Returns the newest checkpoint whose files are as they were written, and what to warn of.

    Those that are found damaged are marked.
    """
    warnings = []
    rows = checkpoints_of_trial(database, trial.id, state=CheckpointState.COMPLETED)
    for row in rows:
        try:
            verify(Path(row.path), row.files)
        except CheckpointError as error:
            mark_checkpoint(database, row.uuid, CheckpointState.DAMAGED)
            warnings.append(f"{error} It is marked as damaged; an older one is looked for.")
        else:
            return row, warnings
    if rows:
        warnings.append("No whole checkpoint is left: training starts again from batch 0.")
    return None, warnings


def runs_already(experiment: ExperimentRow) -> str:
    """Says that an experiment runs."""
    return (
        f"Experiment {experiment.id} runs already. Pause it first (trialrun pause "
        f"{experiment.id}), or look at it (trialrun show {experiment.id})."
    )
