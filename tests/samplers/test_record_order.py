"""Which records a batch holds, and which batches hold a record, are one and the same function."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import sampler_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from trialrun.samplers import (
    BatchSampler,
    DistributedSampler,
    RecordOrder,
    RecordUse,
    RepeatSampler,
    ReproducibleShuffleSampler,
    SequentialSampler,
)


def order(**changes: Any) -> RecordOrder:
    numbers: dict[str, Any] = {
        "num_records": 10,
        "seed": 42,
        "num_slots": 2,
        "batch_size": 2,
        "is_shuffled": True,
    }
    return RecordOrder(**(numbers | changes))


ORDERS = st.builds(
    RecordOrder,
    num_records=st.integers(1, 20),
    seed=st.integers(0, 2**64),
    num_slots=st.integers(1, 5),
    batch_size=st.integers(1, 5),
    is_shuffled=st.booleans(),
)


def test_the_worked_example_of_the_module() -> None:
    record = order().sequence(1).take(3, 4)[0][0]
    assert order().position_of(int(record), 1) == 3
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


@settings(deadline=None, max_examples=60)
@given(ORDERS)
def test_both_directions_equal_a_walk_over_everything(order: RecordOrder) -> None:
    num_batches = 12
    seen: dict[int, list[RecordUse]] = {record: [] for record in range(order.num_records)}
    for batch in range(num_batches):
        for slot in range(order.num_slots):
            records, epochs = order.records(batch, slot)
            for place, (record, epoch) in enumerate(zip(records, epochs, strict=True)):
                seen[int(record)].append(RecordUse(int(epoch), batch, slot, place))
    for record, uses in seen.items():
        uses.sort(key=lambda use: (use.batch, use.place, use.slot))
        assert list(order.uses(record, start_batch=0, stop_batch=num_batches)) == uses
        for start, stop in [(0, 0), (3, 4), (5, 11)]:
            assert list(order.uses(record, start_batch=start, stop_batch=stop)) == [
                use for use in uses if start <= use.batch < stop
            ]


@settings(deadline=None, max_examples=60)
@given(ORDERS)
def test_records_are_those_of_the_sampler_chain_with_their_passes(order: RecordOrder) -> None:
    records: Any = SequentialSampler(order.num_records)
    if order.is_shuffled:
        records = ReproducibleShuffleSampler(records, order.seed)
    for slot in range(order.num_slots):
        share = DistributedSampler(RepeatSampler(records), order.num_slots, slot)
        chain = BatchSampler(share, order.batch_size)
        for batch, expected in enumerate(itertools.islice(chain, 8)):
            got = order.records(batch, slot)
            assert got.records.tolist() == expected
            for record, epoch in zip(*got, strict=True):
                passes = (
                    reference.sorted_permutation(order.num_records, order.seed, int(epoch))
                    if order.is_shuffled
                    else list(range(order.num_records))
                )
                position = order.position_of(int(record), int(epoch))
                assert passes[position] == record


def test_a_large_run_is_answered_at_once_in_both_directions() -> None:
    large = order(num_records=10**12, num_slots=4, batch_size=256)
    records, epochs = large.records(10**9, 3)
    assert set(epochs.tolist()) == {1}
    (use,) = large.uses(int(records[17]), start_batch=10**9 - 3, stop_batch=10**9 + 3)
    assert use == RecordUse(epoch=1, batch=10**9, slot=3, place=17)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: order(num_records=0), "num_records=0 is not a whole number of at least 1 and"),
        (lambda: order(seed=-1), "seed=-1 is not a whole number of at least 0"),
        (lambda: order(num_slots=0), "num_slots=0 is not a whole number of at least 1"),
        (lambda: order(batch_size=0), "batch_size=0 is not a whole number of at least 1"),
        (lambda: order().records(-1, 0), "batch=-1 is not a whole number of at least 0"),
        (lambda: order().records(2**60, 0), f"batch={2**60} is not a whole number"),
        (lambda: order().records(0, 2), "slot=2 is not a whole number of at least 0 and below 2"),
        (lambda: order().sequence(2), "rank=2 is not a whole number of at least 0 and below 2"),
        (
            lambda: order().uses(10, start_batch=0, stop_batch=1),
            "record=10 is not a whole number of at least 0 and below 10",
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
        (lambda: order().position_of(10, 0), "record=10 is not a whole number"),
        (lambda: order().position_of(1, -1), "epoch=-1 is not a whole number of at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make()
