"""Forks wait until a module is imported that another thread is importing.

A loader worker that is forked meanwhile has the lock of the module, but not the thread that would
release it: it would wait for ever where it needs the same module.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_lock = threading.RLock()
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)


@contextlib.contextmanager
def no_fork() -> Iterator[None]:
    """Lets no other thread fork this process while the block runs."""
    with _lock:
        yield
