"""Notices that an attempt hangs, and has its processes write down where they stand."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trialrun.controller.launch.heartbeats import Heartbeats

STACKS_SIGNAL = signal.SIGUSR2
"""Makes a training process write the stacks of its threads to its log; it goes on then."""

_LONGEST_LOOK_SECONDS = 2.0
_STACKS_SECONDS = 5.0
_QUIET_SECONDS = 0.3


class HangWatch:
    """Adds up the time in which no process of an attempt beats.

    It begins with the first beat: while a trial is set up it may download or prepare its data, and
    nobody can tell that from hanging.

    Args:
        heartbeats: Of the processes.
        timeout_seconds: How long nothing may go on; None: for ever.
        clock: In seconds.
    """

    def __init__(
        self,
        heartbeats: Heartbeats,
        timeout_seconds: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._heartbeats = heartbeats
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._looked_at = clock()
        self._beats = 0
        self._idle_seconds = 0.0

    def look(self) -> bool:
        """Returns whether the attempt hangs; it is called often."""
        elapsed = self._clock() - self._looked_at
        self._looked_at += elapsed
        beats = self._heartbeats.total
        if beats != self._beats:
            self._beats, self._idle_seconds = beats, 0.0
        elif beats:
            # After Ctrl-Z the supervisor has not looked for long, and the others have stood still.
            self._idle_seconds += min(elapsed, _LONGEST_LOOK_SECONDS)
        return self._timeout_seconds is not None and self._idle_seconds > self._timeout_seconds


def tell_stacks() -> None:
    """Lets this process write its stacks to stderr: at ``STACKS_SIGNAL``, and when it crashes.

    The handler is C code that needs neither the interpreter's lock nor its main thread.
    """
    stderr = sys.stderr.fileno()
    faulthandler.enable(file=stderr)
    faulthandler.register(STACKS_SIGNAL, file=stderr)


def write_stacks(pids: Sequence[int], logs: Sequence[Path]) -> None:
    """Has processes write the stacks of all their threads, and waits until they have.

    Args:
        pids: The processes, which have called ``tell_stacks``.
        logs: Where each writes.
    """
    before = _sizes(logs)
    asked = [index for index, pid in enumerate(pids) if _ask_for_stacks(pid)]
    deadline = time.monotonic() + _STACKS_SECONDS
    last: list[int] = []
    now = before
    # One that is stopped, or waits for a broken device, cannot write.
    while time.monotonic() < deadline:
        if now == last and all(now[index] > before[index] for index in asked):
            return
        time.sleep(_QUIET_SECONDS)
        last, now = now, _sizes(logs)


def _ask_for_stacks(pid: int) -> bool:
    """Returns whether the process still lives."""
    try:
        os.kill(pid, STACKS_SIGNAL)
    except ProcessLookupError:
        return False
    return True


def _sizes(logs: Sequence[Path]) -> list[int]:
    return [path.stat().st_size if path.exists() else 0 for path in logs]
