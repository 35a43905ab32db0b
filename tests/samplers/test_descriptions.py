"""Any chain of our samplers goes on record as JSON data and arrays, and comes back the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialrun.samplers import sequences
from trialrun.samplers.sequences import (
    Batched,
    Count,
    Dealt,
    IndexSequence,
    LengthGrouped,
    Listed,
    Mixed,
    Repeated,
    Shuffled,
    Skipped,
    Subset,
    Weighted,
    describe,
    from_description,
)
from trialrun.samplers.sequences._description import _KINDS

SEEDS = st.integers(0, 2**70)
NUM_RECORDS = 12

LISTS = st.lists(st.integers(0, NUM_RECORDS - 1), min_size=1, max_size=20)
WEIGHTS = st.lists(st.floats(0, 1e6), min_size=1, max_size=NUM_RECORDS).filter(any)
SOURCES: st.SearchStrategy[IndexSequence[Any]] = st.one_of(
    st.builds(Count, st.integers(1, NUM_RECORDS)),
    st.builds(Subset, LISTS),
    st.builds(Weighted, WEIGHTS, st.integers(1, 20), SEEDS),
)


def shares(chain: IndexSequence[Any]) -> st.SearchStrategy[IndexSequence[Any]]:
    return st.integers(1, 3).flatmap(
        lambda workers: st.builds(Dealt, st.just(chain), st.just(workers), st.just(0))
    )


def longer(chains: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Returns chains of one stage more; the stages are those that may stand under a Repeat."""
    return st.one_of(st.builds(Shuffled, chains, SEEDS), chains.flatmap(shares))


PASSES = st.recursive(SOURCES, longer, max_leaves=3)
MIXTURES = st.lists(st.tuples(PASSES, st.integers(1, 4)), min_size=1, max_size=3).map(
    lambda parts: Mixed([p for p, _ in parts], [n for _, n in parts], [NUM_RECORDS] * len(parts))
)
ENDLESS_RECORDS = st.one_of(st.builds(Repeated, PASSES), MIXTURES)
BATCHES = st.one_of(
    st.builds(Batched, PASSES, st.integers(1, 7)),
    st.builds(Listed.of, st.lists(LISTS.map(np.array), min_size=1, max_size=5)),
    st.builds(
        LengthGrouped,
        LISTS,
        st.integers(1, 7),
        SEEDS,
        batches_per_pool=st.integers(1, 3),
    ),
)
ENDLESS = st.one_of(
    ENDLESS_RECORDS,
    st.builds(Batched, ENDLESS_RECORDS, st.integers(1, 7), st.booleans()),
    st.builds(Repeated, st.recursive(BATCHES, longer, max_leaves=3)),
)
CHAINS = st.one_of(ENDLESS, st.builds(Skipped, ENDLESS, st.integers(0, 10**6)))


def as_lists(window: Any) -> list[Any]:
    return [item.tolist() for item in window]


def round_trip(sequence: IndexSequence[Any]) -> IndexSequence[Any]:
    arrays: dict[str, Any] = {}

    def keep(array: Any) -> str:
        name = str(len(arrays))
        arrays[name] = array.copy()
        return name

    return from_description(json.loads(json.dumps(describe(sequence, keep))), arrays.__getitem__)


@settings(deadline=None, max_examples=150)
@given(CHAINS, st.integers(0, 10**9))
def test_any_chain_comes_back_with_the_same_records_and_passes(
    chain: IndexSequence[Any], start: int
) -> None:
    again = round_trip(chain)
    assert again.stages == chain.stages
    assert (again.length, again.num_positions) == (chain.length, chain.num_positions)
    for first in (0, start):
        positions = np.arange(first, first + 30)
        assert as_lists(again.gather(0, positions)) == as_lists(chain.gather(0, positions))
        assert as_lists(again.epochs_of(0, positions)) == as_lists(chain.epochs_of(0, positions))


@settings(deadline=None, max_examples=150)
@given(CHAINS, st.integers(0, 10**6), st.integers(0, 60))
def test_find_is_what_looking_at_every_item_finds(
    chain: IndexSequence[Any], start: int, length: int
) -> None:
    stop = start + length
    for record in range(2 * NUM_RECORDS):
        by_looking = IndexSequence.find(chain, 0, record, start, stop)
        assert chain.find(0, record, start, stop).tolist() == by_looking.tolist()


@pytest.mark.parametrize(
    "chain",
    [Shuffled(Count(30_000), 3), Batched(Shuffled(Count(30_000), 3), 2)],
    ids=["records", "batches"],
)
def test_looking_at_every_item_goes_on_from_block_to_block(chain: IndexSequence[Any]) -> None:
    start, stop = 5, chain.num_positions - 3
    found = []
    for record in range(0, 30_000, 3001):
        by_looking = IndexSequence.find(chain, 0, record, start, stop).tolist()
        assert chain.find(0, record, start, stop).tolist() == by_looking
        found += by_looking
    assert len(found) == 10 and max(found) > sequences.RECORDS_PER_BLOCK


