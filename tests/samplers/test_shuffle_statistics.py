"""The shuffle looks random: counts of what it does, against what is expected of a uniform one.

Every test gives a standard score: how many standard deviations the chi-square statistic lies off
its mean. The seeds are fixed, so a test that passes once passes always.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from trialrun.samplers.permutation import (
    THRESHOLD,
    FeistelPermutation,
    Permutation,
    SortedPermutation,
    permutation,
)

KINDS = [SortedPermutation, FeistelPermutation]


def _standard_score(counts: np.ndarray, expected: float, degrees_of_freedom: int) -> float:
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float((statistic - degrees_of_freedom) / np.sqrt(2 * degrees_of_freedom))


@pytest.mark.parametrize("kind", KINDS)
def test_passes_are_uniform_over_positions_and_neighbours(
    kind: Callable[[int, int, int], Permutation],
) -> None:
    n, seeds, epochs = 97, range(10, 14), range(1000)
    passes = len(seeds) * len(epochs)
    pairs, steps, successors = np.zeros((n, n)), np.zeros(n), np.zeros((n, n))
    for seed, epoch in itertools.product(seeds, epochs):
        records = kind(n, seed, epoch).take(0, n)
        pairs[np.arange(n), records] += 1
        steps += np.bincount((records[1:] - records[:-1]) % n, minlength=n)
        successors[records[:-1], records[1:]] += 1
    off_diagonal = successors[~np.eye(n, dtype=bool)]
    assert abs(_standard_score(pairs, passes / n, (n - 1) ** 2)) < 4
    assert abs(_standard_score(steps[1:], passes, n - 2)) < 4
    assert abs(_standard_score(off_diagonal, passes / n, n * (n - 1) - 1)) < 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_records", [16384, 100_003, 1_000_000])
def test_one_pass_is_uniform_in_coarse_bins(
    kind: Callable[[int, int, int], Permutation], num_records: int
) -> None:
    num_bins = 64
    records = kind(num_records, 3, 1).take(0, num_records)
    bins = records * num_bins // num_records
    pairs, successors, parities = (np.zeros((num_bins, num_bins)) for _ in range(3))
    np.add.at(pairs, (np.arange(num_records) * num_bins // num_records, bins), 1)
    np.add.at(successors, (bins[:-1], bins[1:]), 1)
    np.add.at(parities, (records[:-1] % num_bins, records[1:] % num_bins), 1)
    expected = num_records / num_bins**2
    assert abs(_standard_score(pairs, expected, (num_bins - 1) ** 2)) < 4.5
    assert abs(_standard_score(successors, expected, num_bins**2 - 1)) < 4.5
    assert abs(_standard_score(parities, expected, num_bins**2 - 1)) < 4.5


@pytest.mark.parametrize("num_records", [2, 3, 4, 5])
def test_all_orders_of_few_records_come_equally_often(num_records: int) -> None:
    orders = {order: i for i, order in enumerate(itertools.permutations(range(num_records)))}
    counts = np.zeros(len(orders))
    num_passes = 40 * len(orders)
    for epoch in range(num_passes):
        # Half of the passes are epochs of one seed, half are seeds.
        seed, epoch = (11, epoch) if epoch % 2 else (epoch, 11)
        counts[orders[tuple(permutation(num_records, seed, epoch).take(0, num_records))]] += 1
    assert len(counts) == math.factorial(num_records)
    assert abs(_standard_score(counts, 40, len(counts) - 1)) < 4


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_records_each_comes_first_equally_often(
    kind: Callable[[int, int, int], Permutation],
) -> None:
    n, passes = 97, 2000
    wins = np.zeros((n, n))
    for epoch in range(passes):
        positions = kind(n, 21, epoch).invert(np.arange(n))
        wins += positions[:, None] < positions[None, :]
    pairs = wins[np.triu_indices(n, 1)]
    statistic = ((pairs - passes / 2) ** 2 / (passes / 4)).sum()
    # Pairs of one pass depend on each other (a before b, b before c): the covariance of their signs
    # has n - 1 eigenvalues (n + 1) / 3, for where each record stands; all others are 1 / 3.
    variance = 2 * ((n + 1) ** 2 / 9 * (n - 1) + (n - 1) * (n - 2) / 18)
    assert abs(statistic - len(pairs)) < 4 * math.sqrt(variance)


@pytest.mark.parametrize("kind", KINDS)
def test_inversions_have_the_mean_and_variance_of_a_uniform_order(
    kind: Callable[[int, int, int], Permutation],
) -> None:
    n, passes = 97, 2000
    later = np.triu(np.ones((n, n), dtype=bool), 1)
    counts = np.empty(passes)
    for epoch in range(passes):
        records = kind(n, 22, epoch).take(0, n)
        counts[epoch] = np.count_nonzero((records[:, None] > records[None, :]) & later)
    mean, variance = n * (n - 1) / 4, n * (n - 1) * (2 * n + 5) / 72
    assert abs(counts.mean() - mean) < 4 * math.sqrt(variance / passes)
    # The variance of a sample variance of nearly normal numbers is 2 / passes of its square.
    assert abs(counts.var() / variance - 1) < 4 * math.sqrt(2 / passes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_seed", [False, True], ids=["epochs", "seeds"])
def test_consecutive_passes_and_seeds_are_unrelated(
    kind: Callable[[int, int, int], Permutation], is_seed: bool
) -> None:
    n, passes = 97, 2000
    orders = [kind(n, i, 5) if is_seed else kind(n, 5, i) for i in range(passes + 1)]
    records = np.stack([order.take(0, n) for order in orders])
    # What follows at the same place: all pairs (record now, record next), and their distances.
    pairs = np.bincount((records[:-1] * n + records[1:]).reshape(-1), minlength=n * n)
    distances = np.bincount(((records[1:] - records[:-1]) % n).reshape(-1), minlength=n)
    assert abs(_standard_score(pairs, passes / n, (n - 1) ** 2)) < 4
    assert abs(_standard_score(distances, passes, n - 1)) < 4


@pytest.mark.parametrize("num_records", [THRESHOLD, THRESHOLD + 1, 100_003, 1_000_000])
@pytest.mark.parametrize("is_seed", [False, True], ids=["epochs", "seeds"])
def test_large_passes_and_seeds_are_unrelated(num_records: int, is_seed: bool) -> None:
    num_bins = 64
    other = permutation(num_records, 4, 1) if is_seed else permutation(num_records, 3, 2)
    first = permutation(num_records, 3, 1).take(0, num_records) * num_bins // num_records
    second = other.take(0, num_records) * num_bins // num_records
    pairs = np.bincount(first * num_bins + second, minlength=num_bins**2)
    expected = num_records / num_bins**2
    assert abs(_standard_score(pairs, expected, (num_bins - 1) ** 2)) < 4
    # A record comes back to its neighbourhood as often as chance has it.
    near = np.count_nonzero(np.abs(first - second) <= 1)
    share = (3 * num_bins - 2) / num_bins**2
    assert abs(near - num_records * share) < 4 * math.sqrt(num_records * share)


@pytest.mark.parametrize("num_records", [THRESHOLD - 1, THRESHOLD, THRESHOLD + 1, THRESHOLD + 2])
def test_both_sides_of_the_threshold_look_alike(num_records: int) -> None:
    num_bins, passes = 32, 30
    pairs, successors = np.zeros(num_bins**2), np.zeros(num_bins**2)
    places = np.arange(num_records) * num_bins // num_records
    for epoch in range(passes):
        records = permutation(num_records, 8, epoch).take(0, num_records)
        assert np.array_equal(np.bincount(records, minlength=num_records), np.ones(num_records))
        bins = records * num_bins // num_records
        pairs += np.bincount(places * num_bins + bins, minlength=num_bins**2)
        successors += np.bincount(bins[:-1] * num_bins + bins[1:], minlength=num_bins**2)
    # Bins differ by one record in size, which adds less than 0.01 to a score.
    expected = passes * num_records / num_bins**2
    assert abs(_standard_score(pairs, expected, (num_bins - 1) ** 2)) < 4
    assert abs(_standard_score(successors, expected, num_bins**2 - 1)) < 4
