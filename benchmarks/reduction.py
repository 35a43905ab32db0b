"""The ordered sum of gradients on P processes against torch's all-reduce of the same bytes.

    python benchmarks/reduction.py [--quick] [--dtype bfloat16] [--collectives]

Each process has a model's gradients, as a few large tensors or as many uneven small ones. trialrun
does what its optimizer step does: it takes each slot's ``grad``, adds all of them along the tree,
averages, and sets ``grad``. torch's contestants have one tensor with all elements end to end
already: a bare ``all_reduce`` (gloo), and one with what a step needs besides: the slots of a
process added up before it, and the average after. Budget: at most 1.2 of the latter, always.

A time is that of the slowest process, from a barrier on. With ``--cpu`` it is what all processes
compute, waiting left out: the figure that a busy machine disturbs least. The last line is the worst
ratio.
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


class Contestants:
    """All that is timed for one model.

    Args:
        group: The processes.
        num_slots: S.
        lengths: Elements of each gradient.
        dtype: Of the gradients.
        clock: Tells seconds.
    """

    def __init__(
        self,
        group: ProcessGroup,
        num_slots: int,
        lengths: list[int],
        dtype: torch.dtype,
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
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
            seconds += self._elapsed(lambda slot=slot: self._sum.deposit(slot, self._parameters))
        return seconds + self._elapsed(lambda: self._sum.assign(self._num_slots))

    def all_reduce(self) -> float:
        """Sums one vector of each process."""
        return self._elapsed(lambda: dist.all_reduce(self._flat[-1]))

    def all_reduce_and_average(self) -> float:
        """Sums those of all slots, and averages."""

        def act() -> None:
            total, *others = self._flat
            for other in others:
                total.add_(other)
            dist.all_reduce(total)
            total.div_(self._num_slots)

        return self._elapsed(act)

    def _elapsed(self, act: Callable[[], object]) -> float:
        """Returns the seconds that a call takes."""
        started = self._clock()
        act()
        return self._clock() - started

    def reset(self) -> None:
        """Sums of sums would overflow in the end."""
        for slot, flat, gradients in zip(self._slots, self._flat, self._gradients, strict=True):
            flat.fill_(slot + 1.0)
            for gradient in gradients:
                gradient.fill_(slot + 1.0)


def measure(
    contestants: Contestants, rounds: int, over_processes: dist.ReduceOp.RedOpType
) -> dict[str, float]:
    """Returns the median seconds of each contestant."""

    def timed(act: Callable[[], float]) -> Callable[[], float]:
        def run() -> float:
            contestants.reset()
            dist.barrier()
            seconds = torch.tensor(act())
            dist.all_reduce(seconds, op=over_processes)
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
    group = ProcessGroup(torch.device("cpu"), shares_memory=not options.collectives)
    dtype = getattr(torch, options.dtype)
    worst = 0.0
    for megabytes in QUICK_MEGABYTES if options.quick else MEGABYTES:
        for kind in ("few", "many"):
            lengths = lengths_of(kind, megabytes * 1_000_000 // dtype.itemsize)
            clock = time.process_time if options.cpu else time.perf_counter
            contestants = Contestants(group, num_slots, lengths, dtype, clock)
            rounds = max(5, options.rounds // (1 + megabytes // 16))
            over_processes = dist.ReduceOp.SUM if options.cpu else dist.ReduceOp.MAX
            seconds = measure(contestants, rounds, over_processes)
            bare, average = (
                seconds["trialrun"] / seconds[name] for name in ("all_reduce", "average")
            )
            worst = max(worst, average)
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
    parser.add_argument("--cpu", action="store_true", help="processor time of all processes")
    parser.add_argument(
        "--collectives", action="store_true", help="as between machines: no memory is shared"
    )
    parser.add_argument("--rounds", type=int, default=None, help="of the smallest models")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 15 if options.quick else 41
    context = multiprocessing.get_context("spawn")
    clock = "of processor time of all processes" if options.cpu else "of the slowest process"
    print(f"{options.dtype}, median milliseconds {clock}; ratios of medians")
    print("S on P      MB  tensors      trialrun    all_reduce   + add, avg  to bare  to add, avg")
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
    print(f"worst ratio to torch's sum and average: {worst:.2f} (budget {BUDGET})")


if __name__ == "__main__":
    main()
