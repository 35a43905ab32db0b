"""A sampler from elsewhere resumes exactly: each pass is a function of (seed, pass)."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler as TorchBatchSampler
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
    RepeatBatchSampler,
    RepeatSampler,
    SkipBatchSampler,
    _adapting,
)

WARNING = (
    "is iterated over once in each pass: its cost and memory grow with the whole pass, and it "
    "resumes exactly only if it is deterministic when seeded. "
    "trialrun.samplers.ForeignSampler(sampler, seed) says that this is meant."
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


def test_only_the_pass_read_last_is_kept() -> None:
    class Counting(Rotated):
        num_passes = 0

        def __iter__(self) -> Iterator[int]:
            Counting.num_passes += 1
            return super().__iter__()

    repeat = RepeatSampler(ForeignSampler(Counting()))
    for start in range(5):
        repeat.take(start, start + 1)
    assert Counting.num_passes == 1
    repeat.take(4, 6)
    assert Counting.num_passes == 2
    repeat.take(0, 1)
    assert Counting.num_passes == 3


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
        f"torch.utils.data.sampler.RandomSampler {WARNING}",
        f"{__name__}.Wrapped {WARNING}",
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
    theirs = Length(2, [1, 2])
    repeat = RepeatSampler(ForeignSampler(theirs))
    assert repeat.take(0, 2).tolist() == [1, 2]
    theirs.length = 3
    with pytest.raises(
        ValueError,
        match=r"^The Length had the length 2 when the chain was made, and has 3 in pass 1\. Give a "
        r"sampler whose length stays the same\.$",
    ):
        repeat.take(2, 4)


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


def test_tensors_and_numpy_numbers_are_records() -> None:
    items = [torch.tensor(3), torch.tensor(1)]
    assert list(ForeignSampler(Length(2, items))) == [3, 1]
    assert list(ForeignBatchSampler(Length(1, [np.array([4, 2])]))) == [[4, 2]]
    assert list(ForeignSampler(Length(0, []))) == []


def test_a_mixture_reads_the_length_of_the_dataset_from_torchs_samplers() -> None:
    mixture = MixtureSampler([RandomSampler(range(10), num_samples=4), 5], [1, 1])
    assert mixture.sequence.num_records == 15
    assert set(mixture.take(0, 100)[1::2].tolist()) == {10, 11, 12, 13, 14}
