"""Memory that processes share: what they exchange in it, and what happens without it or a peer."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from process_launch import Launcher
from thread_collectives import run_on_threads

from trialrun.controller.engine.parallel import shared_memory
from trialrun.controller.engine.parallel.bucket_collectives import exchange_for
from trialrun.controller.engine.parallel.buckets import Bucket, WithinProcess, cut
from trialrun.controller.engine.parallel.collectives import (
    Collectives,
    ProcessGroup,
    SingleProcess,
)
from trialrun.controller.engine.parallel.lines import Lines, PeerLostError
from trialrun.controller.engine.parallel.shared_memory import share_memory


class Listed(Bucket):
    """Brings rows of numbers, and keeps what it gets."""

    def __init__(self, rows: Sequence[Sequence[float]], num_rows: int) -> None:
        super().__init__(len(rows[0]))
        self._rows = rows
        self._num_rows = num_rows
        self.chunk: list[float] | None = None
        self.total: list[float] | None = None

    def pack(self, rows: Sequence[torch.Tensor]) -> None:
        for row, values in zip(rows, self._rows, strict=True):
            row.copy_(torch.tensor(values))

    def add(self, rows: Sequence[torch.Tensor], total: torch.Tensor) -> None:
        assert len(rows) == self._num_rows
        # Not a sum: it shows which row stands where.
        weighted = [row * 100.0**place for place, row in enumerate(rows)]
        total.copy_(torch.stack(weighted).sum(0))
        self.chunk = total.tolist()

    def unpack(self, total: torch.Tensor) -> None:
        self.total = total.tolist()


def exchanged(process: Collectives, lengths: Sequence[int], unpacks: bool = True) -> list[Any]:
    """Rank r brings r + 1 rows to every bucket; returns what each bucket got."""
    num_rows = [rank + 1 for rank in range(process.size)]
    first = sum(num_rows[: process.rank])
    buckets = [
        Listed(
            [[float(number + first + row + 1)] * length for row in range(process.rank + 1)],
            sum(num_rows),
        )
        for number, length in enumerate(lengths)
    ]
    exchange = exchange_for(process, torch.device("cpu"))
    assert max(lengths, default=0) <= exchange.largest(process.size, torch.float64)
    like = torch.zeros(0, dtype=torch.float64)
    exchange.run(buckets, num_rows=num_rows, like=like, unpacks=unpacks)
    return [bucket.total if unpacks else bucket.chunk for bucket in buckets]


LENGTHS = [5, 1, 8, 3, 2, 7, 4]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("shares_memory", [False, True])
def test_buckets_are_added_by_rows_in_order_of_rank_and_reach_everybody(
    size: int, shares_memory: bool
) -> None:
    count = size * (size + 1) // 2
    wanted = [
        [sum((number + row + 1) * 100.0**row for row in range(count))] * length
        for number, length in enumerate(LENGTHS)
    ]

    def work(process: Collectives) -> None:
        # Each run goes on in the memory where the one before has ended.
        for stop in (7, 1, 0, 2, 3, 5, 7):
            assert exchanged(process, LENGTHS[:stop]) == wanted[:stop]
        chunks = exchanged(process, LENGTHS, unpacks=False)
        for number, (chunk, length) in enumerate(zip(chunks, LENGTHS, strict=True)):
            assert len(chunk) <= -(-length // process.size)
            found = [value for value in chunk if value]  # without what fills it up
            assert found == wanted[number][: len(found)]
        assert exchanged(process, LENGTHS) == wanted

    if size == 1:
        work(SingleProcess())
    else:
        run_on_threads(size, work, shares_memory=shares_memory)


def test_a_process_that_is_late_reads_what_was_meant_for_it() -> None:
    turn = threading.Event()

    def work(process: Collectives) -> None:
        for number in range(40):
            value = exchanged(process, [3] * (1 + number % 4))[-1]
            assert value == [sum((number % 4 + r + 1) * 100.0**r for r in range(3))] * 3
            if process.rank == number % 2:
                turn.wait(0.001)  # never set: now one, now the other falls behind

    run_on_threads(2, work, shares_memory=True)


@pytest.mark.parametrize(("length", "ranges"), [(10, [(0, 4), (4, 8), (8, 10)]), (0, [])])
def test_a_length_is_cut_into_ranges(length: int, ranges: list[tuple[int, int]]) -> None:
    assert list(cut(length, 4)) == ranges


def no_memory(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def not_allowed(*_: Any) -> int:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def no_mapping(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


def shared_on_threads(size: int, share: Callable[[Lines, int], Any]) -> list[Any]:
    name = uuid.uuid4().hex

    def work(process: Any) -> Any:
        lines = Lines(process.rank, size, name, process._exchange.wait)
        try:
            return share(lines, process.rank)
        finally:
            process._exchange.wait()
            lines.close()

    return run_on_threads(size, work)


@pytest.mark.parametrize(
    ("place", "failure"),
    [
        ("os.memfd_create", not_allowed),
        ("os.posix_fallocate", no_memory),
        ("mmap.mmap", no_mapping),
    ],
)
def test_where_memory_cannot_be_shared_every_process_is_told(
    place: str, failure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"trialrun.controller.engine.parallel.shared_memory.{place}", failure)
    before = set(os.listdir("/proc/self/fd"))
    found = shared_on_threads(3, lambda lines, rank: share_memory(lines, rank=rank, size=3))
    assert found == [None] * 3
    assert len(set(os.listdir("/proc/self/fd")) - before) == 0


def test_where_one_process_alone_cannot_map_it_nobody_uses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mapping, failing = shared_memory.mmap.mmap, threading.local()

    def mmap(*arguments: Any) -> Any:
        return no_mapping() if getattr(failing, "here", False) else mapping(*arguments)

    def share(lines: Lines, rank: int) -> Any:
        failing.here = rank == 1
        return share_memory(lines, rank=rank, size=3)

    monkeypatch.setattr(shared_memory.mmap, "mmap", mmap)
    assert shared_on_threads(3, share) == [None] * 3


def test_the_system_may_not_offer_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    found = shared_on_threads(2, lambda lines, rank: share_memory(lines, rank=rank, size=2))
    assert found == [None, None]


def test_the_exchange_is_chosen_by_what_processes_and_devices_share() -> None:
    def kinds(process: Collectives) -> list[str]:
        devices = (torch.device("cpu"), torch.device("cuda"))
        return [type(exchange_for(process, device)).__name__ for device in devices]

    assert kinds(SingleProcess()) == ["WithinProcess"] * 2
    assert run_on_threads(2, kinds)[1] == ["ThroughCollectives"] * 2
    assert run_on_threads(2, kinds, shares_memory=True)[1] == ["SharedMemory", "ThroughCollectives"]
    assert WithinProcess().largest(1, torch.float32) == 2 * WithinProcess().largest(
        1, torch.float64
    )


def test_within_a_process_buckets_are_larger_on_a_gpu() -> None:
    cpu, cuda = (
        exchange_for(SingleProcess(), torch.device(name)).largest(1, torch.float32)
        for name in ("cpu", "cuda")
    )
    assert (cpu, cuda) == (2**17, 2**23)


class WithinRealProcesses:
    """Sums with and without the memory; returns both, and the files that it has in it."""

    def __call__(self, collectives: Collectives) -> Any:
        assert isinstance(collectives, ProcessGroup)
        assert collectives.shared_memory is not None
        shared = exchanged(collectives, LENGTHS)
        files = [name for name in os.listdir("/dev/shm") if "trialrun" in name]
        collectives.shared_memory = None
        return shared, exchanged(collectives, LENGTHS), files


def test_real_processes_share_memory_that_no_file_system_names(launcher: Launcher) -> None:
    results = launcher.launch(3, [WithinRealProcesses()])
    wanted = [
        [sum((number + row + 1) * 100.0**row for row in range(6))] * length
        for number, length in enumerate(LENGTHS)
    ]
    assert [result[0] for result in results] == [(wanted, wanted, [])] * 3


def _dies_in_a_sum(rank: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "store"), 3)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=3)
    collectives = ProcessGroup(torch.device("cpu"))
    exchanged(collectives, LENGTHS)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        exchanged(collectives, LENGTHS)
    except PeerLostError as error:
        (folder / f"lost-{rank}").write_text(str(error))
    os._exit(0)


def test_a_process_that_is_killed_leaves_nobody_waiting(launcher: Launcher, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=_dies_in_a_sum, args=(rank, tmp_path)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0, -signal.SIGKILL, 0]
    for rank in (0, 2):
        # The first of both to notice goes away too, and may be noticed by the other.
        text = (tmp_path / f"lost-{rank}").read_text()
        assert text.startswith("The connection to another process was lost: "), text
