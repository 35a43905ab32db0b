"""What Ctrl-C and a service manager mean to a script that trains."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trialrun.controller.engine.stopping import StopRequest

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ScriptSignals:
    """Holds a signal back until a checkpoint is taken, and hands it on then.

    Ctrl-C, SIGTERM or SIGHUP once: stop at the next batch boundary. Ctrl-C twice: stop now. Signals
    are heard by the main thread alone; in another thread nothing of this happens.

    Args:
        stop_request: What the first signal sets.
    """

    def __init__(self, stop_request: StopRequest) -> None:
        self._stop_request = stop_request
        self._held_back: int | None = None

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Hears signals while the block runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self._hear)
            for number in _SIGNALS
            # Such as SIGHUP under nohup. None: set by other than Python, which cannot set it again.
            if signal.getsignal(number) not in (signal.SIG_IGN, None)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def hand_on(self) -> None:
        """Lets a signal that was held back do what it would have done.

        Raises:
            KeyboardInterrupt: It was Ctrl-C, and the script has no handler of its own.
            SystemExit: It was another, and the script has no handler of its own.
        """
        number = self._held_back
        if number is None:
            return
        if signal.getsignal(number) is signal.SIG_DFL:
            # What the signal itself would do leaves no time for ``with`` blocks to end.
            raise SystemExit(128 + number)
        signal.raise_signal(number)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._held_back is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._held_back is None:
            self._held_back = number
        self._stop_request.set()
