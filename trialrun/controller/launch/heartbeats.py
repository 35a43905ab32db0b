"""How far each process of an attempt is, in memory that they share with the supervisor.

    row r of P: [beats, batches]      64-bit integers; process r alone writes its row

A process beats when it has begun to train, and after each batch, validation batch and checkpoint.
The memory has no name and no place on a disk: a full disk does not hurt it.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Any

_ROW = 2
_BYTES = 8


class Heartbeats:
    """The rows of all processes; passing it to a child process shares them.

    Args:
        num_processes: P.
        descriptor: Open memory to share; None: new memory.
    """

    def __init__(self, num_processes: int, descriptor: int | None = None) -> None:
        self._num_processes = num_processes
        self._descriptor = _new_memory() if descriptor is None else descriptor
        size = num_processes * _ROW * _BYTES
        if descriptor is None:
            os.ftruncate(self._descriptor, size)
        self._rows = memoryview(mmap.mmap(self._descriptor, size)).cast("q")

    def beat(self, process: int, batches: int) -> None:
        """Says that a process is alive, and how many batches it has completed.

        It is called for every batch: two assignments, no system call.
        """
        row = process * _ROW
        self._rows[row + 1] = batches
        self._rows[row] += 1

    @property
    def total(self) -> int:
        """Beats of all processes; 0 while they are being set up."""
        return sum(self._rows[::_ROW])

    @property
    def batches(self) -> int | None:
        """Batches that every process which trains has completed; None while they are set up."""
        rows = range(0, self._num_processes * _ROW, _ROW)
        return min((self._rows[row + 1] for row in rows if self._rows[row]), default=None)

    def close(self) -> None:
        """Shares the memory with nobody more, in this process; it can still be read."""
        os.close(self._descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        from multiprocessing import reduction

        return _receive, (self._num_processes, reduction.DupFd(self._descriptor))


def _receive(num_processes: int, duplicate: Any) -> Heartbeats:
    descriptor = duplicate.detach()
    # A program that the trial starts has no use for it.
    os.set_inheritable(descriptor, False)
    return Heartbeats(num_processes, descriptor)


def _new_memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("trialrun-heartbeats")
    with tempfile.TemporaryFile() as file:  # where there is no such thing, as on macOS
        return os.dup(file.fileno())
