"""Tells of lost loader workers where a batch is asked for, and nowhere else.

Torch's handler of SIGCHLD raises wherever the process is. Where that is a hook of a fork, as when
the next pass starts its workers, the exception is dropped and the hook cut short: the lock that
``logging`` takes for the fork is never released, and every thread that logs waits for ever.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from torch._C import _error_if_any_worker_fails
from torch.utils.data._utils.signal_handling import _set_SIGCHLD_handler


class _ChildSignals:
    """This process's SIGCHLD; a signal that comes at a bad time is kept for a good one."""

    def __init__(self) -> None:
        self._handler: Callable[[int, FrameType | None], Any] | None = None
        self._may_raise = False
        self._was_heard = False

    def take(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # torch sets no handler there either
        if signal.getsignal(signal.SIGCHLD) == self._hear:
            return
        # Torch sets its own once in a process, and would do so after this one.
        _set_SIGCHLD_handler()
        handler = signal.getsignal(signal.SIGCHLD)
        self._handler = handler if callable(handler) else None
        signal.signal(signal.SIGCHLD, self._hear)

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        # In this order: a signal between the two lines is told of at once.
        self._may_raise = True
        try:
            if self._was_heard:
                self._tell(signal.SIGCHLD, None)
            yield
        finally:
            self._may_raise = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._may_raise:
            self._tell(number, frame)
        else:
            self._was_heard = True

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._was_heard = False
        # What torch's handler does, too; but somebody may have put another in its place.
        _error_if_any_worker_fails()
        if self._handler is not None:
            self._handler(number, frame)


_SIGNALS = _ChildSignals()


def defer_lost_workers() -> None:
    """Lets a lost loader worker raise only within ``lost_workers_raise``, from now on.

    A loader that is gone through elsewhere finds the loss by itself, within 5 seconds. On another
    thread than the main one it does nothing, like torch.
    """
    _SIGNALS.take()


def lost_workers_raise() -> contextlib.AbstractContextManager[None]:
    """Raises where a loader worker was lost, now or since the last time.

    Raises:
        RuntimeError: Torch's, with the worker's process id.
    """
    return _SIGNALS.raised()
