"""Runs one attempt: starts its processes, passes on stop requests, and says how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import logging
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from types import FrameType

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from trialrun.controller.launch.failures import Failure, FailureKind, failure_file, first_failure
from trialrun.controller.launch.server import START_METHOD
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
    """How an attempt ended, and why where it failed."""

    end: AttemptEnd
    failure: Failure | None = None


class Interruptions:
    """What a person or the system asks of a running attempt by signals.

    Ctrl-C, SIGTERM or SIGHUP once: stop at the next batch boundary. Ctrl-C twice: stop now.

    Args:
        on_stop: Called once, on the watching thread, at the first request.
        on_kill: Called once, on the watching thread, at the second Ctrl-C; it must not return.
        on_tick: Called again and again while the attempt runs.
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


def supervise(assignment: Assignment, interruptions: Interruptions) -> AttemptResult:
    """Starts the processes of an attempt under torch's elastic agent and waits for their end.

    Args:
        assignment: What every process gets.
        interruptions: What may stop them.
    """
    with interruptions.watched():
        return _launch(assignment)


def _launch(assignment: Assignment) -> AttemptResult:
    # The agent tells of every failure at length; what a user needs is in the failure files.
    logging.getLogger("torch").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=assignment.num_processes,
        run_id=str(uuid.uuid4()),
        role="trialrun",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=_TICK_SECONDS,
        start_method=START_METHOD,
        logs_specs=DefaultLogsSpecs(log_dir=str(assignment.attempt_folder / "agent")),
        # None: the handlers of ``Interruptions`` stay.
        signals_to_handle="",
    )
    try:
        outcomes = elastic_launch(config, train_process)(assignment)
    except ChildFailedError as error:
        return AttemptResult(end=AttemptEnd.FAILED, failure=_explain(assignment, error))
    return AttemptResult(end=AttemptEnd[outcomes[0]])


def _explain(assignment: Assignment, error: ChildFailedError) -> Failure:
    failure = first_failure(assignment.attempt_folder)
    if failure is not None and failure.kind is not FailureKind.PEER_LOST:
        return failure
    # Nobody has failed by itself: a process was killed, and could not say so. The agent tells how
    # the first that it noticed has ended, which may be one that only missed the other.
    codes = {rank: f.exitcode for rank, f in error.failures.items()}
    silent = [
        rank
        for rank in range(assignment.num_processes)
        if not failure_file(assignment.attempt_folder, rank).exists()
    ]
    rank = next((rank for rank in silent if rank in codes), (silent or [0])[0])
    code = codes.get(rank)
    if code is None:
        how = "ended without a word"
    elif code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
    else:
        how = f"ended with code {code}"
    return Failure(
        kind=FailureKind.INTERNAL,
        message=f"Process {rank} {how}. Its output is in {assignment.attempt_folder}.",
        traceback=None,
        process=rank,
    )
