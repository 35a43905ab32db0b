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
from types import FrameType

from trialrun.controller.launch.bell import Bell
from trialrun.controller.launch.failures import Failure
from trialrun.controller.launch.processes import run_processes
from trialrun.controller.launch.worker import Assignment, train_process

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
    outcomes = run_processes(
        train_process,
        assignment,
        num_processes=assignment.num_processes,
        folder=assignment.attempt_folder,
        bell=bell,
        heartbeats=assignment.heartbeats,
        hang_timeout_seconds=hang_timeout_seconds,
    )
    if isinstance(outcomes, Failure):
        batches = assignment.heartbeats.batches
        return AttemptResult(end=AttemptEnd.FAILED, failure=outcomes, batches=batches)
    return AttemptResult(end=AttemptEnd[outcomes[0]])
