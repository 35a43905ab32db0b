"""Record indices: trialrun's samplers against Determined's, torch's, torchdata's and grain's.

    python benchmarks/samplers.py [--rounds 3] [--records 10000000] [--quick]

Each contestant goes through one whole shuffled pass as one of 4 ranks, or as the only one, in
batches of 256, with what it does at the start of a pass. Determined's chain runs where it is
installed, as do torchdata and grain. Budgets: with 4 ranks at most 1/15 of Determined's time for an
index; with 1 rank no slower than torch; no pass begins with more than 1 ms; the records of batch
10**9 of 10**12 records in 1 ms and 8 MB; a tensor dataset loaded in batches of 32 in at most 1/3 of
the time of torch's loader.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.utils.data
from _measure import interleave, print_ratios

from trialrun import DataLoader, samplers
from trialrun.controller.engine.data.loaders import TrainingData
from trialrun.samplers.permutation import THRESHOLD

BATCH_SIZE = 256
LOADED_BATCH_SIZE = 32
# grain answers for one index at a time, in microseconds: a part of the pass is enough.
GRAIN_RECORDS = 20_000


def seconds_per_index(make_batches: Callable[[], Iterable[Any]], num_batches: int) -> float:
    """Times one walk, from making the chain to its last batch."""
    started = time.perf_counter()
    collections.deque(itertools.islice(make_batches(), num_batches), maxlen=0)
    return (time.perf_counter() - started) / (num_batches * BATCH_SIZE)


def seconds_per_later_index(make_batches: Callable[[], Iterable[Any]], num_batches: int) -> float:
    """Times a walk after its first batch, which waits for the shuffle of the whole pass."""
    batches = iter(make_batches())
    next(batches)
    return seconds_per_index(lambda: batches, num_batches - 1)


def trialrun_chain(
    num_records: int, num_ranks: int, skip: int = 0, seed: int = 0
) -> samplers.SkipBatchSampler:
    shuffled = samplers.ReproducibleShuffleSampler(samplers.SequentialSampler(num_records), seed)
    share = samplers.DistributedSampler(samplers.RepeatSampler(shuffled), num_ranks, 0)
    return samplers.SkipBatchSampler(samplers.BatchSampler(share, BATCH_SIZE), skip)


def determined_chain(num_records: int, num_ranks: int) -> Any:
    from determined.pytorch import samplers as determined

    shuffled = determined.ReproducibleShuffleSampler(range(num_records), 0)
    share = determined.DistributedSampler(determined.RepeatSampler(shuffled), num_ranks, 0)
    batches = torch.utils.data.BatchSampler(share, BATCH_SIZE, False)
    return determined.SkipBatchSampler(batches, 0)


def torch_chain(num_records: int) -> torch.utils.data.BatchSampler:
    records = torch.utils.data.RandomSampler(range(num_records))
    return torch.utils.data.BatchSampler(records, BATCH_SIZE, False)


def torchdata_chain(num_records: int) -> Any:
    from torchdata.stateful_dataloader.sampler import BatchSampler, RandomSampler

    return BatchSampler(RandomSampler(range(num_records)), BATCH_SIZE, False)


def run_grain(num_records: int) -> float:
    import grain

    sampler = grain.samplers.IndexSampler(
        num_records=num_records,
        shard_options=grain.sharding.NoSharding(),
        shuffle=True,
        num_epochs=None,
        seed=0,
    )
    started = time.perf_counter()
    for position in range(GRAIN_RECORDS):
        _ = sampler[position].record_key
    return (time.perf_counter() - started) / GRAIN_RECORDS


def measure_indices(num_records: int, num_ranks: int, rounds: int) -> None:
    num_batches = num_records // (BATCH_SIZE * num_ranks)

    def walk(make: Callable[..., Iterable[Any]], *arguments: int) -> Callable[[], float]:
        return lambda: seconds_per_index(lambda: make(*arguments), num_batches)

    contestants = {"trialrun": walk(trialrun_chain, num_records, num_ranks)}
    if importlib.util.find_spec("determined"):
        contestants["Determined"] = walk(determined_chain, num_records, num_ranks)
        contestants["Determined, shuffle apart"] = lambda: seconds_per_later_index(
            lambda: determined_chain(num_records, num_ranks), num_batches
        )
    if num_ranks == 1:
        contestants["torch"] = walk(torch_chain, num_records)
        if importlib.util.find_spec("torchdata"):
            contestants["torchdata"] = walk(torchdata_chain, num_records)
        if importlib.util.find_spec("grain"):
            contestants["grain"] = lambda: run_grain(num_records)
    print(f"\n{num_records:,} records, rank 0 of {num_ranks}, one index, ratio to trialrun")
    print_ratios(interleave(contestants, rounds), "trialrun", "ns", 1e9)


def measure_starts(num_records: int) -> None:
    """Prints what the first batch of a pass takes, beyond any other batch of the same pass."""
    num_batches = -(-num_records // BATCH_SIZE)

    def batch_seconds(chain: samplers.SkipBatchSampler, batch: int) -> float:
        started = time.perf_counter()
        chain.take(batch, batch + 1)
        return time.perf_counter() - started

    chain = trialrun_chain(num_records, 1)
    extra = []
    # A batch that straddles passes begins the next one; the batch after it lies within.
    for epoch in range(1, 22):
        first = epoch * num_batches
        extra.append(batch_seconds(chain, first) - batch_seconds(chain, first + 1))
    median_ms = statistics.median(extra[1:]) * 1e3
    print(f"{num_records:>10,} records: {median_ms:6.3f} ms more for the first batch of a pass")


def measure_loading(num_records: int, rounds: int) -> None:
    """Prints what it takes to load a pass over a tensor dataset, with 0 workers."""
    tensors = torch.randn(num_records, 64), torch.randint(10, (num_records,))
    dataset = torch.utils.data.TensorDataset(*tensors)
    num_batches = num_records // LOADED_BATCH_SIZE

    def seconds_per_batch(batches: Iterable[Any]) -> float:
        started = time.perf_counter()
        collections.deque(itertools.islice(batches, num_batches), maxlen=0)
        return (time.perf_counter() - started) / num_batches

    def run_torch() -> float:
        loader = torch.utils.data.DataLoader(dataset, batch_size=LOADED_BATCH_SIZE, shuffle=True)
        return seconds_per_batch(loader)

    def run_trialrun() -> float:
        loader = DataLoader(dataset, batch_size=LOADED_BATCH_SIZE, shuffle=True)
        data = TrainingData(loader, seed=0, num_slots=1, slots=range(1))
        return seconds_per_batch(data.batches_from(0))

    print(
        f"\nTensorDataset of {num_records:,} x 64, a batch of {LOADED_BATCH_SIZE}, ratio to torch"
    )
    contestants = {"torch's DataLoader": run_torch, "trialrun": run_trialrun}
    print_ratios(interleave(contestants, rounds), "torch's DataLoader", "us", 1e6)


FAR_BATCH = """
import statistics, time
import numpy
def peak_mb():
    # Not ru_maxrss, which a child takes over from the process that started it.
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
before = peak_mb()
from trialrun.samplers.record_order import DealtRecords
from trialrun.samplers.sequences import Count, Shuffled
def seconds(seed):
    started = time.perf_counter()
    order = DealtRecords(source=Shuffled(Count(10**12), seed), num_slots=4, batch_size=256)
    order.sequence(0).take(10**9, 10**9 + 1)
    return time.perf_counter() - started
first = seconds(0)
others = [seconds(seed) for seed in range(1, 101)]
import sys
assert "torch" not in sys.modules
print(f"{statistics.median(others) * 1e3:.3f} ms for another seed's, {first * 1e3:.1f} ms for the "
      f"very first; {peak_mb() - before:.1f} MB over the interpreter with numpy")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--quick", action="store_true", help="one round over 20,000 records")
    options = parser.parse_args()
    rounds, num_records = (1, 20_000) if options.quick else (options.rounds, options.records)
    for num_ranks in (4, 1):
        measure_indices(num_records, num_ranks, rounds)
    print("\nBeginning of a pass")
    for length in (THRESHOLD, THRESHOLD + 1, num_records):
        measure_starts(length)
    measure_loading(min(num_records, 256_000), rounds)
    print("\nRecords of batch 10**9 of 10**12 records, slot 0 of 4, batch 256", flush=True)
    subprocess.run([sys.executable, "-c", FAR_BATCH], check=True)


if __name__ == "__main__":
    main()
