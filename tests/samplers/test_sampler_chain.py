"""The chain that a run uses: the records of a batch are a function, whoever computes them."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import sampler_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from trialrun.samplers import (
    BatchSampler,
    DistributedSampler,
    RepeatSampler,
    ReproducibleShuffleSampler,
    SequentialSampler,
    SkipBatchSampler,
)
from trialrun.samplers.permutation import permutation


def chain(
    length: int, seed: int, num_workers: int, rank: int, batch_size: int, skip: int
) -> SkipBatchSampler:
    records = RepeatSampler(ReproducibleShuffleSampler(SequentialSampler(length), seed))
    share = DistributedSampler(records, num_workers, rank)
    return SkipBatchSampler(BatchSampler(share, batch_size), skip)


def test_golden_batches_are_pinned() -> None:
    batches = chain(10, seed=42, num_workers=2, rank=1, batch_size=2, skip=1).take(0, 6)
    assert [batch.tolist() for batch in batches] == [[0, 8], [9, 1], [0, 8], [5, 4], [7, 4], [3, 6]]


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_the_chain_equals_the_plain_reference(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 25), "length")
    seed = data.draw(st.integers(0, 2**64), "seed")
    num_workers = data.draw(st.integers(1, 6), "num_workers")
    rank = data.draw(st.integers(0, num_workers - 1), "rank")
    batch_size = data.draw(st.integers(1, 7), "batch_size")
    skip = data.draw(st.integers(0, 12), "skip")
    start = data.draw(st.integers(0, 6), "start")
    stop = data.draw(st.integers(start, 8), "stop")

    stream = reference.rank_stream(length, seed, num_workers, rank)
    batches = [list(itertools.islice(stream, batch_size)) for _ in range(skip + stop)][skip:]
    sampler = chain(length, seed, num_workers, rank, batch_size, skip)
    assert [batch.tolist() for batch in sampler.take(start, stop)] == batches[start:]
    assert list(itertools.islice(sampler, stop)) == batches
    # As Determined counts: the worker's share of the dataset, in batches, the last one rounded up.
    assert len(sampler) == -(-len(range(rank, length, num_workers)) // batch_size)


@pytest.mark.parametrize("length", [1, 10, 1000, 20_000])
def test_each_pass_shows_every_record_once_in_its_own_order(length: int) -> None:
    repeat = RepeatSampler(ReproducibleShuffleSampler(SequentialSampler(length), 8))
    passes = [repeat.take(e * length, (e + 1) * length) for e in range(3)]
    for epoch, records in enumerate(passes):
        assert np.array_equal(np.sort(records), np.arange(length))
        assert np.array_equal(records, permutation(length, 8, epoch).take(0, length))
    if length > 1:
        assert not np.array_equal(passes[0], passes[1])
        assert not np.array_equal(passes[1], passes[2])


def test_repeat_of_a_share_keeps_the_share_of_each_pass() -> None:
    shuffled = ReproducibleShuffleSampler(SequentialSampler(10), 8)
    repeat = RepeatSampler(DistributedSampler(shuffled, 3, 1))
    expected = [permutation(10, 8, e).take(0, 10)[1::3].tolist() for e in range(4)]
    assert repeat.take(0, 12).tolist() == list(itertools.chain.from_iterable(expected))


@pytest.mark.parametrize("length", [10, 1000, 20_000])
def test_a_global_batch_is_the_same_for_every_number_of_workers(length: int) -> None:
    global_batch, num_batches = 24, 2 * -(-length // 24) + 3
    stream = RepeatSampler(ReproducibleShuffleSampler(SequentialSampler(length), 4))
    records = stream.take(0, num_batches * global_batch).reshape(num_batches, global_batch)
    for num_workers in (1, 2, 3, 4, 6, 8, 12, 24):
        shares = [
            chain(length, 4, num_workers, rank, global_batch // num_workers, 0).take(0, num_batches)
            for rank in range(num_workers)
        ]
        # Item i of the global batch is worker i % num_workers's item i // num_workers.
        dealt = np.stack([np.stack(share) for share in shares], axis=-1)
        assert np.array_equal(dealt.reshape(num_batches, global_batch), records)


def test_a_batch_straddles_two_passes() -> None:
    batch = chain(10, seed=1, num_workers=1, rank=0, batch_size=4, skip=2).take(0, 1)[0]
    first, second = permutation(10, 1, 0).take(8, 10), permutation(10, 1, 1).take(0, 2)
    assert batch.tolist() == [*first.tolist(), *second.tolist()]


def test_a_window_covers_many_passes() -> None:
    records = RepeatSampler(ReproducibleShuffleSampler(SequentialSampler(3), 1)).take(0, 30)
    assert Counter(records.tolist()) == {0: 10, 1: 10, 2: 10}


def test_a_skip_is_an_addition() -> None:
    whole = chain(50, 2, 2, 1, 4, 0).take(0, 40)
    for skip in range(40):
        rest = chain(50, 2, 2, 1, 4, skip).take(0, 40 - skip)
        assert [b.tolist() for b in rest] == [b.tolist() for b in whole[skip:]]
    twice = SkipBatchSampler(chain(50, 2, 2, 1, 4, 7), 5).take(0, 3)
    assert [b.tolist() for b in twice] == [b.tolist() for b in whole[12:15]]


def test_batch_a_billion_of_a_trillion_records_is_computed_alone() -> None:
    length, seed, skip, num_workers, batch_size = 10**12, 6, 10**9, 4, 512
    chain(length, seed + 1, num_workers, 0, batch_size, skip).take(0, 1)
    tracemalloc.start()
    sampler = chain(length, seed, num_workers, 3, batch_size, skip)
    (batch,) = sampler.take(0, 1)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2**19

    positions = [(skip * batch_size + i) * num_workers + 3 for i in range(batch_size)]
    # 10**9 batches of 2,048 records are 2.048 passes.
    assert {position // length for position in positions} == {2}
    assert batch.tolist() == [
        reference.feistel_image(length, seed, 2, position % length) for position in positions
    ]
    assert next(iter(sampler)) == batch.tolist()
