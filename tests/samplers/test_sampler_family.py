"""The whole family against plain Python, and against itself for other numbers of workers."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
import sampler_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from trialrun.samplers import (
    BatchSampler,
    DistributedBatchSampler,
    DistributedSampler,
    RepeatBatchSampler,
    RepeatSampler,
    ReproducibleShuffleBatchSampler,
    ReproducibleShuffleSampler,
    SequentialSampler,
    SkipBatchSampler,
    SkipSampler,
    SubsetSampler,
)


def cut(items: list[int], batch_size: int, drop_last: bool) -> list[list[int]]:
    batches = [items[i : i + batch_size] for i in range(0, len(items), batch_size)]
    return [batch for batch in batches if not drop_last or len(batch) == batch_size]


NUMBERS = {
    "n": st.integers(1, 25),
    "ranks": st.integers(1, 6),
    "batch_size": st.integers(1, 7),
    "seed": st.integers(0, 2**64),
    "skip": st.integers(0, 12),
    "drop_last": st.booleans(),
}


@settings(deadline=None, max_examples=60)
@given(**NUMBERS)
def test_finite_records_equal_the_plain_reference(
    n: int, ranks: int, batch_size: int, seed: int, skip: int, drop_last: bool
) -> None:
    order = reference.sorted_permutation(n, seed, 0)
    for rank in range(ranks):
        share = DistributedSampler(
            ReproducibleShuffleSampler(SequentialSampler(n), seed), ranks, rank
        )
        assert list(share) == order[rank::ranks]
        batches = BatchSampler(share, batch_size, drop_last)
        expected = cut(order[rank::ranks], batch_size, drop_last)
        assert list(batches) == expected
        assert len(batches) == len(expected)
        skipped = SkipBatchSampler(batches, skip)
        assert list(skipped) == expected[skip:]
        assert len(skipped) == len(expected)
        assert list(SkipSampler(share, skip)) == order[rank::ranks][skip:]


@settings(deadline=None, max_examples=60)
@given(**NUMBERS)
def test_batches_dealt_out_equal_the_plain_reference(
    n: int, ranks: int, batch_size: int, seed: int, skip: int, drop_last: bool
) -> None:
    # The chain of Determined's own loader: repeat, distribute and skip whole batches.
    if drop_last and n < batch_size:
        return
    shuffled = ReproducibleShuffleSampler(SequentialSampler(n), seed)
    batches = BatchSampler(shuffled, batch_size, drop_last)

    def stream() -> Iterator[list[int]]:
        for epoch in itertools.count():
            yield from cut(reference.sorted_permutation(n, seed, epoch), batch_size, drop_last)

    for rank in range(ranks):
        chain = SkipBatchSampler(
            DistributedBatchSampler(RepeatBatchSampler(batches), ranks, rank), skip
        )
        expected = list(itertools.islice(stream(), rank, ranks * (skip + 8), ranks))[skip:]
        assert list(itertools.islice(chain, 8)) == expected
        assert [batch.tolist() for batch in chain.take(3, 7)] == expected[3:7]
        assert len(chain) == len(range(rank, len(batches), ranks))


@settings(deadline=None, max_examples=60)
@given(**NUMBERS)
def test_shuffled_batches_equal_the_plain_reference(
    n: int, ranks: int, batch_size: int, seed: int, skip: int, drop_last: bool
) -> None:
    batches = BatchSampler(SubsetSampler([3 * i for i in range(n)]), batch_size, drop_last)
    shuffled = ReproducibleShuffleBatchSampler(batches, seed)
    whole = cut([3 * i for i in range(n)], batch_size, drop_last)
    orders = [reference.sorted_permutation(len(whole), seed, epoch) for epoch in range(3)]
    assert list(shuffled) == [whole[i] for i in orders[0]]
    if whole:
        repeat = RepeatBatchSampler(shuffled)
        expected = [whole[i] for order in orders for i in order]
        assert list(itertools.islice(repeat, len(expected))) == expected
        for epoch, order in enumerate(orders):
            assert [shuffled.position_of(i, epoch) for i in order] == list(range(len(order)))


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(1, 40),
    global_batch=st.sampled_from([1, 2, 4, 6, 12]),
    seed=st.integers(0, 2**64),
    skip=st.integers(0, 8),
    drop_last=st.booleans(),
)
def test_a_global_batch_is_the_same_for_every_number_of_ranks(
    n: int, global_batch: int, seed: int, skip: int, drop_last: bool
) -> None:
    def global_batches(ranks: int, repeat: bool) -> list[list[int]]:
        records: Any = ReproducibleShuffleSampler(SequentialSampler(n), seed)
        records = RepeatSampler(records) if repeat else records
        shares = [
            SkipBatchSampler(
                BatchSampler(
                    DistributedSampler(records, ranks, rank), global_batch // ranks, drop_last
                ),
                skip if repeat else 0,
            )
            for rank in range(ranks)
        ]
        steps = itertools.zip_longest(*(itertools.islice(share, 9) for share in shares))
        return [_dealt_back([part or [] for part in step]) for step in steps]

    straight = global_batches(1, repeat=True)
    finite = global_batches(1, repeat=False)
    for ranks in range(1, global_batch + 1):
        if global_batch % ranks == 0:
            assert global_batches(ranks, repeat=True) == straight
            got = global_batches(ranks, repeat=False)
            if not drop_last:
                assert got == finite
            # A full batch is full on every rank. Of a short one, drop_last leaves the shares that
            # are full all the same: that is why training repeats before it deals out.
            assert [b for b in got if len(b) == global_batch] == [
                b for b in finite if len(b) == global_batch
            ]


def _dealt_back(parts: list[list[int]]) -> list[int]:
    """Undoes the dealing: [[1, 3], [2]] was [1, 2, 3]."""
    rows = itertools.zip_longest(*parts)
    return [record for row in rows for record in row if record is not None]


@pytest.mark.parametrize("n", [5, 2**14, 2**14 + 1])
def test_position_of_is_the_inverse_in_every_pass(n: int) -> None:
    shuffled = ReproducibleShuffleSampler(SequentialSampler(n), 7)
    repeat = RepeatSampler(shuffled)
    for epoch in (0, 1, 1000):
        records = repeat.take(epoch * n, (epoch + 1) * n)
        assert shuffled.positions_of(records, epoch).tolist() == list(range(n))
        assert shuffled.position_of(int(records[3]), epoch) == 3


def test_position_of_goes_through_shares_and_shuffles() -> None:
    inner = ReproducibleShuffleSampler(SequentialSampler(20), 3)
    shuffled = ReproducibleShuffleSampler(DistributedSampler(inner, 3, 1), 4)
    for epoch in range(3):
        items = RepeatSampler(shuffled).take(7 * epoch, 7 * epoch + 7)
        assert shuffled.positions_of(items, epoch).tolist() == list(range(7))


def test_batch_a_billion_of_whole_batches_is_computed_alone() -> None:
    num_records, batch_size = 10**12, 512

    def chain(seed: int) -> SkipBatchSampler:
        records = ReproducibleShuffleSampler(SequentialSampler(num_records), seed)
        shuffled = ReproducibleShuffleBatchSampler(BatchSampler(records, batch_size), seed)
        share = DistributedBatchSampler(RepeatBatchSampler(shuffled), 4, 3)
        return SkipBatchSampler(share, 10**9)

    chain(1).take(0, 1)
    tracemalloc.start()
    (batch,) = chain(2).take(0, 1)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2**19
    # 1,953,125,000 batches are a pass, so that batch 4 * 10**9 + 3 of all is in pass 2.
    num_batches = num_records // batch_size
    epoch, position = divmod(4 * 10**9 + 3, num_batches)
    inner = reference.feistel_image(num_batches, 2, epoch, position)
    places = range(inner * batch_size, (inner + 1) * batch_size)
    assert epoch == 2
    assert batch.tolist() == [
        reference.feistel_image(num_records, 2, epoch, place) for place in places
    ]
