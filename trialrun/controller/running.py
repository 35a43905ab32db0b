"""Runs a recorded trial in processes of its own, over its restarts, to its next end."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from trialrun._errors import BookkeepingError
from trialrun._units import Time
from trialrun.controller.bookkeeping import (
    Database,
    RunState,
    add_log_file,
    finish_attempt,
    request_stop,
)
from trialrun.controller.config import ExperimentConfig
from trialrun.controller.engine.session import TrialSpec
from trialrun.controller.experiments import PreparedAttempt, replaced_attempt
from trialrun.controller.launch.bell import Bell, BellListener
from trialrun.controller.launch.child import log_file
from trialrun.controller.launch.failures import Failure
from trialrun.controller.launch.heartbeats import Heartbeats
from trialrun.controller.launch.recording import Recording
from trialrun.controller.launch.server import start_server
from trialrun.controller.launch.supervisor import (
    AttemptEnd,
    AttemptResult,
    Interruptions,
    supervise,
)
from trialrun.controller.launch.worker import Assignment
from trialrun.controller.liveness import order_arrays_folder
from trialrun.controller.restarts import Refusal, Restart, RestartPolicy
from trialrun.controller.trial_source import trial_file_of, working_directory_of
from trialrun.controller.warm_start import weights_folder

logger = logging.getLogger(__name__)

_STOPPING = "It was asked to stop, so it is not restarted."
_STATES = {
    AttemptEnd.COMPLETED: RunState.COMPLETED,
    AttemptEnd.PAUSED: RunState.PAUSED,
    AttemptEnd.FAILED: RunState.ERROR,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restarted:
    """A new attempt that takes the place of one that has failed.

    Args:
        failure: What has ended the last one.
        restart: Which restart it is.
        prepared: The new attempt.
    """

    failure: Failure
    restart: Restart
    prepared: PreparedAttempt


def run_trial(
    database: Database,
    prepared: PreparedAttempt,
    *,
    on_tick: Callable[[], None],
    on_kill: Callable[[], None],
    on_restart: Callable[[Restarted], None],
) -> AttemptResult:
    """Runs a prepared attempt, and others in its place where it fails; records how each ended.

    Args:
        database: Where they are recorded.
        prepared: The first attempt.
        on_tick: Called again and again meanwhile, to show what happens.
        on_kill: Called when the user wants it to end at once, after that was recorded; it ends this
            process.
        on_restart: Called between two attempts, to show that.

    Returns:
        How the last attempt ended.
    """
    policy = RestartPolicy(prepared.config.max_restarts)
    run = _Run(database, prepared, policy, on_restart)
    return run.watched(on_tick, on_kill)


def run_attempt(
    database: Database,
    prepared: PreparedAttempt,
    on_tick: Callable[[], None],
    on_kill: Callable[[], None],
    spec: TrialSpec | None = None,
) -> AttemptResult:
    """Runs a prepared attempt, without another in its place, and records how it ended.

    Args:
        database: Where it is recorded.
        prepared: The attempt.
        on_tick: Called again and again meanwhile, to show what happens.
        on_kill: Called when the user wants it to end at once, after that was recorded; it ends this
            process.
        spec: What every process must know; default: ``trial_spec`` of it.
    """
    run = _Run(database, prepared, RestartPolicy(0), lambda restarted: None, spec)
    return run.watched(on_tick, on_kill)


class _Run:
    def __init__(
        self,
        database: Database,
        prepared: PreparedAttempt,
        policy: RestartPolicy,
        on_restart: Callable[[Restarted], None],
        spec: TrialSpec | None = None,
    ) -> None:
        self._database = database
        self._prepared = prepared
        self._policy = policy
        self._on_restart = on_restart
        self._spec = spec
        self._bell = Bell()
        # Which attempt and bell are the present ones; signals are heard on another thread.
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()

    def watched(self, on_tick: Callable[[], None], on_kill: Callable[[], None]) -> AttemptResult:
        """Runs to the end, and hears signals meanwhile."""
        interruptions = Interruptions(
            on_stop=self.stop, on_kill=lambda: self.kill(on_kill), on_tick=on_tick
        )
        # Over all attempts: between two of them, too, a signal is a wish and not an end.
        with interruptions.watched():
            return self._to_its_end()

    def _to_its_end(self) -> AttemptResult:
        try:
            while True:
                result = self._run_attempt()
                restart = self._restart_after(result)
                if not isinstance(restart, Restart):
                    return self._finish(result, restart.remark)
                assert result.failure is not None
                following = replaced_attempt(self._database, self._prepared, result.failure)
                if following is None:
                    return self._finish(result, _STOPPING)
                self._go_on_with(following)
                self._show(Restarted(failure=result.failure, restart=restart, prepared=following))
                self._is_stopping.wait(restart.delay_seconds)
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
            finish_attempt(self._database, self._prepared.attempt.id, RunState.ERROR, error=message)
            raise

    def stop(self) -> None:
        """Asks for a stop at the next boundary."""
        with self._lock:
            self._is_stopping.set()
            self._ask_to_stop()

    def kill(self, on_kill: Callable[[], None]) -> None:
        """Records that the user wants an end at once."""
        attempt = self._prepared.attempt
        try:
            error = "Stopped by Ctrl-C, twice."
            finish_attempt(self._database, attempt.id, RunState.KILLED, error=error)
        finally:
            on_kill()

    def _ask_to_stop(self) -> None:
        self._bell.ring()
        try:
            request_stop(self._database, self._prepared.attempt.id)
        except BookkeepingError as error:
            logger.warning("The stop request is not on record, but heard: %s", error)

    def _run_attempt(self) -> AttemptResult:
        prepared = self._prepared
        folder = prepared.folder.attempt(prepared.attempt.number)
        for process in range(prepared.attempt.num_processes):
            path = log_file(folder, process)
            add_log_file(self._database, prepared.attempt.id, process=process, path=path)
        spec = self._spec or trial_spec(prepared)
        assignment = _assignment(self._database, prepared, spec, folder, self._bell.listener)
        timeout = prepared.config.hang_timeout
        seconds = timeout.seconds if isinstance(timeout, Time) else None
        try:
            return supervise(assignment, self._bell, seconds)
        finally:
            self._bell.close()
            assignment.heartbeats.close()

    def _restart_after(self, result: AttemptResult) -> Restart | Refusal:
        if result.failure is None:
            return Refusal()
        first = self._prepared.attempt.first_batch
        made_progress = result.batches is not None and result.batches > first
        decision = self._policy.decide(result.failure, made_progress=made_progress)
        if isinstance(decision, Restart) and self._is_stopping.is_set():
            return Refusal(remark=_STOPPING)
        return decision

    def _go_on_with(self, following: PreparedAttempt) -> None:
        with self._lock:
            self._prepared = following
            self._bell = Bell()
            if self._is_stopping.is_set():
                self._ask_to_stop()
        # The server may be what was lost. If it does not start the new attempt has failed.
        start_server()

    def _show(self, restarted: Restarted) -> None:
        try:
            self._on_restart(restarted)
        except Exception as error:
            # Such as a closed pipe. The run goes on without a display.
            logger.warning("The restart is not shown: %s: %s", type(error).__name__, error)

    def _finish(self, result: AttemptResult, remark: str) -> AttemptResult:
        failure = result.failure
        if failure is not None and remark:
            end = "" if failure.message.endswith((".", "!", "?")) else "."
            message = f"{failure.message}{end} {remark}"
            failure = dataclasses.replace(failure, message=message)
            result = dataclasses.replace(result, failure=failure)
        finish_attempt(
            self._database,
            self._prepared.attempt.id,
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
        working_directory=Path.cwd(),
    )
    bell = Bell()
    assignment = Assignment(
        spec=spec,
        num_processes=num_processes,
        attempt_folder=folder,
        recording=None,
        lock=None,
        bell=bell.listener,
        heartbeats=Heartbeats(num_processes),
    )
    interruptions = Interruptions(on_stop=on_kill, on_kill=on_kill, on_tick=lambda: None)
    try:
        with interruptions.watched():
            return supervise(assignment, bell)
    finally:
        bell.close()
        assignment.heartbeats.close()


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
            "working_directory": experiment.working_directory,
            "git_commit": experiment.git_commit,
            "from_checkpoint": config.from_checkpoint,
        },
        resume_from=Path(prepared.checkpoint.path) if prepared.checkpoint else None,
        tensorboard=prepared.folder.tensorboard,
        warm_start_from=weights_folder(experiment) if config.from_checkpoint else None,
        working_directory=working_directory_of(experiment),
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
        heartbeats=Heartbeats(prepared.attempt.num_processes),
    )
