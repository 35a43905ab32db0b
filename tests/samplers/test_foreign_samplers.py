"""A sampler from elsewhere resumes exactly: each pass is a function of (seed, pass)."""

from __future__ import annotations

import itertools
import logging
import random
import re
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from foreign_classes import Drawing, Rotated, Wrapped
from torch.utils.data import BatchSampler as TorchBatchSampler
from torch.utils.data import DistributedSampler as TorchDistributedSampler
from torch.utils.data import (
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data import SequentialSampler as TorchSequentialSampler

from trialrun.samplers import (
    BatchSampler,
    DistributedSampler,
    ForeignBatchSampler,
    ForeignSampler,
    MixtureSampler,
    RandomAccessBatchSampler,
    RandomAccessSampler,
    RepeatBatchSampler,
    RepeatSampler,
    SkipBatchSampler,
    _adapting,
    as_batch_sampler,
    as_sampler,
)
from trialrun.samplers._foreign import ForeignRecords

WARNING = (
    "is iterated over once in each pass: its cost and memory grow with the whole pass, and it "
    "resumes exactly only if it is deterministic when seeded. "
    "trialrun.samplers.{} says that this is meant."
)


@pytest.fixture(autouse=True)
def nothing_warned_of() -> None:
    _adapting._warn_of_iteration.cache_clear()


DRAWING = {
    **{
        kind: (lambda kind=kind: Drawing(kind))
        for kind in (
            "numpy state",
            "numpy generator",
            "random",
            "torch",
            "process's torch",
            "process's numpy",
            "process's random",
        )
    },
    "RandomSampler": lambda: RandomSampler(range(20)),
    "RandomSampler, replacement": lambda: RandomSampler(range(20), replacement=True),
    "RandomSampler, generator": lambda: RandomSampler(range(20), generator=torch.Generator()),
    "SubsetRandomSampler": lambda: SubsetRandomSampler(range(20)),
    "WeightedRandomSampler": lambda: WeightedRandomSampler(torch.arange(1.0, 21), 20),
}


@pytest.mark.parametrize("make", DRAWING.values(), ids=DRAWING.keys())
def test_passes_differ_and_do_not_depend_on_what_was_read(make: Any) -> None:
    repeat = RepeatSampler(ForeignSampler(make(), 5))
    passes = [repeat.take(20 * e, 20 * (e + 1)).tolist() for e in range(4)]
    assert all(set(items) <= set(range(20)) for items in passes)
    assert len({tuple(items) for items in passes}) == 4

    other = RepeatSampler(ForeignSampler(make(), 5))
    assert other.take(70, 75).tolist() == passes[3][10:15]
    assert other.take(15, 45).tolist() == [*passes[0][15:], *passes[1], *passes[2][:5]]
    assert list(itertools.islice(other, 80)) == list(itertools.chain.from_iterable(passes))

    another_seed = RepeatSampler(ForeignSampler(make(), 6))
    assert another_seed.take(0, 20).tolist() != passes[0]


@pytest.mark.parametrize("make", DRAWING.values(), ids=DRAWING.keys())
def test_reading_moves_no_generator_of_the_process_or_of_the_sampler(make: Any) -> None:
    sampler = make()

    def states() -> list[Any]:
        own = [getattr(sampler, name, None) for name in ("own", "generator")]
        return [
            torch.get_rng_state().tolist(),
            repr(np.random.get_state()),
            random.getstate(),
            [o.get_state().tolist() if isinstance(o, torch.Generator) else repr(o) for o in own],
            own[0].getstate() if isinstance(own[0], random.Random) else None,
        ]

    before = states()
    ForeignSampler(sampler, 5).take(0, 20)
    assert states() == before


def test_the_process_generators_are_put_back_after_a_failure() -> None:
    class Failing(Drawing):
        def __iter__(self) -> Iterator[int]:
            torch.rand(1)
            raise OSError("the list is gone")

    before = torch.get_rng_state()
    with pytest.raises(OSError, match="the list is gone"):
        ForeignSampler(Failing("torch")).take(0, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_pass_is_told_and_the_users_own_sampler_is_left_alone() -> None:
    sampler = Rotated()
    repeat = RepeatSampler(ForeignSampler(sampler))
    assert repeat.take(13, 17).tolist() == [0, 1, 3, 4]
    assert repeat.take(0, 7).tolist() == [0, 1, 2, 3, 4, 1, 2]
    assert sampler.epoch == 0


def test_the_pass_is_told_to_a_sampler_inside_a_batch_sampler() -> None:
    repeat = RepeatBatchSampler(ForeignBatchSampler(Wrapped(Rotated())))
    assert [batch.tolist() for batch in repeat.take(0, 4)] == [[0, 1], [2, 3], [1, 2], [3, 4]]


class Counting(Rotated):
    """Notes which passes it was asked for, in a list that copies share."""

    class Notes:
        def __init__(self) -> None:
            self.passes: list[int] = []

    def __init__(self) -> None:
        super().__init__()
        self.notes = Counting.Notes()

    def __iter__(self) -> Iterator[int]:
        self.notes.passes.append(self.epoch)
        return super().__iter__()


def test_each_pass_is_iterated_over_once_and_the_first_one_twice() -> None:
    sampler = Counting()
    repeat = RepeatSampler(ForeignSampler(sampler))
    for start in range(20):
        repeat.take(start, start + 1)
    repeat.take(0, 20)
    assert sampler.notes.passes == [0, 0, 1, 2, 3]


def test_slots_that_go_through_a_window_in_turn_iterate_over_each_pass_once() -> None:
    sampler = Counting()
    repeat = RepeatSampler(ForeignSampler(sampler))
    slots = [BatchSampler(DistributedSampler(repeat, 4, slot), 10) for slot in range(4)]
    for start in (0, 50):
        for slot in slots:
            slot.take(start, start + 50)
    # 2 windows of 50 batches of 40 records are 800 passes of 5.
    assert sampler.notes.passes == [0, *range(800)]


def test_of_long_passes_only_the_last_is_kept() -> None:
    class Long(Counting):
        def __len__(self) -> int:
            return 2**20

        def __iter__(self) -> Iterator[int]:
            super().__iter__()
            return iter(range(2**20))

    sampler = Long()
    repeat = RepeatSampler(ForeignSampler(sampler))
    for epoch in (0, 0, 1, 1, 0):
        repeat.take(epoch * 2**20, epoch * 2**20 + 1)
    assert sampler.notes.passes == [0, 0, 1, 0]


def test_a_long_pass_is_let_go_before_the_next_is_read() -> None:
    class Watching(Counting):
        def __len__(self) -> int:
            return 2**20

        def __iter__(self) -> Iterator[int]:
            if self.epoch == 1:
                alive.append(watched() is not None)
            return iter(range(2**20))

    alive: list[bool] = []
    sequence = ForeignSampler(Watching()).sequence
    assert isinstance(sequence, ForeignRecords)
    watched = weakref.ref(sequence._passes.window(0))
    sequence._passes.window(1)
    assert alive == [False]


def test_what_a_reader_writes_into_an_answer_changes_no_other() -> None:
    for sampler in (ForeignBatchSampler(Wrapped(Rotated())), RepeatBatchSampler([[3, 1], [2]])):
        first = [batch.tolist() for batch in sampler.take(0, 2)]
        sampler.take(0, 1)[0][0] = 77
        assert [batch.tolist() for batch in sampler.take(0, 2)] == first


def test_a_chain_over_a_foreign_sampler_resumes_at_any_batch() -> None:
    def chain(skip: int) -> SkipBatchSampler:
        bottom = WeightedRandomSampler(torch.arange(1.0, 11), 10)
        share = DistributedSampler(RepeatSampler(bottom), 2, 1)
        return SkipBatchSampler(BatchSampler(share, 3), skip)

    straight = list(itertools.islice(chain(0), 20))
    for skip in range(20):
        torch.manual_seed(skip)
        assert list(itertools.islice(chain(skip), 20 - skip)) == straight[skip:]


def test_one_warning_says_what_it_costs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            RepeatSampler(RandomSampler(range(10)))
        SkipBatchSampler(TorchBatchSampler(RandomSampler(range(10)), 2, False), 1)
        RepeatBatchSampler(Wrapped(Rotated()))
    assert caplog.messages == [
        "torch.utils.data.sampler.RandomSampler " + WARNING.format("ForeignSampler(sampler, seed)"),
        "foreign_classes.Wrapped " + WARNING.format("ForeignBatchSampler(batch_sampler, seed)"),
    ]


def test_what_needs_no_iteration_or_is_meant_brings_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        plain = RepeatSampler(TorchSequentialSampler(range(10)))
        batches = SkipBatchSampler(
            TorchBatchSampler(TorchSequentialSampler(range(10**12)), 3, True), 10**11
        )
        RepeatSampler(ForeignSampler(RandomSampler(range(10))))
    assert caplog.messages == []
    assert plain.sequence.stages == ("Sequential", "Repeat")
    assert batches.take(0, 1)[0].tolist() == [3 * 10**11, 3 * 10**11 + 1, 3 * 10**11 + 2]
    assert batches.num_positions == 10**12 // 3 - 10**11


def test_an_order_that_is_written_out_is_read_at_any_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert RepeatSampler([3, 1, 2]).take(2, 5).tolist() == [2, 3, 1]
        assert RepeatSampler((3, 1)).take(1, 3).tolist() == [1, 3]
        assert RepeatSampler(np.array([3, 1])).take(1, 3).tolist() == [1, 3]
        assert RepeatSampler(torch.tensor([3, 1])).take(1, 3).tolist() == [1, 3]
        assert RepeatSampler(range(4, 10, 2)).take(1, 4).tolist() == [6, 8, 4]
        assert RepeatSampler(range(10**15)).take(10**15 - 1, 10**15 + 1).tolist() == [10**15 - 1, 0]
        batches = RepeatBatchSampler([[3, 1], [2]])
        assert [batch.tolist() for batch in batches.take(1, 3)] == [[2], [3, 1]]
    assert caplog.messages == []


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_torch_batch_sampler_gives_the_batches_that_torch_makes_of_its_sampler(
    drop_last: bool,
) -> None:
    ours = RepeatBatchSampler(TorchBatchSampler(TorchSequentialSampler(range(10)), 4, drop_last))
    theirs = list(TorchBatchSampler(TorchSequentialSampler(range(10)), 4, drop_last))
    assert list(itertools.islice(ours, 2 * len(theirs))) == 2 * theirs


class Length:
    """Says one length and gives another number of items."""

    def __init__(self, length: int, items: Any) -> None:
        self.length = length
        self.items = items

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


@pytest.mark.parametrize(
    ("length", "items", "given"), [(4, [1, 2], "2"), (2, itertools.count(), "more than 2")]
)
def test_another_number_of_items_is_refused(length: int, items: Any, given: str) -> None:
    sampler = ForeignSampler(Length(length, items))
    message = (
        f"The Length has the length {length}, and the number of items that it gave in pass 0 is "
        f"{given}. Make __len__ the number of items that __iter__ gives."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sampler.take(0, 1)


def test_a_length_that_changes_is_refused() -> None:
    class Growing(Rotated):
        def __len__(self) -> int:
            return 5 + self.epoch

    repeat = RepeatSampler(ForeignSampler(Growing()))
    assert repeat.take(0, 5).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(
        ValueError,
        match=r"^The Growing had the length 5 when the chain was made, and has 6 in pass 1\. Give "
        r"a sampler whose length stays the same\.$",
    ):
        repeat.take(5, 7)


@pytest.mark.parametrize(
    ("items", "wrong"),
    [
        ([[1, 2], [3, 4]], r"\[1, 2\]"),
        ([[1], [2, 3]], r"\[1\]"),
        ([1, "b"], "'b'"),
        ([1, 0.5], r"0\.5"),
    ],
)
def test_items_that_are_no_records_are_refused(items: list[Any], wrong: str) -> None:
    with pytest.raises(
        TypeError,
        match=rf"^The Length gave {wrong}, which is not the number of a record\. A sampler of "
        r"batches belongs into the samplers whose name has Batch before Sampler\.$",
    ):
        ForeignSampler(Length(2, items)).take(0, 2)


def test_items_that_are_no_batches_are_refused() -> None:
    with pytest.raises(
        TypeError,
        match=r"^The Length gave 3, which is not a batch of records\. Put a BatchSampler around a "
        r"sampler of records\.$",
    ):
        ForeignBatchSampler(Length(1, [3])).take(0, 1)


def test_batches_that_are_written_out_are_read_once_when_the_chain_is_made() -> None:
    listed: list[Any] = [[3, 1], np.array([2]), []]
    repeat = RepeatBatchSampler(listed)
    assert repeat.sequence.min_num_records == 4
    listed[0] = listed[1][0] = 9
    assert [batch.tolist() for batch in repeat.take(0, 4)] == [[3, 1], [2], [], [3, 1]]
    with pytest.raises(TypeError, match=r"^The list gave 3, which is not a batch of records\."):
        RepeatBatchSampler([[1], 3])  # type: ignore[list-item]


def test_tensors_and_numpy_numbers_are_records() -> None:
    items = [torch.tensor(3), torch.tensor(1)]
    assert list(ForeignSampler(Length(2, items))) == [3, 1]
    assert list(ForeignBatchSampler(Length(1, [np.array([4, 2])]))) == [[4, 2]]
    assert list(ForeignSampler(Length(0, []))) == []


def test_a_mixture_reads_the_length_of_the_dataset_from_torchs_samplers() -> None:
    mixture = MixtureSampler([RandomSampler(range(10), num_samples=4), 5], [1, 1])
    assert mixture.sequence.num_records == 15
    assert set(mixture.take(0, 100)[1::2].tolist()) == {10, 11, 12, 13, 14}


def test_as_sampler_makes_ours_of_anything() -> None:
    ours = RepeatSampler([3, 1])
    assert as_sampler(ours) is ours
    assert list(as_sampler([3, 1])) == list(as_sampler(range(3, 0, -2))) == [3, 1]
    for seed in (5, 6):
        made = as_sampler(Drawing("random"), seed)
        assert isinstance(made, RandomAccessSampler)
        assert list(made) == list(ForeignSampler(Drawing("random"), seed))
    assert list(as_sampler(Drawing("random"))) == list(as_sampler(Drawing("random"), 0))
    with pytest.raises(TypeError, match=r"^builtins\.int is not a sampler of records: it has no "):
        as_sampler(3)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"BatchSampler is not a sampler of records: it is one of b"
    ):
        as_sampler(BatchSampler([1], 1))  # type: ignore[arg-type]


def test_as_batch_sampler_makes_ours_of_anything() -> None:
    ours = RepeatBatchSampler([[3, 1], [2]])
    assert as_batch_sampler(ours) is ours
    assert list(as_batch_sampler([[3, 1], [2]])) == [[3, 1], [2]]
    assert list(as_batch_sampler(TorchBatchSampler([3, 1, 2], 2, True))) == [[3, 1]]
    for seed in (5, 6):
        made = as_batch_sampler(Wrapped(Drawing("random")), seed)
        assert isinstance(made, RandomAccessBatchSampler)
        assert list(made) == list(ForeignBatchSampler(Wrapped(Drawing("random")), seed))
    inside = as_batch_sampler(TorchBatchSampler(Drawing("random"), 20, False), 6)
    assert list(inside) == [list(ForeignSampler(Drawing("random"), 6))]
    with pytest.raises(TypeError, match=r"^builtins\.int is not a sampler of batches: it has no "):
        as_batch_sampler(3)  # type: ignore[arg-type]


def test_a_sampler_that_deals_out_is_a_stage_of_its_kind() -> None:
    theirs: TorchDistributedSampler[int] = TorchDistributedSampler(
        range(10),  # type: ignore[arg-type]
        num_replicas=2,
        rank=1,
    )
    assert as_sampler(theirs).sequence.stages == ("Distributed",)
    assert RepeatSampler(theirs).sequence.stages == ("Distributed", "Repeat")
    in_batches = as_batch_sampler(TorchBatchSampler(theirs, 2, False))
    assert in_batches.sequence.stages == ("Distributed", "Batch")
    assert as_batch_sampler(Wrapped(theirs)).sequence.stages == ("Distributed",)
    assert as_batch_sampler(Wrapped(Rotated())).sequence.stages == ("Wrapped",)
    expected = []
    for epoch in range(3):
        theirs.set_epoch(epoch)
        expected += list(theirs)
    assert RepeatSampler(theirs).take(0, 15).tolist() == expected
