"""Subsets, weighted draws, mixtures and length groups: what each promises of its records."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import sampler_reference as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trialrun.samplers import (
    BatchSampler,
    DistributedBatchSampler,
    DistributedSampler,
    LengthGroupedBatchSampler,
    MixtureSampler,
    RepeatBatchSampler,
    RepeatSampler,
    ReproducibleShuffleSampler,
    SequentialSampler,
    SkipBatchSampler,
    SubsetSampler,
    WeightedSampler,
)
from trialrun.samplers.permutation import permutation
from trialrun.samplers.sequences import LengthGrouped

GOLDEN_WEIGHTED = [3, 3, 3, 2, 2, 2, 2, 3, 3, 2, 0, 3]
GOLDEN_MIXTURE = [3, 5, 8, 4, 2, 6, 9, 1, 0, 7, 10, 0, 1, 5, 11, 2]
GOLDEN_GROUPS = [[2, 3], [4, 6], [0, 7], [8, 10], [5, 9], [1], [0, 3], [5, 10]]


def shuffle(length: int, seed: int) -> ReproducibleShuffleSampler:
    return ReproducibleShuffleSampler(SequentialSampler(length), seed)


def test_golden_sequences_are_pinned() -> None:
    weighted = WeightedSampler([1, 0, 2.5, 4], 5, 42)
    assert RepeatSampler(weighted).take(0, 12).tolist() == GOLDEN_WEIGHTED
    mixture = MixtureSampler([shuffle(5, 1), shuffle(3, 2), 4], [Fraction(1, 2), 0.25, 0.25])
    assert mixture.take(0, 16).tolist() == GOLDEN_MIXTURE
    grouped = LengthGroupedBatchSampler(range(11), 2, 42, batches_per_pool=2)
    assert [b.tolist() for b in RepeatBatchSampler(grouped).take(0, 8)] == GOLDEN_GROUPS


def test_a_subset_is_a_copy_of_what_was_given() -> None:
    indices = np.array([7, 3, 9])
    subset = SubsetSampler(indices)
    indices[0] = 1
    assert list(subset) == [7, 3, 9]
    assert list(SubsetSampler(torch.tensor([7, 3]))) == [7, 3]


def test_a_shuffled_subset_shows_its_records_in_every_pass() -> None:
    shuffled = ReproducibleShuffleSampler(SubsetSampler([70, 3, 90, 11]), 5)
    passes = RepeatSampler(shuffled).take(0, 400).reshape(100, 4)
    assert (np.sort(passes, axis=1) == [3, 11, 70, 90]).all()
    for epoch in range(3):
        positions = [shuffled.position_of(record, epoch) for record in passes[epoch].tolist()]
        assert positions == [0, 1, 2, 3]


@settings(deadline=None, max_examples=50)
@given(
    weights=st.lists(st.floats(0, 1e6), min_size=1, max_size=8).filter(any),
    num_samples=st.integers(1, 6),
    seed=st.integers(0, 2**64),
)
def test_a_weighted_draw_equals_the_plain_reference(
    weights: list[float], num_samples: int, seed: int
) -> None:
    repeat = RepeatSampler(WeightedSampler(weights, num_samples, seed))
    expected = [reference.weighted_record(weights, seed, p) for p in range(15)]
    assert repeat.take(0, 15).tolist() == expected
    # The length of a pass does not enter: draws count on over passes.
    assert WeightedSampler(weights, 15, seed).take(3, 15).tolist() == expected[3:]
    assert all(weights[record] > 0 for record in expected)


def test_a_draw_never_gives_a_record_without_weight() -> None:
    # Products with the smallest double are rounded to 0 or up to the whole sum.
    assert set(WeightedSampler([5e-324], 100, 0)) == {0}
    assert set(WeightedSampler([0, 5e-324, 0, 5e-324, 0, 0], 200, 0)) == {1, 3}


def test_weighted_draws_come_as_often_as_the_weights_say() -> None:
    weights, num_draws = np.arange(64.0), 200_000
    records = WeightedSampler(weights, num_draws, 5).take(0, num_draws)
    expected = num_draws * weights[1:] / weights.sum()
    counts = np.bincount(records, minlength=64)
    assert counts[0] == 0
    assert abs(_standard_score(counts[1:], expected, 62)) < 4
    # Neighbours are unrelated: of 64 classes of equal weight, all pairs come equally often.
    records = WeightedSampler(np.ones(64), num_draws, 5).take(0, num_draws)
    pairs = np.bincount(records[:-1] * 64 + records[1:], minlength=64 * 64)
    assert abs(_standard_score(pairs, num_draws / 64**2, 64**2 - 1)) < 4


def test_weighted_draws_of_neighbouring_seeds_are_unrelated() -> None:
    first, second = (WeightedSampler(np.ones(64), 10**5, s).take(0, 10**5) for s in (5, 6))
    pairs = np.bincount(first * 64 + second, minlength=64 * 64)
    assert abs(_standard_score(pairs, 10**5 / 64**2, 64**2 - 1)) < 4


def _standard_score(counts: Any, expected: Any, degrees_of_freedom: int) -> float:
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float((statistic - degrees_of_freedom) / np.sqrt(2 * degrees_of_freedom))


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_mixture_is_exact_in_every_window_and_passes_go_on(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any), "parts")
    lengths = [data.draw(st.integers(1, 5), "length") for _ in parts]
    samplers = [shuffle(length, number) for number, length in enumerate(lengths)]
    period = sum(Fraction(part, sum(parts)) > 0 for part in parts) and int(
        np.lcm.reduce([Fraction(part, sum(parts)).denominator for part in parts])
    )
    records = MixtureSampler(samplers, parts).take(0, 6 * period)

    bounds = np.cumsum([0, *lengths])
    datasets = np.searchsorted(bounds, records, side="right") - 1
    for start in range(5 * period + 1):
        counts = Counter(datasets[start : start + period].tolist())
        assert [Fraction(counts[d], period) for d in range(len(parts))] == [
            Fraction(part, sum(parts)) for part in parts
        ]
    # What a dataset gives is its own repeated sampler, whatever the others do.
    for number, sampler in enumerate(samplers):
        own = records[datasets == number] - bounds[number]
        assert own.tolist() == RepeatSampler(sampler).take(0, len(own)).tolist()


def test_a_mixture_takes_floats_fractions_and_parts_alike() -> None:
    def records(proportions: list[Any]) -> list[int]:
        return MixtureSampler([5, 7, 9], proportions).take(0, 60).tolist()  # type: ignore[no-any-return]

    expected = records([1, 1, 2])
    assert records([0.25, 0.25, 0.5]) == expected
    assert records([Fraction(1, 4), Fraction(1, 4), Fraction(1, 2)]) == expected
    assert records([2, 2, 4]) == expected
    assert records([1 / 3, 1 / 3, 1 / 3]) == records([1, 1, 1])
    assert records([0.7, 0.2, 0.1]) == records([7, 2, 1])


def test_a_mixture_spreads_each_dataset_evenly() -> None:
    def pattern(*parts: int) -> str:
        records = MixtureSampler([1] * len(parts), parts).take(0, sum(parts))
        return "".join("abc"[record] for record in records)

    assert pattern(3, 1) == "aaba"
    assert pattern(2, 2) == "abab"
    assert pattern(4, 2, 1) == "abacaba"


def test_a_mixture_numbers_records_as_a_concatenation_of_the_datasets() -> None:
    assert MixtureSampler([3, 4], [1, 1]).take(0, 8).tolist() == [0, 3, 1, 4, 2, 5, 0, 6]
    subsets = MixtureSampler([SubsetSampler([2]), SubsetSampler([1])], [1, 1], [100, 50])
    assert subsets.take(0, 4).tolist() == [2, 101, 2, 101]
    assert len(subsets) == 2
    # A dataset without a share may be empty, and is counted all the same.
    assert MixtureSampler(["abc", [], "de"], [1, 0, 1]).take(0, 4).tolist() == [0, 3, 1, 4]


def test_the_least_length_of_a_dataset_is_handed_on() -> None:
    subset = ReproducibleShuffleSampler(SubsetSampler([2, 9, 4]), 1)
    share = DistributedSampler(RepeatSampler(subset), 2, 0)
    batches = SkipBatchSampler(BatchSampler(share, 2), 1)
    assert share.sequence.num_records is None
    assert share.sequence.min_num_records == batches.sequence.min_num_records == 10
    assert SubsetSampler([]).sequence.min_num_records == 0
    assert SequentialSampler(7).sequence.min_num_records == 7
    assert BatchSampler(WeightedSampler([1, 0], 5, 1), 2).sequence.min_num_records == 2
    assert MixtureSampler([share, 5], [1, 1], [12, 5]).sequence.min_num_records == 17


def test_a_mixture_is_read_at_any_place() -> None:
    mixture = MixtureSampler([shuffle(10**12, 1), shuffle(10**9, 2)], [0.99, 0.01])
    start = 10**15
    records = mixture.take(start, start + 1000)
    small = records[records >= 10**12] - 10**12
    # 10 of these 1,000 positions are the small dataset's, 10**13 were before: its pass 10**4.
    order = permutation(10**9, 2, 10**4)
    assert small.tolist() == order.take(0, 10).tolist()


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 9), max_size=40),
    batch_size=st.integers(1, 6),
    per_pool=st.integers(1, 4),
    drop_last=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_length_groups_equal_the_plain_reference(
    lengths: list[int], batch_size: int, per_pool: int, drop_last: bool, epoch: int
) -> None:
    grouped = LengthGroupedBatchSampler(
        lengths, batch_size, 8, drop_last, batches_per_pool=per_pool
    )
    expected = reference.length_groups(lengths, batch_size, 8, drop_last, per_pool, epoch)
    assert len(grouped) == len(expected)
    if expected:
        repeat, count = RepeatBatchSampler(grouped), len(expected)
        window = repeat.take(epoch * count, (epoch + 1) * count)
        assert [batch.tolist() for batch in window] == expected
        for start, stop in itertools.combinations(range(count + 1), 2):
            part = repeat.take(epoch * count + start, epoch * count + stop)
            assert [batch.tolist() for batch in part] == expected[start:stop]


def test_slots_that_read_a_window_in_turn_sort_each_pool_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sorted_pools: list[tuple[int, int]] = []
    compute = LengthGrouped._compute_pool

    def counted(grouped: LengthGrouped, epoch: int, pool: int) -> Any:
        sorted_pools.append((epoch, pool))
        return compute(grouped, epoch, pool)

    monkeypatch.setattr(LengthGrouped, "_compute_pool", counted)
    repeat = RepeatBatchSampler(LengthGroupedBatchSampler(range(96), 2, 1, batches_per_pool=8))
    slots = [DistributedBatchSampler(repeat, 4, slot) for slot in range(4)]
    shares = [[slot.take(start, start + 8) for slot in slots] for start in (0, 8, 16)]
    # 96 batches, of 8 a pool and 48 a pass.
    assert sorted_pools == [(epoch, pool) for epoch in range(2) for pool in range(6)]
    dealt = [batch for window in shares for batch in zip(*window, strict=True)]
    monkeypatch.undo()
    fresh = RepeatBatchSampler(LengthGroupedBatchSampler(range(96), 2, 1, batches_per_pool=8))
    expected = [batch.tolist() for batch in fresh.take(0, 96)]
    assert [batch.tolist() for row in dealt for batch in row] == expected


def test_pools_that_are_kept_are_bounded_in_memory() -> None:
    grouped = LengthGroupedBatchSampler(np.arange(2**20), 32, 1)
    grouped.take(0, 1)
    tracemalloc.start()
    for start in range(0, len(grouped), 32):
        grouped.take(start, start + 1)
    size_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All 1,024 pools would be 8 MiB of records and 3.5 MiB of arrays.
    assert size_bytes < 9 * 2**20


def test_length_groups_save_padding_and_leave_out_no_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 10_000)

    def padding(batches: list[Any]) -> float:
        return float(sum(len(b) * lengths[b].max() for b in batches) / lengths.sum())

    grouped = LengthGroupedBatchSampler(lengths, 32, 1, drop_last=True)
    batches = grouped.take(0, len(grouped))
    assert padding(batches) < 1.05
    shuffled = shuffle(10_000, 1).take(0, 312 * 32).reshape(312, 32)
    assert padding(list(shuffled)) > 1.8
    # Which records are left out is random, too: their mean length is that of all, within 3 errors.
    repeat = RepeatBatchSampler(grouped)
    left_out = [
        np.setdiff1d(np.arange(10_000), np.concatenate(repeat.take(312 * e, 312 * (e + 1))))
        for e in range(20)
    ]
    assert [len(records) for records in left_out] == [16] * 20
    mean = lengths[np.concatenate(left_out)].mean()
    assert abs(mean - lengths.mean()) < 3 * lengths.std() / np.sqrt(320)


def test_length_groups_come_in_a_random_order() -> None:
    lengths = list(range(64))
    repeat = RepeatBatchSampler(LengthGroupedBatchSampler(lengths, 4, 1, batches_per_pool=16))
    # One pool holds everything, so a batch's rank by length is its first record's.
    firsts = [batch[0] // 4 for batch in repeat.take(0, 16 * 1000)]
    counts = np.zeros((16, 16))
    np.add.at(counts, (np.arange(16_000) % 16, firsts), 1)
    assert abs(_standard_score(counts, 1000 / 16, 15**2)) < 4
