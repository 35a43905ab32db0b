"""Experiments as commands see them: submitted, and prepared for an attempt."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trialrun._errors import (
    BookkeepingError,
    CheckpointError,
    ConfigurationError,
    RunConflictError,
)
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
    create_experiment,
    finish_attempt,
    get_experiment,
    get_trial,
    mark_checkpoint,
    rewind,
)
from trialrun.controller.checkpoints.manifest import verify
from trialrun.controller.config import ExperimentConfig, not_divisible, read_config
from trialrun.controller.home import Home
from trialrun.controller.launch.lock import TrialLock
from trialrun.controller.launch.placement import num_threads
from trialrun.controller.liveness import TrialFolder, bury, clear_leftovers, trial_of_experiment
from trialrun.controller.warm_start import find_weights, weights_folder

_LOCK_WAIT_SECONDS = 3.0


def submit_experiment(
    database: Database,
    home: Home,
    *,
    trial_file: Path,
    trial_class: str | None,
    config: ExperimentConfig,
) -> tuple[ExperimentRow, TrialRow]:
    """Records a new experiment with one trial.

    Args:
        database: Where to record it.
        home: Where its files go.
        trial_file: The user's file; a copy of it is kept.
        trial_class: Which class in it, if it has several.
        config: Its configuration. Threads that it leaves open are chosen here, once.

    Raises:
        BookkeepingError: Its folder exists already, left by another database.
        CheckpointError: ``from_checkpoint`` names no whole checkpoint.
    """
    config = config.model_copy(update={"intra_op_threads": num_threads(config)})
    weights = None
    if config.from_checkpoint is not None:
        weights = find_weights(config.from_checkpoint, home)
        config = config.model_copy(update={"from_checkpoint": weights.name})
    experiment, trial = create_experiment(
        database,
        name=config.name or trial_file.stem,
        description=config.description,
        trial_file=trial_file,
        trial_class=trial_class or "",
        trial_source_hash=_hash_source(trial_file),
        config=config.to_json(),
        hyperparameters=config.hyperparameters,
        seed=config.seed,
        experiments_directory=home.experiments,
        git_commit=_git_commit(trial_file.parent),
    )
    folder = Path(experiment.directory)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise BookkeepingError(
            f"{folder} exists, but {database.name} has just given out its number: the home belongs "
            "to another database. Give each database a home of its own, with --home."
        ) from None
    shutil.copy2(trial_file, folder / trial_file.name)
    if weights is not None:
        from trialrun.controller.checkpoints.export import copy_weights  # which imports torch

        copy_weights(weights.folder, weights_folder(experiment))
    return experiment, trial


def resumable_trial(
    database: Database, experiment_id: int, num_processes: int | None
) -> tuple[TrialRow, ExperimentConfig]:
    """Returns the trial of an experiment that a new attempt can go on with, and its configuration.

    Args:
        database: Where it is recorded.
        experiment_id: Which experiment.
        num_processes: P, where one is asked for.

    Raises:
        BookkeepingError: There is no such experiment.
        ConfigurationError: P does not divide the slots.
        RunConflictError: It runs already, or is complete.
    """
    experiment, trial = trial_of_experiment(database, experiment_id)
    _require_resumable(experiment, trial)
    config = read_config(experiment.config)
    if num_processes is not None and (num_processes < 1 or config.slots % num_processes):
        raise ConfigurationError(not_divisible(config.slots, num_processes))
    return trial, config


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedAttempt:
    """An attempt that is claimed, locked and ready to start."""

    experiment: ExperimentRow
    trial: TrialRow
    attempt: AttemptRow
    config: ExperimentConfig
    folder: TrialFolder
    lock: TrialLock
    checkpoint: CheckpointRow | None
    warnings: list[str]


@contextmanager
def prepared_attempt(
    database: Database, trial_id: int, num_processes: int
) -> Iterator[PreparedAttempt]:
    """Claims a trial for this process, until the block ends.

    The newest whole checkpoint is found by its hashes; damaged ones are marked. What was recorded
    after it will come again, and is forgotten.

    Args:
        database: Where the trial is recorded.
        trial_id: Which trial.
        num_processes: P.

    Raises:
        RunConflictError: The trial runs already, or is complete.
    """
    trial = get_trial(database, trial_id)
    experiment = get_experiment(database, trial.experiment_id)
    folder = TrialFolder.of(experiment, trial)
    lock = TrialLock.take(folder.lock, _LOCK_WAIT_SECONDS)
    if lock is None:
        raise RunConflictError(_runs_already(experiment))
    try:
        bury(database, experiment, trial)
        clear_leftovers(database, experiment, trial)
        trial = get_trial(database, trial_id)
        _require_resumable(experiment, trial)
        checkpoint, warnings = _newest_whole_checkpoint(database, trial)
        warnings += source_warnings(experiment)
        first_batch = checkpoint.batches if checkpoint else 0
        attempt = claim_trial(
            database,
            trial_id,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            num_processes=num_processes,
            first_batch=first_batch,
            resumed_from=checkpoint.uuid if checkpoint else None,
        )
        if attempt is None:
            raise RunConflictError(_runs_already(experiment))
        rewind(database, trial_id, first_batch)
        folder.attempt(attempt.number).mkdir(parents=True, exist_ok=True)
        with _recorded_end(database, attempt):
            yield PreparedAttempt(
                experiment=experiment,
                trial=trial,
                attempt=attempt,
                config=read_config(experiment.config).model_copy(
                    update={"hyperparameters": trial.hyperparameters}
                ),
                folder=folder,
                lock=lock,
                checkpoint=checkpoint,
                warnings=warnings,
            )
    finally:
        lock.release()


def _newest_whole_checkpoint(
    database: Database, trial: TrialRow
) -> tuple[CheckpointRow | None, list[str]]:
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


def source_warnings(experiment: ExperimentRow) -> list[str]:
    """Returns what to warn of where the user's file is no longer what was recorded."""
    path = Path(experiment.trial_file)
    if path.is_file() and _hash_source(path) != experiment.trial_source_hash:
        return [
            f"{path} has changed since experiment {experiment.id} was submitted: results may "
            f"differ from an uninterrupted run. The submitted text is in {experiment.directory}."
        ]
    return []


@contextmanager
def _recorded_end(database: Database, attempt: AttemptRow) -> Iterator[None]:
    """Records the end of an attempt that nobody else has recorded, because something broke."""
    try:
        yield
    except KeyboardInterrupt:
        error = "Stopped by Ctrl-C before training began."
        finish_attempt(database, attempt.id, RunState.KILLED, error=error)
        raise
    except BaseException as failure:
        error = f"{type(failure).__name__}: {failure}"
        finish_attempt(database, attempt.id, RunState.ERROR, error=error)
        raise


def _require_resumable(experiment: ExperimentRow, trial: TrialRow) -> None:
    if trial.state is RunState.RUNNING:
        raise RunConflictError(_runs_already(experiment))
    if trial.state is RunState.COMPLETED:
        raise RunConflictError(
            f"Experiment {experiment.id} is complete, after {trial.batches_completed} batches: "
            "there is nothing to resume. Submit a new one to train longer."
        )


def _runs_already(experiment: ExperimentRow) -> str:
    return (
        f"Experiment {experiment.id} runs already. Pause it first (trialrun pause "
        f"{experiment.id}), or look at it (trialrun show {experiment.id})."
    )


def _hash_source(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _git_commit(folder: Path) -> str | None:
    """Returns the commit of the user's repository, with ``+`` where it has changes."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        # No tags: the name is then the commit itself.
        result = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
