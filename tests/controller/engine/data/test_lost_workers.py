"""A lost loader worker is told of where a batch is asked for, whenever it was lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from trialrun.controller.engine.data.lost_workers import defer_lost_workers, lost_workers_raise

LOST = r"DataLoader worker \(pid(\(s\))? \d+\) (is killed by signal: Killed|exited unexpectedly)"


class Slow(Dataset[int]):
    """Its first record comes at once, the others never."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index > 0:
            time.sleep(600)
        return index


@pytest.fixture
def batches() -> Iterator[Iterator[torch.Tensor]]:
    defer_lost_workers()
    loader = DataLoader(Slow(), batch_size=1, num_workers=1, multiprocessing_context="fork")
    iterator = iter(loader)
    assert next(iterator).item() == 0
    yield iterator
    iterator._workers[0].kill()  # type: ignore[attr-defined]  # one that sleeps would be waited for


def _worker(batches: Iterator[torch.Tensor]) -> int:
    return batches._workers[0].pid  # type: ignore[attr-defined, no-any-return]


def _kill(worker: int) -> None:
    """Returns when this process was sent the signal that tells of it."""
    os.kill(worker, signal.SIGKILL)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)


def test_a_lost_worker_raises_where_a_batch_is_asked_for(batches: Iterator[torch.Tensor]) -> None:
    _kill(_worker(batches))
    time.sleep(0.05)  # torch's own handler would raise here
    with pytest.raises(RuntimeError, match=LOST), lost_workers_raise():
        next(batches)


def test_it_raises_while_a_batch_is_awaited(batches: Iterator[torch.Tensor]) -> None:
    killer = threading.Timer(0.1, os.kill, [_worker(batches), signal.SIGKILL])
    killer.start()
    with pytest.raises(RuntimeError, match=LOST), lost_workers_raise():
        next(batches)
    killer.join()


def test_it_raises_once(batches: Iterator[torch.Tensor]) -> None:
    _kill(_worker(batches))
    with pytest.raises(RuntimeError, match=LOST), lost_workers_raise():
        next(batches)
    with lost_workers_raise():
        pass


def test_on_another_thread_signals_are_left_alone() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    thread = threading.Thread(target=defer_lost_workers)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
