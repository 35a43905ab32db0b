"""Experiments as commands see them: submitted, and prepared for an attempt."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trialrun._errors import BookkeepingError, ConfigurationError, RunConflictError
from trialrun._wording import count
from trialrun.controller.bookkeeping import (
    AttemptRow,
    CheckpointRow,
    Database,
    ExperimentRow,
    RunState,
    TrialRow,
    change_config,
    create_experiment,
    replace_attempt,
    rewind,
)
from trialrun.controller.checkpoints.manifest import flush_file, flush_folder
from trialrun.controller.claiming import (
    claimed_attempt,
    locked_trial,
    newest_whole_checkpoint,
    runs_already,
)
from trialrun.controller.config import ExperimentConfig, not_divisible, read_config
from trialrun.controller.going_on import how_to_go_on, how_to_train_longer, is_of_script
from trialrun.controller.home import Home
from trialrun.controller.launch.failures import Failure
from trialrun.controller.launch.lock import TrialLock
from trialrun.controller.launch.placement import num_threads
from trialrun.controller.liveness import TrialFolder, clear_leftovers, trial_of_experiment
from trialrun.controller.warm_start import find_weights, weights_folder


def submit_experiment(
    database: Database,
    home: Home,
    *,
    trial_file: Path,
    trial_class: str | None,
    config: ExperimentConfig,
    working_directory: Path | None = None,
) -> tuple[ExperimentRow, TrialRow]:
    """Records a new experiment with one trial, whose class is in a file.

    Args:
        database: Where to record it.
        home: Where its files go.
        trial_file: The user's file; a copy of it is kept.
        trial_class: Which class in it, if it has several.
        config: Its configuration. Threads that it leaves open are chosen here, once.
        working_directory: Where the file finds modules besides its own folder; default: the
            current folder.

    Raises:
        BookkeepingError: Its folder exists already, left by another database.
        CheckpointError: ``from_checkpoint`` names no whole checkpoint.
    """
    return record_experiment(
        database,
        home,
        trial_file=trial_file,
        trial_class=trial_class or "",
        config=config,
        working_directory=working_directory or Path.cwd(),
    )


def record_experiment(
    database: Database,
    home: Home,
    *,
    trial_file: Path | None,
    trial_class: str,
    config: ExperimentConfig,
    working_directory: Path | None = None,
) -> tuple[ExperimentRow, TrialRow]:
    """Records a new experiment with one trial, wherever its class comes from.

    Args:
        database: Where to record it.
        home: Where its files go.
        trial_file: The file of the class, of which a copy is kept; None for a class that was
            defined in an interactive session.
        trial_class: The class; see ``going_on.is_of_script``.
        config: Its configuration. Threads that it leaves open are chosen here, once.
        working_directory: Where the file finds modules besides its own folder, if anywhere.

    Raises:
        BookkeepingError: Its folder exists already, left by another database.
        CheckpointError: ``from_checkpoint`` names no whole checkpoint.
    """
    config = config.model_copy(update={"intra_op_threads": num_threads(config)})
    default_name = trial_class.rpartition(":")[2] if trial_file is None else trial_file.stem
    weights = None
    if config.from_checkpoint is not None:
        weights = find_weights(config.from_checkpoint, home)
        config = config.model_copy(update={"from_checkpoint": weights.name})
    experiment, trial = create_experiment(
        database,
        name=config.name or default_name,
        description=config.description,
        trial_file=trial_file,
        trial_class=trial_class,
        trial_source_hash="" if trial_file is None else hash_source(trial_file),
        config=config.to_json(),
        hyperparameters=config.hyperparameters,
        seed=config.seed,
        experiments_directory=home.experiments,
        git_commit=None if trial_file is None else _git_commit(trial_file.parent),
        working_directory=working_directory,
    )
    folder = Path(experiment.directory)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise BookkeepingError(
            f"{folder} exists, but {database.name} has just given out its number: the home belongs "
            "to another database. Give each database a home of its own, with --home."
        ) from None
    if trial_file is not None:
        flush_file(Path(shutil.copy2(trial_file, folder / trial_file.name)))
    flush_folder(folder)
    flush_folder(folder.parent)
    if weights is not None:
        from trialrun.controller.checkpoints.export import copy_weights  # which imports torch

        copy_weights(weights.folder, weights_folder(experiment))
    return experiment, trial


def resumable_trial(
    database: Database,
    experiment_id: int,
    num_processes: int | None,
    max_restarts: int | None = None,
) -> tuple[TrialRow, ExperimentConfig]:
    """Returns the trial of an experiment that a new attempt can go on with, and its configuration.

    Args:
        database: Where it is recorded.
        experiment_id: Which experiment.
        num_processes: P, where one is asked for.
        max_restarts: How often it may fail from now on, where that is to be recorded.

    Raises:
        BookkeepingError: There is no such experiment.
        ConfigurationError: P does not divide the slots, or ``max_restarts`` is not allowed.
        RunConflictError: It runs already, or is complete.
    """
    experiment, trial = trial_of_experiment(database, experiment_id)
    _require_resumable(experiment, trial)
    config = read_config(experiment.config)
    if num_processes is not None and (num_processes < 1 or config.slots % num_processes):
        raise ConfigurationError(not_divisible(config.slots, num_processes))
    if max_restarts is not None:
        config = read_config({**experiment.config, "max_restarts": max_restarts})
        change_config(database, experiment.id, config.to_json())
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
    with locked_trial(database, trial_id) as locked:
        experiment, trial = locked.experiment, locked.trial
        _require_resumable(experiment, trial)
        checkpoint, warnings = newest_whole_checkpoint(database, trial)
        warnings += source_warnings(experiment)
        with claimed_attempt(
            database,
            locked,
            num_processes=num_processes,
            first_batch=checkpoint.batches if checkpoint else 0,
            resumed_from=checkpoint.uuid if checkpoint else None,
        ) as attempt:
            yield PreparedAttempt(
                experiment=experiment,
                trial=trial,
                attempt=attempt,
                config=read_config(experiment.config).model_copy(
                    update={"hyperparameters": trial.hyperparameters}
                ),
                folder=locked.folder,
                lock=locked.lock,
                checkpoint=checkpoint,
                warnings=warnings,
            )


def replaced_attempt(
    database: Database, prepared: PreparedAttempt, failure: Failure
) -> PreparedAttempt | None:
    """Ends an attempt that has failed and begins the next one from the newest whole checkpoint.

    The caller holds the trial's lock, and none of the attempt's processes lives.

    Args:
        database: Where they are recorded.
        prepared: The attempt that has failed.
        failure: Why.

    Returns:
        The next attempt; None, and nothing is changed, where the trial was asked to stop.
    """
    experiment, trial = prepared.experiment, prepared.trial
    clear_leftovers(database, experiment, trial)
    checkpoint, warnings = newest_whole_checkpoint(database, trial)
    first_batch = checkpoint.batches if checkpoint else 0
    attempt = replace_attempt(
        database,
        prepared.attempt,
        RunState.ERROR,
        error=failure.message,
        error_traceback=failure.traceback,
        first_batch=first_batch,
        resumed_from=checkpoint.uuid if checkpoint else None,
    )
    if attempt is None:
        return None
    rewind(database, trial.id, first_batch)
    prepared.folder.attempt(attempt.number).mkdir(parents=True, exist_ok=True)
    return dataclasses.replace(prepared, attempt=attempt, checkpoint=checkpoint, warnings=warnings)


def source_warnings(experiment: ExperimentRow) -> list[str]:
    """Returns what to warn of where the user's file is no longer what was recorded."""
    path = Path(experiment.trial_file)
    if path.is_file() and hash_source(path) != experiment.trial_source_hash:
        return [
            f"{path} has changed since experiment {experiment.id} was submitted: results may "
            f"differ from an uninterrupted run. The submitted text is in {experiment.directory}."
        ]
    return []


def _require_resumable(experiment: ExperimentRow, trial: TrialRow) -> None:
    if trial.state is RunState.RUNNING:
        raise RunConflictError(runs_already(experiment))
    if trial.state is RunState.COMPLETED:
        raise RunConflictError(
            f"Experiment {experiment.id} is complete, after "
            f"{count(trial.batches_completed, 'batch')}: there is nothing to resume. To train "
            f"longer, {how_to_train_longer(experiment)}."
        )
    if is_of_script(experiment):
        raise RunConflictError(
            f"Experiment {experiment.id} was trained by a script of yours, which alone can make "
            f"its trial. To go on, {how_to_go_on(experiment)}."
        )


def hash_source(path: Path) -> str:
    """Returns the hash of a trial file's text, as it is recorded."""
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
