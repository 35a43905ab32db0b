"""Runs one attempt: starts its processes, passes on stop requests, and says how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from trialrun._units import Time
from trialrun.controller.launch.agent import Agent, ExitCodes
from trialrun.controller.launch.bell import Bell
from trialrun.controller.launch.failures import Failure, FailureKind, failure_file, first_failure
from trialrun.controller.launch.hanging import HangWatch, write_stacks
from trialrun.controller.launch.worker import Assignment, log_file, train_process

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.1
_LISTEN_SECONDS = 0.02


class AttemptEnd(enum.Enum):
    """How an attempt ended."""

    COMPLETED = "completed"
    PAUSED = "paused"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttemptResult:
    """How an attempt ended, and why where it failed.

    Args:
        end: How.
        failure: Why, where it failed.
        batches: Batches completed when it failed; None while the trial was set up.
    """

    end: AttemptEnd
    failure: Failure | None = None
    batches: int | None = None


class Interruptions:
    """What a person or the system asks of a running trial by signals.

    Ctrl-C, SIGTERM or SIGHUP once: stop at the next batch boundary. Ctrl-C twice: stop now.

    Args:
        on_stop: Called once, on the watching thread, at the first request.
        on_kill: Called once, on the watching thread, at the second Ctrl-C; it must not return.
        on_tick: Called again and again meanwhile.
    """

    def __init__(
        self,
        on_stop: Callable[[], None],
        on_kill: Callable[[], None],
        on_tick: Callable[[], None],
    ) -> None:
        self._on_stop = on_stop
        self._on_kill = on_kill
        self._on_tick = on_tick
        # Plain flags: a signal may come while this very thread holds an event's lock.
        self._stop = False
        self._kill = False
        self._done = threading.Event()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Hears signals, and ticks, while the block runs on the main thread."""
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._hear) for number in signals}
        # A handler may interrupt a transaction, so it only sets flags; the thread acts on them.
        thread = threading.Thread(target=self._watch, name="attempt-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._stop and number == signal.SIGINT:
            self._kill = True
        self._stop = True

    def _watch(self) -> None:
        stop_passed_on = False
        next_tick = 0.0
        while not self._done.wait(_LISTEN_SECONDS):
            if self._kill:
                self._on_kill()
            if self._stop and not stop_passed_on:
                self._on_stop()
                stop_passed_on = True
            if time.monotonic() >= next_tick:
                self._tick()
                next_tick = time.monotonic() + _TICK_SECONDS
        self._tick()

    def _tick(self) -> None:
        try:
            self._on_tick()
        except Exception as error:
            # Such as a closed pipe. Training and stopping go on without a display.
            self._on_tick = lambda: None
            logger.warning("Nothing more is shown: %s: %s", type(error).__name__, error)


def supervise(
    assignment: Assignment, bell: Bell, hang_timeout_seconds: float | None = None
) -> AttemptResult:
    """Starts the processes of an attempt under torch's elastic agent and waits for their end.

    None of them lives when this returns.

    Args:
        assignment: What every process gets.
        bell: It goes dead when a process is lost, as the others can do nothing without that.
        hang_timeout_seconds: After how long without progress they are ended; None: never.

    Raises:
        TrialrunError: A process does not end, not even when it is killed.
    """
    # The agent tells of every failure at length; what a user needs is in the failure files.
    logging.getLogger("torch").setLevel(logging.CRITICAL)
    folder, heartbeats = assignment.attempt_folder, assignment.heartbeats
    hang: list[Failure] = []
    first_lost: ExitCodes = {}

    def on_loss(exit_codes: ExitCodes) -> None:
        first_lost.update(exit_codes)
        bell.hang_up()
        silent = _silent(assignment, exit_codes)
        if silent and assignment.num_processes > 1 and not hang:
            logger.warning("%s The others are being ended.", _how_it_ended(silent[0], exit_codes))

    def on_hang(pids: list[int]) -> None:
        logs = [log_file(folder, process) for process in range(assignment.num_processes)]
        write_stacks(pids, logs)
        hang.append(_hang(heartbeats.batches, hang_timeout_seconds, folder))

    agent = Agent(
        train_process,
        assignment,
        num_processes=assignment.num_processes,
        log_folder=folder / "agent",
        on_loss=on_loss,
        is_hung=HangWatch(heartbeats, hang_timeout_seconds).look,
        on_hang=on_hang,
    )
    outcomes = agent.run_all()
    if outcomes is None:
        failure = hang[0] if hang else first_cause(assignment, agent.exit_codes, first_lost)
        return AttemptResult(end=AttemptEnd.FAILED, failure=failure, batches=heartbeats.batches)
    return AttemptResult(end=AttemptEnd[outcomes[0]])


def _hang(batches: int | None, timeout_seconds: float | None, folder: Path) -> Failure:
    assert timeout_seconds is not None
    return Failure(
        kind=FailureKind.HUNG,
        message=f"Nothing went on for {Time(timeout_seconds)} (hang_timeout) at batch {batches}. "
        f"Where each slot stood is in {log_file(folder, 0)} and those beside it.",
        traceback=None,
        process=0,
        batches=batches,
    )


def first_cause(assignment: Assignment, exit_codes: ExitCodes, first_lost: ExitCodes) -> Failure:
    """Returns the first cause.

    Args:
        assignment: Where processes have said why they failed.
        exit_codes: Of all processes.
        first_lost: Of those that were found to have ended when nobody had been told to.
    """
    killed = [rank for rank, code in first_lost.items() if code == -signal.SIGKILL]
    failure = first_failure(assignment.attempt_folder)
    # Whatever others say of it: while they join each other, torch has many words for a lost one.
    if not killed and failure is not None and failure.kind is not FailureKind.PEER_LOST:
        return failure
    silent = killed or _silent(assignment, exit_codes)
    if failure is not None and not silent:
        return failure
    # Nobody has failed by itself: a process has ended, and could not say why. It is the first of
    # those: the others have missed it, or were ended for its sake.
    rank = (silent or list(exit_codes))[0]
    how = _how_it_ended(rank, exit_codes)
    return Failure(
        kind=FailureKind.LOST,
        message=f"{how} Its output is in {assignment.attempt_folder}.",
        traceback=None,
        process=rank,
        batches=assignment.heartbeats.batches,
    )


def _silent(assignment: Assignment, exit_codes: ExitCodes) -> list[int]:
    """Returns the processes that have ended without a word."""
    folder = assignment.attempt_folder
    return [rank for rank in exit_codes if not failure_file(folder, rank).exists()]


def _how_it_ended(rank: int, exit_codes: ExitCodes) -> str:
    code = exit_codes[rank]
    if code < 0:
        return f"Process {rank} was killed by {signal.Signals(-code).name}."
    return f"Process {rank} ended with exit code {code} before the trial was complete."
