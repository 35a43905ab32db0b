"""A sampler from elsewhere resumes exactly: each pass is a function of (seed, pass)."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import random
import weakref
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler as TorchBatchSampler
from torch.utils.data import DistributedSampler as TorchDistributedSampler
from torch.utils.data import (
    RandomSampler,
    Sampler,
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
from trialrun.samplers._foreign_copies import copy_for_pass, pristine_copy

WARNING = (
    "is iterated over once in each pass: its cost and memory grow with the whole pass, and it "
    "resumes exactly only if it is deterministic when seeded. "
    "trialrun.samplers.{} says that this is meant."
)


@pytest.fixture(autouse=True)
def nothing_warned_of() -> None:
    _adapting._warn_of_iteration.cache_clear()


class Drawing:
    """A shuffle by somebody else, with a generator that every pass moves on."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.own: Any = {
            "numpy state": np.random.RandomState(1),
            "numpy generator": np.random.default_rng(1),
            "random": random.Random(1),
            "torch": torch.Generator().manual_seed(1),
        }.get(kind)

    def __len__(self) -> int:
        return 20

    def __iter__(self) -> Iterator[int]:
        order = list(range(20))
        if self.kind in ("numpy state", "numpy generator"):
            self.own.shuffle(order)
        elif self.kind == "random":
            self.own.shuffle(order)
        elif self.kind == "torch":
            order = torch.randperm(20, generator=self.own).tolist()
        elif self.kind == "process's torch":
            order = torch.randperm(20).tolist()
        elif self.kind == "process's numpy":
            np.random.shuffle(order)
        else:
            random.shuffle(order)
        return iter(order)


class Rotated(Sampler[int]):
    """As torch's DistributedSampler it must be told the pass."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[int]:
        return iter((i + self.epoch) % 5 for i in range(5))


class Wrapped(Sampler[list[int]]):
    """Somebody's batches over a sampler that draws."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler) // 2

    def __iter__(self) -> Iterator[list[int]]:
        records = iter(self.sampler)
        return iter([[next(records), next(records)] for _ in range(len(self))])


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


class Shuffling:
    """Shuffles a container of its own in place, as many hand-written samplers do."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        order = list(range(20))
        self.order: Any = {
            "deque": deque(order),
            "array": np.arange(20),
            "tensor": torch.arange(20),
            "dict": dict(zip(order, order, strict=True)),
            "lists in a dict": {"even": order[::2], "odd": order[1::2]},
            "list in a tuple": (order, "train"),
            "sampler in a list": [],
        }.get(kind, order)
        if kind == "sampler in a list":
            self.order = [ShufflingSampler("list")]
        self.same = self.order

    def __len__(self) -> int:
        return 20

    def __iter__(self) -> Iterator[int]:
        order: Any = self.order
        assert self.same is order
        if self.kind == "tensor":
            order.copy_(order[torch.randperm(20)])
        elif self.kind == "array":
            np.random.shuffle(order)
        elif self.kind == "dict":
            first, last = order.popitem(), order.popitem()
            order.update([first, last])
            order.update({random.randrange(20): order.pop(random.randrange(18))})
            order.update({key: key for key in set(range(20)) - set(order)})
            order = list(order)
        elif self.kind == "lists in a dict":
            for records in order.values():
                random.shuffle(records)
            order = [*order["even"], *order["odd"]]
        elif self.kind == "list in a tuple":
            random.shuffle(order[0])
            order = order[0]
        elif self.kind == "sampler in a list":
            order = order[0]
        else:
            random.shuffle(order)
        return iter([int(record) for record in order])


class ShufflingSampler(Shuffling, Sampler[int]):
    """The same, as torch's interface has it."""


SHUFFLING = [
    "list",
    "deque",
    "array",
    "tensor",
    "dict",
    "lists in a dict",
    "list in a tuple",
    "sampler in a list",
]


@pytest.mark.parametrize("kind", SHUFFLING)
def test_an_order_shuffled_in_place_carries_nothing_from_pass_to_pass(kind: str) -> None:
    straight = RepeatSampler(ForeignSampler(Shuffling(kind), 5)).take(0, 80)
    assert (np.sort(straight.reshape(4, 20), axis=1) == np.arange(20)).all()
    assert len({tuple(items) for items in straight.reshape(4, 20).tolist()}) == 4
    for start in range(0, 80, 7):
        resumed = RepeatSampler(ForeignSampler(Shuffling(kind), 5)).take(start, 80)
        assert resumed.tolist() == straight[start:].tolist()


@pytest.mark.parametrize("kind", SHUFFLING)
def test_chains_over_one_sampler_share_out_each_pass_exactly(kind: str) -> None:
    sampler, adapter = Shuffling(kind), ForeignSampler(Shuffling(kind), 5)
    straight = RepeatSampler(ForeignSampler(Shuffling(kind), 5)).take(0, 80).tolist()
    for bottoms in ([ForeignSampler(sampler, 5), ForeignSampler(sampler, 5)], [adapter, adapter]):
        chains = [
            BatchSampler(DistributedSampler(RepeatSampler(bottom), 2, slot), 3)
            for slot, bottom in enumerate(bottoms)
        ]
        # 3 batches of 6 records straddle passes of 20.
        windows = [[chain.take(k, k + 3) for chain in chains] for k in range(0, 12, 3)]
        shares = [np.concatenate([b for window in windows for b in window[s]]) for s in range(2)]
        assert np.stack(shares, axis=1).reshape(-1).tolist() == straight[:72]


