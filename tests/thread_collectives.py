"""P simulated processes: one thread each, which exchange through shared memory."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from trialrun.controller import plain
from trialrun.controller.engine.parallel.collectives import Collectives, PendingGather
from trialrun.controller.engine.parallel.lines import Lines
from trialrun.controller.engine.parallel.shared_memory import share_memory

T = TypeVar("T")

_TIMEOUT_SECONDS = 30


class _Exchange:
    """Every thread puts in one value and gets all of them, in rank order."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=_TIMEOUT_SECONDS)
        self._values: list[Any] = [None] * size

    def __call__(self, rank: int, value: Any) -> list[Any]:
        self._values[rank] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values

    def wait(self) -> None:
        self._barrier.wait()

    def abort(self) -> None:
        self._barrier.abort()


class _Known(PendingGather):
    def __init__(self, rows: list[list[int]]) -> None:
        self._rows = rows

    def result(self) -> list[list[int]]:
        return self._rows


class ThreadCollectives(Collectives):
    """One of P threads; it counts what it sends to each other one."""

    def __init__(self, rank: int, size: int, exchange: _Exchange) -> None:
        self.rank = rank
        self.size = size
        self.num_exchanges = 0
        self._exchange = exchange

    def gather(self, value: Any, name: str) -> list[Any] | None:
        values = self._exchange(self.rank, plain.encode(value, name))
        return [plain.decode(data) for data in values] if self.is_chief else None

    def broadcast(self, value: Any, name: str) -> Any:
        data = plain.encode(value, name) if self.is_chief else None
        return plain.decode(self._exchange(self.rank, data)[0])

    def broadcast_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        chiefs = self._exchange(self.rank, [tensor.detach().clone() for tensor in tensors])[0]
        for tensor, value in zip(tensors, chiefs, strict=True):
            tensor.detach().copy_(value)

    def start_gather(self, values: Sequence[int]) -> PendingGather:
        return _Known(self._exchange(self.rank, list(values)))

    def all_to_all(
        self, chunks: torch.Tensor, receive_sizes: list[int], send_sizes: list[int]
    ) -> torch.Tensor:
        self.num_exchanges += 1
        stretches = self._exchange(self.rank, chunks.clone().split(send_sizes))
        mine = [sent[self.rank] for sent in stretches]
        assert [stretch.numel() for stretch in mine] == receive_sizes
        return torch.cat(mine)

    def all_gather(self, chunk: torch.Tensor) -> torch.Tensor:
        return torch.cat(self._exchange(self.rank, chunk.clone()))


def run_on_threads(
    size: int,
    task: Callable[[Collectives], T],
    *,
    shares_memory: bool = False,
    sums_early: bool = False,
) -> list[T]:
    """Calls the task on every simulated process and returns the results in rank order.

    Args:
        size: P.
        task: Called with the collectives.
        shares_memory: Whether they sum in memory that each has mapped, as real processes do.
        sums_early: Whether they have a second way for tensors, as where they share no memory.
    """
    exchange, early = _Exchange(size), _Exchange(size)
    name = uuid.uuid4().hex
    results: list[Any] = [None] * size
    failures: list[BaseException] = []

    def work(rank: int) -> None:
        collectives = ThreadCollectives(rank, size, exchange)
        try:
            if shares_memory:
                lines = Lines(rank, size, name, exchange.wait)
                collectives.shared_memory = share_memory(lines, rank=rank, size=size)
                assert collectives.shared_memory is not None
            if sums_early:
                collectives.early = ThreadCollectives(rank, size, early)
            results[rank] = task(collectives)
        except BaseException as error:
            failures.append(error)
            exchange.abort()
            early.abort()
        finally:
            # One that has failed leaves nobody waiting.
            if collectives.shared_memory is not None:
                collectives.shared_memory.close()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results
