"""The supervisor's line to its training processes: it rings for a stop, and goes dead with it."""

from __future__ import annotations

import os
from typing import Any


class Bell:
    """The end that rings; it lives in the supervisor alone."""

    def __init__(self) -> None:
        read_end, self._write_end = os.pipe()
        self.listener = BellListener(read_end)

    def ring(self) -> None:
        """Asks for a stop. One process hears it, which suffices: they agree."""
        os.write(self._write_end, b"!")

    def close(self) -> None:
        """Takes the line down, when no training process listens any more."""
        os.close(self._write_end)
        self.listener.close()


class BellListener:
    """The end that listens; passing it to a child process shares it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def wait(self) -> bool:
        """Waits until the bell rings (True), or the supervisor is gone (False)."""
        return bool(os.read(self._descriptor, 1))

    def close(self) -> None:
        """Closes this process's share of the line."""
        os.close(self._descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        from multiprocessing import reduction

        return _receive, (reduction.DupFd(self._descriptor),)


def _receive(duplicate: Any) -> BellListener:
    return BellListener(duplicate.detach())
