"""The ordered sum of gradients on P processes against torch's all-reduce of the same bytes.

    python benchmarks/reduction.py [--quick] [--dtype bfloat16]

Each process has a model's gradients, as a few large tensors or as many uneven small ones. trialrun
brings them together as its optimizer step does: it takes each slot's ``grad``, adds all of them
along the tree, averages, and sets ``grad``. torch's contestants have less to do: one ``all_reduce``
(gloo) of one tensor that has all elements end to end already; and the same with what a step needs
besides, the other slots of the process added up and the average. Budget: at most 1.2 of the bare
``all_reduce``, for every size. With more slots than processes trialrun adds those of a process
too, which the bare ``all_reduce`` does not.

A time is that of the slowest process, from a barrier on. The last line is the worst ratio.
"""

from __future__ import annotations

import argparse
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
from trialrun.controller.engine.steps.gradients import GradientSum

MEGABYTES = (1, 4, 16, 64, 100, 400)
QUICK_MEGABYTES = (1, 16, 64)
SLOTS_ON_PROCESSES = ((2, 2), (4, 4), (4, 2))
BUDGET = 1.2


def lengths_of(kind: str, num_elements: int) -> list[int]:
    """Returns the elements of each gradient: 3 large ones, or 40 to 20,000 elements each."""
    if kind == "few":
        first, second = num_elements // 2, num_elements // 3
        return [first, second, num_elements - first - second]
    generator = torch.Generator().manual_seed(1)
    lengths: list[int] = []
    left = num_elements
    while left:
        length = min(left, int(torch.randint(40, 20_000, (1,), generator=generator)))
        lengths.append(length)
        left -= length
    return lengths


def elapsed(act: Callable[[], object]) -> float:
    """Returns the seconds that a call takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


class Contestants:
    """All that is timed for one model.

    Args:
        group: The processes.
        num_slots: S.
        lengths: Elements of each gradient.
        dtype: Of the gradients.
    """

    def __init__(
        self, group: ProcessGroup, num_slots: int, lengths: list[int], dtype: torch.dtype
    ) -> None:
        self._num_slots = num_slots
        each = num_slots // group.size
        self._slots = range(group.rank * each, (group.rank + 1) * each)
        self._parameters = [nn.Parameter(torch.zeros(n, dtype=dtype)) for n in lengths]
        self._gradients = [[torch.full((n,), slot + 1.0, dtype=dtype) for n in lengths]
                           for slot in self._slots]  # fmt: skip
        self._flat = [torch.full((sum(lengths),), slot + 1.0, dtype=dtype) for slot in self._slots]
        self._sum = GradientSum({}, num_slots=num_slots, collectives=group)

    def trialrun(self) -> float:
        """Does what step_optimizer does between backward and the optimizer's own step."""
        seconds = 0.0
        for slot, gradients in zip(self._slots, self._gradients, strict=True):
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
            seconds += elapsed(lambda slot=slot: self._sum.deposit(slot, self._parameters))
        return seconds + elapsed(lambda: self._sum.assign(self._num_slots))

    def all_reduce(self) -> float:
        """Sums one vector of each process."""
        return elapsed(lambda: dist.all_reduce(self._flat[-1]))

    def all_reduce_and_average(self) -> float:
        """Sums those of all slots, and averages."""

        def act() -> None:
            total, *others = self._flat
            for other in others:
                total.add_(other)
            dist.all_reduce(total)
            total.div_(self._num_slots)

        return elapsed(act)

    def reset(self) -> None:
        """Sums of sums would overflow in the end."""
        for slot, flat, gradients in zip(self._slots, self._flat, self._gradients, strict=True):
            flat.fill_(slot + 1.0)
            for gradient in gradients:
                gradient.fill_(slot + 1.0)


def measure(group: ProcessGroup, contestants: Contestants, rounds: int) -> dict[str, float]:
    """Returns the median seconds of each contestant."""

    def timed(act: Callable[[], float]) -> Callable[[], float]:
        def run() -> float:
            contestants.reset()
            dist.barrier()
            seconds = torch.tensor(act())
            dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
            return seconds.item()

        return run

    times = interleave(
        {
            "trialrun": timed(contestants.trialrun),
            "all_reduce": timed(contestants.all_reduce),
            "average": timed(contestants.all_reduce_and_average),
        },
        rounds,
    )
    return {name: statistics.median(values) for name, values in times.items()}


def work(rank: int, num_slots: int, size: int, store: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size)
    group = ProcessGroup(torch.device("cpu"))
    dtype = getattr(torch, options.dtype)
    worst = 0.0
    for megabytes in QUICK_MEGABYTES if options.quick else MEGABYTES:
        for kind in ("few", "many"):
            lengths = lengths_of(kind, megabytes * 1_000_000 // dtype.itemsize)
            contestants = Contestants(group, num_slots, lengths, dtype)
            rounds = max(5, options.rounds // (1 + megabytes // 16))
            seconds = measure(group, contestants, rounds)
            bare, average = (
                seconds["trialrun"] / seconds[name] for name in ("all_reduce", "average")
            )
            worst = max(worst, bare)
            if rank == 0:
                print(
                    f"{num_slots} on {size}  {megabytes:>6}  {len(lengths):>7}  "
                    + "  ".join(f"{seconds[name] * 1e3:>12.2f}" for name in seconds)
                    + f"  {bare:>7.2f}  {average:>12.2f}",
                    flush=True,
                )
    if rank == 0:
        Path(f"{store}.worst").write_text(repr(worst), encoding="utf-8")
    dist.barrier()
    group.close()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--rounds", type=int, default=None, help="of the smallest models")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 15 if options.quick else 41
    context = multiprocessing.get_context("spawn")
    print(f"{options.dtype}, median milliseconds of the slowest process; ratios of medians")
    print(
        "S on P      MB  tensors      trialrun    all_reduce   + add, avg    ratio  to the second"
    )
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for num_slots, size in SLOTS_ON_PROCESSES:
            store = str(Path(folder) / f"store-{num_slots}-{size}")
            processes = [
                context.Process(target=work, args=(rank, num_slots, size, store, options))
                for rank in range(size)
            ]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            if any(process.exitcode for process in processes):
                raise SystemExit("A process failed; its traceback is above.")
            worst = max(worst, float(Path(f"{store}.worst").read_text(encoding="utf-8")))
    print(f"worst ratio to torch's bare all_reduce: {worst:.2f} (budget {BUDGET})")


if __name__ == "__main__":
    main()
