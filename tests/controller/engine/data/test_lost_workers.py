"""A lost loader worker is told of where a batch is asked for, whenever it was lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from trialrun.controller.engine.data.lost_workers import defer_lost_workers, next_batch

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


def test_a_lost_worker_is_told_of_where_a_batch_is_asked_for(
    batches: Iterator[torch.Tensor],
) -> None:
    _kill(_worker(batches))
    time.sleep(0.05)  # torch's own handler would raise here
    with pytest.raises(RuntimeError, match=LOST):
        next_batch(batches)


def test_one_that_is_lost_while_its_batch_is_awaited_is_told_of(
    batches: Iterator[torch.Tensor],
) -> None:
    killer = threading.Timer(0.1, os.kill, [_worker(batches), signal.SIGKILL])
    killer.start()
    with pytest.raises(RuntimeError, match=LOST):
        next_batch(batches)
    killer.join()


class HandedOverByTheDead(Iterator[int]):
    """What a torch iterator does when a worker dies as it hands over the memory of a batch."""

    def __init__(self, worker: BaseProcess) -> None:
        self._workers = [worker]

    def __next__(self) -> int:
        raise ConnectionResetError(104, "Connection reset by peer")


def test_one_that_dies_while_it_hands_a_batch_over_is_told_of() -> None:
    worker = multiprocessing.get_context("fork").Process(target=os._exit, args=(1,))
    worker.start()
    with pytest.raises(RuntimeError, match=rf"worker \(pid {worker.pid}\) exited unexpectedly"):
        next_batch(HandedOverByTheDead(worker))
    worker.join()


def test_an_error_of_the_dataset_is_no_loss() -> None:
    def fail() -> Iterator[int]:
        yield 1
        raise FileNotFoundError(2, "records.bin")

    records = fail()
    assert next_batch(records) == 1
    with pytest.raises(FileNotFoundError, match="records.bin"):
        next_batch(records)


@pytest.mark.parametrize("workers", [4, [threading.current_thread()]])
def test_an_error_of_a_loader_with_other_workers_is_its_own(workers: object) -> None:
    class Unreadable(Iterator[int]):
        _workers = workers

        def __next__(self) -> int:
            raise FileNotFoundError(2, "records.bin")

    with pytest.raises(FileNotFoundError, match="records.bin"):
        next_batch(Unreadable())


def test_handlers_of_others_stay() -> None:
    def own(*_: object) -> None:
        raise AssertionError("no child has ended")

    signal.signal(signal.SIGCHLD, own)
    defer_lost_workers()
    assert signal.getsignal(signal.SIGCHLD) is own


def test_torchs_handler_goes_where_a_loader_has_set_it_before(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SET_BEFORE, encoding="utf-8")
    subprocess.run([sys.executable, str(script)], check=True)


SET_BEFORE = """
import signal
from torch.utils.data._utils.signal_handling import _set_SIGCHLD_handler
from trialrun.controller.engine.data.lost_workers import defer_lost_workers

_set_SIGCHLD_handler()
assert callable(signal.getsignal(signal.SIGCHLD))
defer_lost_workers()
assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
"""


def test_on_another_thread_signals_are_left_alone() -> None:
    thread = threading.Thread(target=defer_lost_workers)
    before = signal.getsignal(signal.SIGCHLD)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGCHLD) is before
