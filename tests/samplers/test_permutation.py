"""The shuffle of a pass is a permutation, the documented one, and looks random."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import sampler_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from trialrun.samplers.permutation import (
    ALGORITHM_VERSION,
    THRESHOLD,
    FeistelPermutation,
    Permutation,
    SortedPermutation,
    permutation,
)

KINDS = [SortedPermutation, FeistelPermutation]

# Records at positions [start, start + 6) of (num_records, seed, epoch, start).
GOLDEN = {
    (10, 0, 0, 0): [8, 7, 0, 3, 2, 1],
    (10, 0, 1, 0): [8, 2, 0, 5, 3, 7],
    (10, 1, 0, 0): [1, 0, 4, 6, 8, 2],
    (1000, 7, 3, 0): [493, 250, 296, 282, 714, 690],
    (16385, 0, 0, 8192): [8829, 1989, 5593, 3398, 6300, 11581],
    (10**7, 42, 0, 5 * 10**6): [2643001, 6693430, 7236311, 7817846, 7986363, 8451598],
    (10**7, 42, 1, 5 * 10**6): [9237315, 4848804, 5822074, 5276133, 3352380, 9805270],
    (10**12, 42, 5, 5 * 10**11): [
        134981625547,
        393011399190,
        285519559141,
        683216789025,
        676556832411,
        41186301247,
    ],
    (2**62, 42, 0, 2**61): [
        909373618637289681,
        2200901774292079715,
        3337494396012560984,
        3120231566749051680,
        4390937269729454751,
        1330907801904884397,
    ],
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_orders_are_pinned(case: tuple[int, int, int, int]) -> None:
    num_records, seed, epoch, start = case
    assert permutation(num_records, seed, epoch).take(start, start + 6).tolist() == GOLDEN[case]


def test_version_and_threshold_are_pinned_together_with_the_orders() -> None:
    assert (ALGORITHM_VERSION, THRESHOLD) == (1, 2**14)
    assert isinstance(permutation(THRESHOLD, 0, 0), SortedPermutation)
    assert isinstance(permutation(THRESHOLD + 1, 0, 0), FeistelPermutation)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(0, 2**65), st.integers(0, 2**63 - 1))
def test_a_table_equals_the_plain_reference(num_records: int, seed: int, epoch: int) -> None:
    got = permutation(num_records, seed, epoch).take(0, num_records)
    assert got.dtype == np.int64
    assert got.tolist() == reference.sorted_permutation(num_records, seed, epoch)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_bijection_equals_the_plain_reference(data: st.DataObject) -> None:
    num_records = data.draw(st.integers(1, 2**62) | st.integers(1, 500))
    seed, epoch = data.draw(st.integers(0, 2**65)), data.draw(st.integers(0, 2**63 - 1))
    indices = data.draw(st.lists(st.integers(0, num_records - 1), max_size=8))
    order = FeistelPermutation(num_records, seed, epoch)
    got = order.apply(np.array(indices, dtype=np.int64))
    assert got.dtype == np.int64
    assert got.tolist() == [
        reference.feistel_image(num_records, seed, epoch, index) for index in indices
    ]
    assert order.invert(got).tolist() == indices


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_records", [1, 2, 3, 4, 5, 10, 97, 1000, 16384, 16385, 100_003])
def test_every_record_comes_once_and_invert_is_the_inverse(
    kind: Callable[[int, int, int], Permutation], num_records: int
) -> None:
    order = kind(num_records, 5, 2)
    positions = np.arange(num_records)
    records = order.take(0, num_records)
    assert np.array_equal(np.sort(records), positions)
    assert np.array_equal(order.invert(records), positions)
    assert np.array_equal(order.apply(order.invert(positions)), positions)
    assert len(order) == num_records
    # The argument was not worked on in place.
    assert np.array_equal(positions, np.arange(num_records))


def test_windows_are_cut_from_one_sequence() -> None:
    order = permutation(100_003, 1, 0)
    whole = order.take(0, 100_003)
    for start, stop in [(0, 0), (0, 1), (8191, 8193), (99_000, 100_003), (5, 30_000)]:
        assert np.array_equal(order.take(start, stop), whole[start:stop])


@pytest.mark.parametrize("num_records", [1000, 20_000])
def test_seed_epoch_and_length_do_not_alias(num_records: int) -> None:
    orders = {
        tuple(permutation(num_records, seed, epoch).take(0, 20).tolist())
        for seed in range(20)
        for epoch in range(20)
    }
    assert len(orders) == 400
    grown = permutation(num_records + 1, 0, 0).take(0, num_records)
    # About one position in num_records agrees by chance.
    assert np.count_nonzero(grown == permutation(num_records, 0, 0).take(0, num_records)) < 10


def test_the_largest_permutation_needs_no_memory() -> None:
    permutation(10**12, 0, 0).take(0, 10)
    tracemalloc.start()
    order = permutation(10**12, 0, 1)
    records = order.take(10**12 - 5000, 10**12)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2**20
    assert np.array_equal(order.invert(records), np.arange(10**12 - 5000, 10**12))


def test_an_empty_permutation_is_empty() -> None:
    assert permutation(0, 0, 0).take(0, 0).tolist() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 0), "num_records=-1 is not a whole number of at least 0 and below 461168601842"),
        ((2**62 + 1, 0, 0), "num_records=4611686018427387905 is not"),
        ((10, -3, 0), "seed=-3 is not a whole number of at least 0"),
        ((10, True, 0), "seed=True is not a whole number of at least 0"),
        ((10, 0, -1), "epoch=-1 is not a whole number of at least 0 and below 92233720368547"),
        ((10, 0, 1.0), "epoch=1.0 is not a whole number"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: tuple[int, int, int], message: str) -> None:
    permutation(10, 1, 0)  # A kept permutation of seed 1 must not answer for seed True.
    with pytest.raises(ValueError, match=f"^{message}"):
        permutation(*arguments)


@pytest.mark.parametrize("num_records", [10, 20_000])
def test_indices_out_of_range_are_refused(num_records: int) -> None:
    order = permutation(num_records, 0, 0)
    for start, stop in [(-1, 2), (3, 2), (0, num_records + 1)]:
        message = rf"^The window \[{start}, {stop}\) does not lie within \[0, {num_records}\)"
        with pytest.raises(ValueError, match=message):
            order.take(start, stop)
    for index in (-1, num_records):
        rule = f"{index} is not one of the {num_records} of this permutation. Ask for"
        with pytest.raises(ValueError, match=f"^The position {rule} positions from 0 to"):
            order.apply(np.array([0, index]))
        with pytest.raises(ValueError, match=f"^The record {rule} records from 0 to"):
            order.invert(np.array([0, index]))
