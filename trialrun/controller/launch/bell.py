"""The supervisor's line to its training processes: it rings for a stop, or goes dead."""

from __future__ import annotations

import os
import threading
from typing import Any


class Bell:
    """The end that rings; it lives in the supervisor alone."""

    def __init__(self) -> None:
        read_end, write_end = os.pipe()
        self._write_end: int | None = write_end
        self._lock = threading.Lock()
        self.listener = BellListener(read_end)

    def ring(self) -> None:
        """Asks for a stop. One process hears it, which suffices: they agree."""
        with self._lock:
            if self._write_end is not None:
                os.write(self._write_end, b"!")

    def hang_up(self) -> None:
        """Goes dead, as it would with the supervisor: all processes hear that, and end."""
        with self._lock:
            if self._write_end is not None:
                os.close(self._write_end)
                self._write_end = None

    def close(self) -> None:
        """Takes the line down, when no training process listens any more."""
        self.hang_up()
        self.listener.close()


class BellListener:
    """The end that listens; passing it to a child process shares it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def wait(self) -> bool:
        """Waits until the bell rings (True), or has gone dead (False)."""
        return bool(os.read(self._descriptor, 1))

    def close(self) -> None:
        """Closes this process's share of the line."""
        os.close(self._descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        from multiprocessing import reduction

        return _receive, (reduction.DupFd(self._descriptor),)


def _receive(duplicate: Any) -> BellListener:
    return BellListener(duplicate.detach())