def test_what_becomes_of_the_users_sampler_later_does_not_matter() -> None:
    sampler = Shuffling("list")
    expected = RepeatSampler(ForeignSampler(Shuffling("list"), 5)).take(0, 60).tolist()
    repeat = RepeatSampler(ForeignSampler(sampler, 5))
    sampler.order.reverse()
    assert repeat.take(0, 30).tolist() == expected[:30]
    sampler.order.clear()
    assert repeat.take(30, 60).tolist() == expected[30:]
    assert sampler.order == []


class Holding:
    """Its generators are in containers."""

    def __init__(self, container: str, kind: str) -> None:
        pair = [Drawing(kind).own, Drawing(kind).own]
        self.kind = kind
        self.rngs: Any = {
            "list": pair,
            "dict": dict(enumerate(pair)),
            "tuple": tuple(pair),
            "list in a dict": {"train": pair},
        }[container]

    def __len__(self) -> int:
        return 20

    def __iter__(self) -> Iterator[int]:
        rngs = self.rngs["train"] if "train" in self.rngs else self.rngs
        halves = []
        for number in range(2):
            part: Any = Drawing(self.kind)
            part.own = rngs[number]
            halves.append([record % 10 + 10 * number for record in part if record < 10])
        # Two generators must not draw alike.
        assert halves[0] != [record - 10 for record in halves[1]]
        return iter([*halves[0], *halves[1]])


@pytest.mark.parametrize("kind", ["numpy state", "numpy generator", "random", "torch"])
@pytest.mark.parametrize("container", ["list", "dict", "tuple", "list in a dict"])
def test_generators_in_a_container_are_seeded(container: str, kind: str) -> None:
    straight = RepeatSampler(ForeignSampler(Holding(container, kind), 5)).take(0, 80)
    assert len({tuple(items) for items in straight.reshape(4, 20).tolist()}) == 4
    other = RepeatSampler(ForeignSampler(Holding(container, kind), 5))
    assert other.take(50, 80).tolist() == straight[50:].tolist()
    assert other.take(0, 50).tolist() == straight[:50].tolist()


def test_datasets_models_and_what_cannot_be_written_into_are_not_copied(tmp_path: Path) -> None:
    class Heavy(Rotated):
        def __init__(self) -> None:
            super().__init__()
            self.data_source = ["a", "b", "c", "d", "e"]
            self.rows = torch.utils.data.TensorDataset(torch.zeros(5))
            self.model = torch.nn.Linear(2, 2)
            self.weights = torch.nn.Parameter(torch.zeros(3))
            self.fixed = np.arange(3)
            self.fixed.setflags(write=False)
            self.mapped = np.memmap(tmp_path / "tokens", dtype=np.int32, mode="w+", shape=(3,))
            self.everything = dict(vars(self))
            self.copied = [np.arange(3), torch.zeros(3)]

    sampler = Heavy()
    twin = copy_for_pass(pristine_copy(sampler), lambda _: (1, 2, 3, 4), 0)
    names = ("data_source", "rows", "model", "weights", "fixed", "mapped")
    assert all(getattr(twin, name) is getattr(sampler, name) for name in names)
    assert all(twin.everything[name] is getattr(sampler, name) for name in names[1:])
    assert not any(a is b for a, b in zip(twin.copied, sampler.copied, strict=True))


def test_a_frozen_sampler_is_copied() -> None:
    @dataclasses.dataclass(frozen=True)
    class Frozen:
        order: list[int]

        def __len__(self) -> int:
            return len(self.order)

        def __iter__(self) -> Iterator[int]:
            random.shuffle(self.order)
            return iter(self.order)

    order = list(range(9))
    assert sorted(ForeignSampler(Frozen(order))) == order == list(range(9))


class Elsewhere:
    """Keeps its place in an object of which nothing is known."""

    class Place:
        number = 0

    def __init__(self, items: Any = (5, 6, 7), change: int = 0) -> None:
        self.items = items
        self.change = change
        self.place = Elsewhere.Place()

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        self.place.number += 1
        if self.place.number > 1 and self.change < 0:
            return iter(self.items[:2])
        changed = [*self.items[:2], self.items[2]]
        if self.place.number > 1:
            changed[2] = changed[self.change]
        return iter(changed)


@pytest.mark.parametrize("change", [0, -1])
@pytest.mark.parametrize(
    ("adapter", "items"),
    [(ForeignSampler, (5, 6, 7)), (ForeignBatchSampler, ([1, 2], [3, 4], [5, 6]))],
)
def test_a_sampler_that_cannot_repeat_a_pass_is_refused(
    adapter: Any, items: Any, change: int
) -> None:
    with pytest.raises(
        ValueError,
        match=r"^The Elsewhere gave other items when pass 0 was read a second time, from item 2 "
        r"on, so it could not resume exactly\. Let __iter__ depend on nothing that it changes, but "
        r"for its own lists, dictionaries, arrays and tensors, and draw from torch, numpy or "
        r"random\.$",
    ):
        adapter(Elsewhere(items, change)).take(0, 1)


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
        f"{__name__}.Wrapped " + WARNING.format("ForeignBatchSampler(batch_sampler, seed)"),
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
    ("length", "items", "message"),
    [
        (4, [1, 2], r"gave 2 items in pass 0, and its length is 4\."),
        (2, itertools.count(), r"gave more than 2 items in pass 0, and its length is 2\."),
    ],
)
def test_another_number_of_items_is_refused(length: int, items: Any, message: str) -> None:
    sampler = ForeignSampler(Length(length, items))
    rest = r" Make __len__ the number of items that __iter__ gives\."
    with pytest.raises(ValueError, match=f"^The Length {message}{rest}$"):
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