ONCE_IN_A_PASS = st.recursive(
    st.builds(Count, st.integers(1, NUM_RECORDS)),
    lambda chains: st.builds(Shuffled, chains, SEEDS),
    max_leaves=2,
)
MIXED_ONCE = st.lists(st.tuples(ONCE_IN_A_PASS, st.integers(1, 4)), min_size=1, max_size=3).map(
    lambda parts: Mixed([p for p, _ in parts], [n for _, n in parts])
)


@settings(deadline=None, max_examples=100)
@given(
    st.one_of(
        st.builds(Repeated, ONCE_IN_A_PASS),
        MIXED_ONCE,
        st.builds(Batched, st.one_of(st.builds(Repeated, ONCE_IN_A_PASS), MIXED_ONCE), st.just(3)),
        st.builds(Repeated, st.builds(Batched, ONCE_IN_A_PASS, st.integers(1, 7))),
        st.builds(
            Repeated,
            st.builds(LengthGrouped, LISTS, st.integers(1, 7), SEEDS, batches_per_pool=st.just(2)),
        ),
    )
)
def test_a_record_comes_the_first_time_in_pass_0_the_second_time_in_pass_1(
    chain: IndexSequence[Any],
) -> None:
    seen: dict[int, int] = {}
    window, passes = (np.hstack(read(0, np.arange(40))) for read in (chain.gather, chain.epochs_of))
    for record, epoch in zip(window.tolist(), passes.tolist(), strict=True):
        assert epoch == seen.get(record, 0)
        seen[record] = epoch + 1


@settings(deadline=None)
@given(st.integers(1, 20), SEEDS)
def test_draws_belong_to_passes_of_num_samples(num_samples: int, seed: int) -> None:
    drawn = Repeated(Weighted([1, 0, 2], num_samples, seed))
    assert drawn.epochs_of(0, np.arange(50)).tolist() == [p // num_samples for p in range(50)]


def test_every_sequence_of_the_package_can_be_described() -> None:
    kinds = {getattr(sequences, name) for name in sequences.__all__}
    concrete = {
        kind
        for kind in kinds
        if isinstance(kind, type)
        and issubclass(kind, IndexSequence)
        and not kind.__abstractmethods__
    }
    assert set(_KINDS.values()) == concrete
    assert len({kind.stage for kind in concrete}) == len(concrete)


def test_a_description_is_small_and_readable_and_its_arrays_apart() -> None:
    kept = []

    def keep(array: Any) -> str:
        kept.append(array.tolist())
        return "w"

    chain = Shuffled(Weighted([1, 0, 2], 5, seed=3), seed=4)
    assert describe(chain, keep) == {
        "stage": "Shuffle",
        "version": 1,
        "arguments": {
            "inner": {
                "stage": "Weighted",
                "version": 1,
                "arguments": {"weights": {"array": "w"}, "num_samples": 5, "seed": 3},
            },
            "seed": 4,
        },
    }
    assert kept == [[1, 0, 2]]


class Backwards(Shuffled[Any]):
    """Somebody's own, which has a stage of ours and another order."""

    def inner_positions(self, epoch: int, positions: Any) -> Any:
        return self.length - 1 - positions


def test_a_class_derived_from_ours_is_none_of_ours() -> None:
    described = describe(Repeated(Backwards(Count(3), 1)), str)
    assert described["arguments"]["inner"] == {"unknown": "Shuffle"}
    with pytest.raises(TypeError, match="^Own does not say what it was made with, so it cannot be"):
        IndexSequence.arguments(type("Own", (Count,), {})(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"version": 2},
            "The stage Shuffle was described by version 2 of its algorithm; this trialrun has "
            "version 1. Use the version that wrote the description.",
        ),
        (
            {"stage": "Sorted"},
            "The stage Sorted is not known to this version of trialrun. Use the version that wrote "
            "the description.",
        ),
    ],
)
def test_another_versions_description_is_refused(changes: dict[str, Any], message: str) -> None:
    described = describe(Shuffled(Count(3), 1), str) | changes
    with pytest.raises(ValueError) as caught:
        from_description(described, np.array)
    assert str(caught.value) == message


def test_sizes_that_are_not_those_of_the_records_are_refused() -> None:
    with pytest.raises(ValueError) as caught:
        Listed([1, 2, 3], [1, 1])
    assert str(caught.value) == (
        "The sizes of the batches have the sum 2, and the number of records is 3. Give the "
        "size of each batch."
    )


def test_a_long_search_among_draws_is_made_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    draws = Weighted._draws

    def counting(self: Weighted, epoch: int, positions: Any) -> Any:
        lengths.append(len(positions))
        return draws(self, epoch, positions)

    monkeypatch.setattr(Weighted, "_draws", counting)
    weighted = Weighted([1, 2, 3], 50_000, 3)
    found = weighted.find(2, 1, 0, 50_000)
    assert (sum(lengths), max(lengths)) == (50_000, sequences.RECORDS_PER_BLOCK)
    assert found.tolist() == np.flatnonzero(weighted.gather(2, np.arange(50_000)) == 1).tolist()


def test_what_a_weight_of_zero_excludes_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Weighted, "_draws")
    weighted = Weighted([1, 0, 3, 0], 10**15, 3)
    for record in (1, 3, 4, 10**12):
        assert weighted.find(0, record, 0, 10**15).tolist() == []
