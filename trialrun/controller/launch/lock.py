"""A trial is alive exactly as long as the kernel holds its lock.

The supervisor takes an exclusive ``flock`` and hands the same open file to every training process.
The kernel lets go when the last of them has ended, however it ended: no process number can be
mistaken for another's, and nothing needs to be cleaned up.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Any


class TrialLock:
    """An open lock file; use ``take``. Passing it to a child process shares the lock."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path, wait_seconds: float = 0.0) -> TrialLock | None:
        """Takes the lock.

        Args:
            path: The lock file; it is made if missing.
            wait_seconds: How long to try.

        Returns:
            The lock, or None when somebody holds it, or it is another user's.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except PermissionError:
            return None  # another user's: only they can tell whether it is held
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return cls(descriptor)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    return None
                time.sleep(0.02)

    def release(self) -> None:
        """Closes this process's share of the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def keep_from_children(self) -> None:
        """Closes the share of processes forked from here, such as loader workers.

        They may outlive a killed process by seconds, and take no part in the trial's state.
        """
        os.register_at_fork(after_in_child=self.release)

    def __reduce__(self) -> tuple[Any, ...]:
        from multiprocessing import reduction

        return _receive, (reduction.DupFd(self._descriptor),)


def _receive(duplicate: Any) -> TrialLock:
    descriptor = duplicate.detach()
    # A program that the trial starts must not hold the lock after the trial.
    os.set_inheritable(descriptor, False)
    return TrialLock(descriptor)
