"""Which records a batch holds, and which batches hold a record, are one and the same function."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialrun.samplers import (
    BatchSampler,
    DealtBatches,
    DealtRecords,
    DistributedBatchSampler,
    DistributedSampler,
    LengthGroupedBatchSampler,
    RecordOrder,
    RecordUse,
    RepeatBatchSampler,
    RepeatSampler,
    ReproducibleShuffleSampler,
    SequentialSampler,
)
from trialrun.samplers.sequences import (
    Batched,
    Count,
    LengthGrouped,
    Listed,
    Mixed,
    Shuffled,
    Subset,
    Weighted,
    unknown,
)


def order(length: int = 10, seed: int = 42, num_slots: int = 2, batch_size: int = 2) -> Any:
    return DealtRecords(
        source=Shuffled(Count(length), seed), num_slots=num_slots, batch_size=batch_size
    )


SEEDS = st.integers(0, 2**64)
LENGTHS = st.integers(1, 20)
SLOTS = st.integers(1, 5)
SHUFFLES = st.builds(Shuffled, st.builds(Count, LENGTHS), SEEDS)
SOURCES: st.SearchStrategy[Any] = st.one_of(
    st.builds(Count, LENGTHS),
    SHUFFLES,
    st.builds(Subset, st.lists(st.integers(0, 19), min_size=1, max_size=9)),
    st.builds(Weighted, st.just([1, 0, 2, 5]), LENGTHS, SEEDS),
    st.builds(lambda a, b: Mixed([a, b], [2, 1]), SHUFFLES, SHUFFLES),
)
SIZES = st.integers(1, 5)
BATCHES: st.SearchStrategy[Any] = st.one_of(
    st.builds(Batched, SHUFFLES, SIZES),
    st.builds(Shuffled, st.builds(Batched, SHUFFLES, SIZES), SEEDS),
    st.builds(LengthGrouped, st.lists(st.integers(0, 9), min_size=1, max_size=20), SIZES, SEEDS),
    st.builds(Listed.of, st.just([np.array([3, 1, 3]), np.array([2], dtype=np.int64)])),
)
ORDERS: st.SearchStrategy[Any] = st.one_of(
    st.builds(DealtRecords, source=SOURCES, num_slots=SLOTS, batch_size=SIZES),
    st.builds(DealtBatches, source=BATCHES, num_slots=SLOTS),
)


def test_the_worked_example_of_the_module() -> None:
    record = order().sequence(1).take(3, 4)[0][0]
    shuffle = ReproducibleShuffleSampler(SequentialSampler(10), 42)
    assert shuffle.position_of(record, epoch=1) == 3
    uses = order().uses(int(record), start_batch=3, stop_batch=4)
    assert list(uses) == [RecordUse(epoch=1, batch=3, slot=1, place=0)]


def test_golden_batches_are_those_of_the_samplers() -> None:
    batches = [order().records(batch, 1) for batch in range(1, 7)]
    assert [batch.records.tolist() for batch in batches] == [
        [0, 8],
        [9, 1],
        [0, 8],
        [5, 4],
        [7, 4],
        [3, 6],
    ]
    # 10 records, 4 in a batch: batch 2 holds the last two of pass 0 and the first two of pass 1.
    assert [batch.epochs.tolist() for batch in batches[:3]] == [[0, 0], [0, 1], [1, 1]]


@settings(deadline=None, max_examples=100)
@given(ORDERS)
def test_both_directions_equal_a_walk_over_everything(order: Any) -> None:
    num_batches = 12
    seen: dict[int, list[RecordUse]] = {record: [] for record in range(20)}
    for batch in range(num_batches):
        for slot in range(order.num_slots):
            records, epochs = order.records(batch, slot)
            for place, (record, epoch) in enumerate(zip(records, epochs, strict=True)):
                use = RecordUse(int(epoch), batch, slot, place)
                seen.setdefault(int(record), []).append(use)
    is_of_records = isinstance(order, DealtRecords)
    for record, uses in seen.items():
        # Records go round the slots one by one, batches as a whole.
        uses.sort(key=lambda use: (use.batch, use.place, use.slot) if is_of_records else use[1:])
        assert list(order.uses(record, start_batch=0, stop_batch=num_batches)) == uses
        for start, stop in [(0, 0), (3, 4), (5, 11)]:
            assert list(order.uses(record, start_batch=start, stop_batch=stop)) == [
                use for use in uses if start <= use.batch < stop
            ]


@settings(deadline=None, max_examples=60)
@given(LENGTHS, SEEDS, SLOTS, SIZES)
def test_records_are_those_of_the_sampler_chain(
    length: int, seed: int, num_slots: int, batch_size: int
) -> None:
    records = ReproducibleShuffleSampler(SequentialSampler(length), seed)
    for slot in range(num_slots):
        share = DistributedSampler(RepeatSampler(records), num_slots, slot)
        chain = BatchSampler(share, batch_size)
        for batch, expected in enumerate(itertools.islice(chain, 8)):
            got = order(length, seed, num_slots, batch_size).records(batch, slot)
            assert got.records.tolist() == expected
            items = [(batch * batch_size + j) * num_slots + slot for j in range(batch_size)]
            assert got.epochs.tolist() == [item // length for item in items]


def test_batches_are_those_of_the_sampler_chain_in_passes_of_whole_batches() -> None:
    grouped = LengthGroupedBatchSampler([5, 1, 4, 2, 3, 9, 9], 2, 3)
    order = DealtBatches(source=grouped.sequence, num_slots=3)
    for slot in range(3):
        chain = DistributedBatchSampler(RepeatBatchSampler(grouped), 3, slot)
        for batch, expected in enumerate(itertools.islice(chain, 8)):
            got = order.records(batch, slot)
            assert got.records.tolist() == expected
            # 4 batches in a pass: batch 1 of slot 1 is item 4 of the run, the first of pass 1.
            assert set(got.epochs.tolist()) == {(3 * batch + slot) // 4}


@settings(deadline=None, max_examples=60)
@given(ORDERS)
def test_an_order_on_record_gives_the_same_batches(order: Any) -> None:
    arrays: dict[str, Any] = {}

    def keep(array: Any) -> str:
        arrays[f"array {len(arrays)}"] = array
        return f"array {len(arrays) - 1}"

    described = json.loads(json.dumps(order.describe(keep)))
    again = RecordOrder.from_description(described, arrays.__getitem__)
    assert (type(again), again.num_slots) == (type(order), order.num_slots)
    for batch, slot in itertools.product((0, 1, 10**12), range(order.num_slots)):
        for mine, its in zip(order.records(batch, slot), again.records(batch, slot), strict=True):
            assert mine.tolist() == its.tolist()


def test_what_is_not_known_is_named() -> None:
    for described in (
        {"batches": unknown("StatefulDataLoader")},
        {"records": unknown("StatefulDataLoader"), "num_slots": 2, "batch_size": 4},
    ):
        with pytest.raises(ValueError, match="^The stage StatefulDataLoader is none of trialrun's"):
            RecordOrder.from_description(described, np.array)


def test_a_large_run_is_answered_at_once_in_both_directions() -> None:
    large = order(10**12, num_slots=4, batch_size=256)
    records, epochs = large.records(10**9, 3)
    assert set(epochs.tolist()) == {1}
    (use,) = large.uses(int(records[17]), start_batch=10**9 - 3, stop_batch=10**9 + 3)
    assert use == RecordUse(epoch=1, batch=10**9, slot=3, place=17)


def test_to_find_a_record_takes_one_step_backwards_in_each_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Shuffled, "inner_positions", None)  # no step forwards
    steps = []
    places_of = Shuffled.places_of

    def counting(self: Any, epoch: int, positions: Any) -> Any:
        steps.append((epoch, len(positions)))
        return places_of(self, epoch, positions)

    monkeypatch.setattr(Shuffled, "places_of", counting)
    uses = list(order(1000, batch_size=10).uses(7, start_batch=0, stop_batch=500))
    assert [use.epoch for use in uses] == list(range(10))
    assert steps == [(epoch, 1) for epoch in range(10)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: order(length=0), "Sequential -> Shuffle of length 0 cannot be repeated"),
        (lambda: order(num_slots=0), "num_slots=0 is not a whole number of at least 1"),
        (lambda: order(batch_size=0), "batch_size=0 is not a whole number of at least 1"),
        (lambda: order().records(-1, 0), "batch=-1 is not a whole number of at least 0"),
        (lambda: order().records(2**60, 0), f"batch={2**60} is not a whole number"),
        (lambda: order().records(0, 2), "slot=2 is not a whole number of at least 0 and below 2"),
        (lambda: order().sequence(2), "rank=2 is not a whole number of at least 0 and below 2"),
        (
            lambda: order().uses(-1, start_batch=0, stop_batch=1),
            "record=-1 is not a whole number of at least 0",
        ),
        (
            lambda: order().uses(0, start_batch=2, stop_batch=1),
            "start_batch=2 is not a whole number of at least 0 and below 2",
        ),
        (
            lambda: order().uses(0, start_batch=0, stop_batch=-1),
            "stop_batch=-1 is not a whole number of at least 0",
        ),
        (lambda: order(num_slots=2**64), "num_slots=18446744073709551616 is not .* below 46116860"),
        (lambda: order(batch_size=2**64), "batch_size=18446744073709551616 is not .* below 46116"),
    ],
)
def test_numbers_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make()
