"""Tells of lost loader workers where a batch is asked for, and nowhere else.

Torch's handler of SIGCHLD raises wherever the process is. Where that is a hook of a fork, as when
the next pass starts its workers, the exception is dropped and the hook cut short: the lock that
``logging`` takes for the fork is never released, and every thread that logs waits for ever.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from torch._C import _error_if_any_worker_fails
from torch.utils.data._utils import signal_handling

T = TypeVar("T")

_LAST_BREATH_SECONDS = 1.0


def defer_lost_workers() -> None:
    """Takes torch's handler of SIGCHLD away: lost workers are told of by ``next_batch`` alone.

    A loader that is gone through elsewhere finds the loss by itself, within 5 seconds. On another
    thread than the main one this does nothing, as torch does not either.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGCHLD)
    # It is set once in a process, with the first loader that has workers; so from here on never.
    signal_handling._set_SIGCHLD_handler()
    is_torchs = getattr(before, "__module__", None) == signal_handling.__name__
    signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None or is_torchs else before)


def next_batch(batches: Iterator[T]) -> T:
    """Returns a loader's next batch.

    Args:
        batches: The loader's iterator, torch's or any other.

    Raises:
        StopIteration: There is none.
        RuntimeError: A loader worker of this process was lost; it begins with "DataLoader worker"
            and has the process id.
    """
    _error_if_any_worker_fails()
    try:
        return next(batches)
    except (OSError, EOFError) as error:
        # It may have died while it handed a batch over, and is no more when this is looked at.
        workers: dict[Any, BaseProcess] = {each.sentinel: each for each in _workers(batches)}
        for sentinel in connection.wait(list(workers), _LAST_BREATH_SECONDS):
            raise RuntimeError(
                f"DataLoader worker (pid {workers[sentinel].pid}) exited unexpectedly"
            ) from error
        raise


def _workers(batches: Iterator[object]) -> list[BaseProcess]:
    """Returns the processes of torch's iterator; another may call anything its workers."""
    workers = getattr(batches, "_workers", None)
    if not isinstance(workers, list):
        return []
    return [worker for worker in workers if isinstance(worker, BaseProcess)]
