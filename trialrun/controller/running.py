"""Runs a recorded trial in processes of its own, from its newest checkpoint to its next end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from trialrun._errors import BookkeepingError
from trialrun.controller.bookkeeping import (
    Database,
    RunState,
    add_log_file,
    finish_attempt,
    request_stop,
)
from trialrun.controller.config import ExperimentConfig
from trialrun.controller.engine.session import TrialSpec
from trialrun.controller.experiments import PreparedAttempt
from trialrun.controller.launch.bell import Bell, BellListener
from trialrun.controller.launch.child import log_file
from trialrun.controller.launch.recording import Recording
from trialrun.controller.launch.supervisor import (
    AttemptEnd,
    AttemptResult,
    Interruptions,
    supervise,
)
from trialrun.controller.launch.worker import Assignment
from trialrun.controller.liveness import order_arrays_folder
from trialrun.controller.trial_source import trial_file_of
from trialrun.controller.warm_start import weights_folder

logger = logging.getLogger(__name__)

_STATES = {
    AttemptEnd.COMPLETED: RunState.COMPLETED,
    AttemptEnd.PAUSED: RunState.PAUSED,
    AttemptEnd.FAILED: RunState.ERROR,
}


def run_attempt(
    database: Database,
    prepared: PreparedAttempt,
    on_tick: Callable[[], None],
    on_kill: Callable[[], None],
    spec: TrialSpec | None = None,
) -> AttemptResult:
    """Runs a prepared attempt and records how it ended.

    Args:
        database: Where it is recorded.
        prepared: The attempt.
        on_tick: Called again and again meanwhile, to show what happens.
        on_kill: Called when the user wants it to end at once, after that was recorded; it ends this
            process.
        spec: What every process must know; default: ``trial_spec`` of it.
    """
    attempt = prepared.attempt
    folder = prepared.folder.attempt(attempt.number)
    for process in range(attempt.num_processes):
        add_log_file(database, attempt.id, process=process, path=log_file(folder, process))

    bell = Bell()

    def stop() -> None:
        bell.ring()
        try:
            request_stop(database, attempt.id)
        except BookkeepingError as error:
            logger.warning("The stop request is not on record, but heard: %s", error)

    def kill() -> None:
        try:
            finish_attempt(database, attempt.id, RunState.KILLED, error="Stopped by Ctrl-C, twice.")
        finally:
            on_kill()

    interruptions = Interruptions(on_stop=stop, on_kill=kill, on_tick=on_tick)
    assignment = _assignment(
        database, prepared, spec or trial_spec(prepared), folder, bell.listener
    )
    result = supervise(assignment, interruptions, bell)
    bell.close()
    failure = result.failure
    finish_attempt(
        database,
        attempt.id,
        _STATES[result.end],
        error=failure.message if failure else None,
        error_traceback=failure.traceback if failure else None,
    )
    return result


def run_rehearsal(
    *,
    trial_file: Path,
    trial_class: str | None,
    config: ExperimentConfig,
    num_processes: int,
    threads: int,
    folder: Path,
    weights: Path | None,
    on_kill: Callable[[], None],
) -> AttemptResult:
    """Rehearses a trial (``--test-mode``) in processes of its own; records nothing.

    Args:
        trial_file: The user's file.
        trial_class: Which class in it, if it has several.
        config: The configuration.
        num_processes: P.
        threads: Intra-op threads of a slot.
        folder: Where processes leave their output; the caller deletes it.
        weights: The folder of the weights to begin with, if any.
        on_kill: Called at every request to stop: there is nothing to save.
    """
    spec = TrialSpec(
        trial_file=trial_file,
        trial_class=trial_class,
        config=config,
        seed=config.seed,
        intra_op_threads=threads,
        metadata={},
        warm_start_from=weights,
    )
    bell = Bell()
    assignment = Assignment(
        spec=spec,
        num_processes=num_processes,
        attempt_folder=folder,
        recording=None,
        lock=None,
        bell=bell.listener,
    )
    interruptions = Interruptions(on_stop=on_kill, on_kill=on_kill, on_tick=lambda: None)
    result = supervise(assignment, interruptions, bell)
    bell.close()
    return result


def trial_spec(prepared: PreparedAttempt) -> TrialSpec:
    """Returns what every process of a prepared attempt must know.

    Raises:
        InvalidTrialError: The trial's file is gone.
    """
    experiment, trial, config = prepared.experiment, prepared.trial, prepared.config
    trial_file = trial_file_of(experiment)
    return TrialSpec(
        trial_file=trial_file,
        trial_class=experiment.trial_class or None,
        config=config,
        seed=trial.seed,
        intra_op_threads=config.intra_op_threads or 1,
        metadata={
            "experiment": experiment.id,
            "trial": trial.id,
            "hyperparameters": trial.hyperparameters,
            "trial_file": str(trial_file),
            "trial_class": experiment.trial_class or None,
            "git_commit": experiment.git_commit,
            "from_checkpoint": config.from_checkpoint,
        },
        resume_from=Path(prepared.checkpoint.path) if prepared.checkpoint else None,
        tensorboard=prepared.folder.tensorboard,
        warm_start_from=weights_folder(experiment) if config.from_checkpoint else None,
    )


def _assignment(
    database: Database,
    prepared: PreparedAttempt,
    spec: TrialSpec,
    folder: Path,
    bell: BellListener,
) -> Assignment:
    return Assignment(
        spec=spec,
        num_processes=prepared.attempt.num_processes,
        attempt_folder=folder,
        recording=Recording(
            database_url=database.url,
            attempt_id=prepared.attempt.id,
            checkpoints=prepared.folder.checkpoints,
            order_arrays=order_arrays_folder(prepared.experiment),
        ),
        lock=prepared.lock,
        bell=bell,
    )
