"""Sums that begin during backward against sums at the step, where processes share no memory.

    python benchmarks/early_sums.py

Two processes compute the gradients of an MLP and sum them over gloo. A time is that of the slowest
process for one batch: forward, backward, sum. On a machine whose cores all compute there is little
to win, as gloo's threads need them too; what this shows there is that nothing is lost.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from _measure import interleave
from torch import nn

from trialrun.controller.engine.parallel.collectives import ProcessGroup
from trialrun.controller.engine.parallel.slots import SingleSlot
from trialrun.controller.engine.steps.early_sums import EarlySums
from trialrun.controller.engine.steps.gradients import GradientSum

SIZE = 2
LAYERS, WIDTH, RECORDS = 8, 1024, 256
ROUNDS = 21


class Learner:
    """One process's slot.

    Args:
        group: The processes.
        begins_early: Whether sums begin during backward.
    """

    def __init__(self, group: ProcessGroup, *, begins_early: bool) -> None:
        assert group.early is not None
        torch.manual_seed(1)
        self._model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
        self._parameters = list(self._model.parameters())
        self._slot = group.rank
        slots = SingleSlot(range(self._slot, self._slot + 1))
        self._early = EarlySums(group.early, slots, lambda: None) if begins_early else None
        self._sum = GradientSum({}, num_slots=SIZE, collectives=group, early=self._early)
        self._records = torch.randn(RECORDS, WIDTH)

    def batch(self) -> None:
        """Computes the gradients of one batch and sums them."""
        loss = self._model(self._records).square().mean()
        if self._early is None:
            loss.backward()
        else:
            with self._early.backward():
                loss.backward()
        self._sum.deposit(self._slot, self._parameters)
        self._sum.assign(SIZE)
        if self._early is not None:
            self._early.end_batch()
        for parameter in self._parameters:
            parameter.grad = None


def timed(act: Callable[[], None]) -> Callable[[], float]:
    def run() -> float:
        dist.barrier()
        started = time.perf_counter()
        act()
        seconds = torch.tensor(time.perf_counter() - started)
        dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
        return seconds.item()

    return run


def work(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, SIZE), rank=rank, world_size=SIZE)
    group = ProcessGroup(torch.device("cpu"), shares_memory=False)
    contestants = {
        "during backward": timed(Learner(group, begins_early=True).batch),
        "at the step": timed(Learner(group, begins_early=False).batch),
    }
    times = interleave(contestants, ROUNDS)
    if rank == 0:
        medians = {name: statistics.median(seconds) for name, seconds in times.items()}
        for name, seconds in medians.items():
            print(f"{name:>16}  {seconds * 1e3:8.1f} ms")
        print(f"ratio of medians: {medians['during backward'] / medians['at the step']:.2f}")
    dist.barrier()
    group.close()
    dist.destroy_process_group()


def main() -> None:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        processes = [context.Process(target=work, args=(rank, store)) for rank in range(SIZE)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit("A process failed; its traceback is above.")


if __name__ == "__main__":
    main()
