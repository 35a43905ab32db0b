"""Every mistake in making a sampler is refused with the value, the rule and the next step."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from trialrun.samplers import (
    BatchSampler,
    DistributedBatchSampler,
    DistributedSampler,
    ForeignBatchSampler,
    ForeignSampler,
    LengthGroupedBatchSampler,
    MixtureSampler,
    RepeatBatchSampler,
    RepeatSampler,
    ReproducibleShuffleBatchSampler,
    ReproducibleShuffleSampler,
    SequentialSampler,
    SkipBatchSampler,
    SkipSampler,
    SubsetSampler,
    WeightedSampler,
)

TEN = SequentialSampler(10)
BATCHES = BatchSampler(TEN, 2)
ENDLESS = RepeatSampler(TEN)
RIGHT_ORDER = r" Build the chain in the order Shuffle -> Repeat -> Distributed -> Batch -> Skip\.$"

WRONG_VALUES: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: SequentialSampler(-1),
        r"length=-1 is not a whole number of at least 0 and below 4611686018427387905\. "
        r"Give such a number for length\.",
    ),
    (lambda: SequentialSampler(1.5), r"length=1\.5 is not a whole number"),  # type: ignore[arg-type]
    (
        lambda: ReproducibleShuffleSampler(TEN, -2),
        r"seed=-2 is not a whole number of at least 0\. Give such a number for seed\.",
    ),
    (
        lambda: ReproducibleShuffleBatchSampler(BATCHES, -2),
        r"seed=-2 is not a whole number of at least 0\.",
    ),
    (
        lambda: RepeatSampler(SequentialSampler(0)),
        r"Sequential of length 0 cannot be repeated: a pass needs at least one item\. Check the "
        r"path or the split that the dataset reads, that there are no more workers than items, and "
        r"that drop_last leaves a batch\.$",
    ),
    (
        lambda: RepeatSampler(DistributedSampler(SequentialSampler(2), 4, 3)),
        r"Sequential -> Distributed of length 0 cannot be repeated",
    ),
    (
        lambda: RepeatBatchSampler(BatchSampler(TEN, 11, drop_last=True)),
        r"Sequential -> Batch of length 0 cannot be repeated",
    ),
    (
        lambda: DistributedSampler(TEN, 0, 0),
        r"num_workers=0 is not a whole number of at least 1 and below 4611686018427387905\. Give "
        r"such a number for num_workers\.$",
    ),
    (
        lambda: DistributedSampler(TEN, 4, 4),
        r"rank=4 is not a whole number of at least 0 and below 4\. Give such a number for rank\.",
    ),
    (
        lambda: DistributedSampler(TEN, 4, -1),
        r"rank=-1 is not a whole number of at least 0 and below 4\.",
    ),
    (
        lambda: DistributedBatchSampler(BATCHES, 0, 0),
        r"num_workers=0 is not a whole number of at least 1 and below",
    ),
    (
        lambda: DistributedBatchSampler(BATCHES, 4, 4),
        r"rank=4 is not a whole number of at least 0 and below 4\.",
    ),
    (
        lambda: DistributedBatchSampler(BATCHES, 4, -1),
        r"rank=-1 is not a whole number of at least 0 and below 4\.",
    ),
    (
        lambda: BatchSampler(TEN, 0),
        r"batch_size=0 is not a whole number of at least 1 and below 4611686018427387905\. Give "
        r"such a number for batch_size\.$",
    ),
    (lambda: BatchSampler(TEN, True), r"batch_size=True is not a whole number of at least 1 "),
    (
        lambda: SkipBatchSampler(BATCHES, -1),
        r"skip=-1 is not a whole number of at least 0 and below 4611686018427387905\. Give such a "
        r"number for skip\.$",
    ),
    (lambda: SkipSampler(TEN, -1), r"skip=-1 is not a whole number of at least 0 "),
    (lambda: BatchSampler(TEN, 2**64), r"batch_size=18446744073709551616 is not .* below 46116860"),
    (
        lambda: DistributedSampler(TEN, 2**64, 0),
        r"num_workers=18446744073709551616 is not .* below",
    ),
    (
        lambda: DistributedBatchSampler(BATCHES, 2**64, 0),
        r"num_workers=18446744073709551616 is not .* below 4611686018427387905\.",
    ),
    (lambda: SkipSampler(TEN, 2**70), r"skip=1180591620717411303424 is not .* below 46116860"),
    (lambda: SkipBatchSampler(BATCHES, 2**63), r"skip=9223372036854775808 is not .* below 46116"),
    (
        lambda: LengthGroupedBatchSampler([3], 2**64, 0),
        r"batch_size=18446744073709551616 is not .* below 4611686018427387905\.",
    ),
    (
        lambda: LengthGroupedBatchSampler([3], 2, 0, batches_per_pool=2**64),
        r"batches_per_pool=18446744073709551616 is not .* below 4611686018427387905\.",
    ),
    (lambda: ForeignSampler({1, 2}, -1), r"seed=-1 is not a whole number of at least 0\."),
]

WRONG_LISTS: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: SubsetSampler([3, -4]),
        r"indices\[1\]=-4 is negative\. Give whole numbers of at least 0 for indices\.$",
    ),
    (
        lambda: SubsetSampler([0.5, 2]),
        r"indices has the shape \(2,\) and the type float64\. Give one whole number of at least 0 "
        r"and below 2\*\*63 for each entry of indices\.$",
    ),
    (lambda: SubsetSampler([[1], [2]]), r"indices has the shape \(2, 1\) and the type int64\."),
    (
        lambda: SubsetSampler([[1], [2, 3]]),
        r"indices is no list of whole numbers, but one of lists\. Give one whole number of at "
        r"least 0 for each entry of indices\.$",
    ),
    (lambda: SubsetSampler([2**63]), r"indices has the shape \(1,\) and the type uint64\."),
    (
        lambda: LengthGroupedBatchSampler([3, 5, -1], 2, 0),
        r"lengths\[2\]=-1 is negative\. Give whole numbers of at least 0 for lengths\.$",
    ),
    (lambda: LengthGroupedBatchSampler([3], 0, 0), r"batch_size=0 is not a whole number"),
    (lambda: LengthGroupedBatchSampler([3], 2, -1), r"seed=-1 is not a whole number"),
    (
        lambda: LengthGroupedBatchSampler([3], 2, 0, batches_per_pool=0),
        r"batches_per_pool=0 is not a whole number of at least 1 ",
    ),
    (
        lambda: WeightedSampler([1, -2.0], 5, 0),
        r"weights\[1\]=-2\.0 is not a finite number of at least 0\. Give such a weight for each "
        r"record\.$",
    ),
    (lambda: WeightedSampler([math.nan], 5, 0), r"weights\[0\]=nan is not a finite number"),
    (lambda: WeightedSampler([1, math.inf], 5, 0), r"weights\[1\]=inf is not a finite number"),
    (
        lambda: WeightedSampler([0, 0], 5, 0),
        r"No weight \(of 2\) is above 0, so no record could be drawn\. Give at least one record "
        r"a weight above 0\.$",
    ),
    (
        lambda: WeightedSampler([1e308, 1e308], 5, 0),
        r"The sum of the weights is infinite\. Divide all weights by one number\.$",
    ),
    (
        lambda: WeightedSampler([], 5, 0),
        r"weights has the shape \(0,\)\. Give one weight for each record, in one dimension\.$",
    ),
    (lambda: WeightedSampler([[1]], 5, 0), r"weights has the shape \(1, 1\)\."),
    (
        lambda: WeightedSampler(["a"], 5, 0),
        r"weights=\['a'\] is no list of numbers: could not convert string to float: 'a'\. Give one "
        r"finite number of at least 0 for each record\.$",
    ),
    (
        lambda: WeightedSampler([[1], [2, 3]], 5, 0),
        r"weights=\[\[1\], \[2, 3\]\] is no list of num",
    ),
    (
        lambda: WeightedSampler([10**400], 5, 0),
        r"weights=\[1000.*0000\] is no list of numbers: int",
    ),
    (lambda: WeightedSampler({0: 1}, 5, 0), r"weights=\{0: 1\} is no list of numbers: "),
    (lambda: WeightedSampler([1], 0, 0), r"num_samples=0 is not a whole number of at least 1"),
    (lambda: WeightedSampler([1], 5, -1), r"seed=-1 is not a whole number"),
    (
        lambda: MixtureSampler([5, 5], [0.5, 0.6]),
        r"The proportions 0\.5, 0\.6 have the sum 1\.1\. Give proportions whose sum is 1, or whole "
        r"numbers such as 3 and 1\.$",
    ),
    (lambda: MixtureSampler([5, 5], [0, 0]), r"The proportions 0, 0 have the sum 0\."),
    (lambda: MixtureSampler([], []), r"The proportions  have the sum 0\."),
    (
        lambda: MixtureSampler([5, 5], [1.5, -0.5]),
        r"proportions\[1\]=-0\.5 is not a finite number of at least 0\. Give such a share for each "
        r"sampler\.$",
    ),
    (lambda: MixtureSampler([5], [math.nan]), r"proportions\[0\]=nan is not a finite number"),
    (lambda: MixtureSampler([5], ["1"]), r"proportions\[0\]='1' is not a finite number"),  # type: ignore[list-item]
    (
        lambda: MixtureSampler([5, 5], [0.5, 0.3, 0.2]),
        r"The number of proportions is 3, and that of samplers is 2\. Give one "
        r"proportion for each sampler\.$",
    ),
    (
        lambda: MixtureSampler([5, 5], [0.123456, 0.876544]),
        r"proportions\[0\]=0\.123456 is no fraction with a denominator of at most 10000\. Round "
        r"it, or give a fractions\.Fraction\.$",
    ),
    (
        lambda: MixtureSampler([5, 5], [Fraction(1, 2**21), 1 - Fraction(1, 2**21)]),
        r"The proportions 1/2097152, 2097151/2097152 repeat only after 2097152 positions, more "
        r"than 1048576\. Round them to a common denominator\.$",
    ),
    (lambda: MixtureSampler([5, 0], [1, 1]), r"Sequential of length 0 cannot be repeated"),
    (
        lambda: MixtureSampler([SubsetSampler([3]), 5], [1, 1]),
        r"Subset does not know the length of its dataset, by which the records of the next one are "
        r"shifted\. Give dataset_lengths\.$",
    ),
    (
        lambda: MixtureSampler([5, 5], [1, 1], [5]),
        r"The number of dataset_lengths is 1, and that of samplers is 2\. Give one "
        r"length for each sampler\.$",
    ),
    (
        lambda: MixtureSampler([5, 5], [1, 1], [4, 5]),
        r"dataset_lengths\[0\]=4 is not a whole number of at least 5 and below",
    ),
    (
        # Record 7 would be both datasets'.
        lambda: MixtureSampler([SubsetSampler([7]), 5], [1, 1], [5, 5]),
        r"dataset_lengths\[0\]=5 is not a whole number of at least 8 and below",
    ),
    (
        lambda: MixtureSampler([5, RepeatSampler([3, 9, 1])], [1, 1], [5, 9]),
        r"dataset_lengths\[1\]=9 is not a whole number of at least 10 and below",
    ),
    (
        lambda: MixtureSampler([5, -3], [1, 1]),
        r"samplers\[1\]=-3 is not a whole number of at least 0 and below 4611686018427387905\. "
        r"Give such a number for samplers\[1\]\.$",
    ),
]

WRONG_ORDERS: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: ReproducibleShuffleSampler(ENDLESS, 0),
        r"Sequential -> Repeat -> Shuffle cannot work: Shuffle needs passes with an end, and "
        r"Repeat has none\.",
    ),
    (
        lambda: ReproducibleShuffleSampler(DistributedSampler(ENDLESS, 2, 0), 0),
        r"Sequential -> Repeat -> Distributed -> Shuffle cannot work: Shuffle needs passes",
    ),
    (
        lambda: ReproducibleShuffleBatchSampler(RepeatBatchSampler(BATCHES), 0),
        r"Sequential -> Batch -> Repeat -> Shuffle cannot work: Shuffle needs passes",
    ),
    (
        lambda: ReproducibleShuffleSampler(MixtureSampler([5], [1]), 0),
        r"Mixture -> Shuffle cannot work: Shuffle needs passes with an end, and Mixture has none",
    ),
    (
        lambda: RepeatSampler(ENDLESS),
        r"Sequential -> Repeat -> Repeat cannot work: Repeat needs passes",
    ),
    (
        lambda: ReproducibleShuffleSampler(SkipSampler(TEN, 0), 0),
        r"Sequential -> Skip -> Shuffle cannot work: a skip is made once in a run, and Shuffle "
        r"would make it in every pass\.",
    ),
    (
        lambda: ReproducibleShuffleBatchSampler(SkipBatchSampler(BATCHES, 1), 0),
        r"Sequential -> Batch -> Skip -> Shuffle cannot work: a skip is made once",
    ),
    (
        lambda: RepeatSampler(SkipSampler(TEN, 1)),
        r"Sequential -> Skip -> Repeat cannot work: a skip is made once in a run, and Repeat would "
        r"make it in every pass\.",
    ),
    (
        lambda: RepeatBatchSampler(BatchSampler(DistributedSampler(SkipSampler(TEN, 1), 2, 0), 2)),
        r"Sequential -> Skip -> Distributed -> Batch -> Repeat cannot work: a skip is made once",
    ),
    (
        lambda: MixtureSampler([SkipSampler(TEN, 1)], [1]),
        r"Sequential -> Skip -> Repeat cannot work: a skip is made once",
    ),
]


class Endless(torch.utils.data.Sampler[int]):
    """As torch allows it: without a length."""

    def __iter__(self) -> Iterator[int]:
        return itertools.count()


@pytest.mark.parametrize("wrong", [None, 1.5, True, iter([3])])
def test_what_is_no_part_of_a_mixture_is_refused(wrong: Any) -> None:
    with pytest.raises(
        TypeError,
        match=rf"^samplers\[1\]={re.escape(repr(wrong))} is no sampler, dataset or length\. Give a "
        r"sampler of the dataset's records, the dataset, or its length\.$",
    ):
        MixtureSampler([5, wrong], [1, 1])


def test_a_mixture_says_what_a_sampler_in_it_lacks() -> None:
    with pytest.raises(
        TypeError, match=r"Endless is not a sampler of records: it has no __len__\."
    ):
        MixtureSampler([Endless()], [1])


def test_a_record_beyond_its_dataset_is_refused_when_a_mixture_reads_it() -> None:
    class Elsewhere:
        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Iterator[int]:
            return iter([4, 7])

    mixture = MixtureSampler([ForeignSampler(Elsewhere()), 5], [1, 1], [7, 5])
    assert mixture.take(0, 2).tolist() == [4, 7]
    with pytest.raises(
        ValueError,
        match=r"^dataset_lengths\[0\]=7, and Elsewhere -> Repeat gave the record 7, which would be "
        r"one of the next dataset\. Give the dataset's length\.$",
    ):
        mixture.take(2, 4)


def test_the_largest_legal_numbers_are_answered() -> None:
    end = 2**62
    assert BatchSampler(TEN, end).take(0, 1)[0].tolist() == list(range(10))
    assert DistributedSampler(TEN, end, 7).take(0, 1).tolist() == [7]
    assert len(DistributedSampler(TEN, end, end - 1)) == 0
    assert list(SkipSampler(TEN, end)) == []
    assert list(SkipBatchSampler(BATCHES, end)) == []
    assert list(SkipSampler(ENDLESS, end)) == []
    grouped = LengthGroupedBatchSampler([3, 1], end, 0, batches_per_pool=end)
    assert [sorted(batch) for batch in grouped] == [[0, 1]]


@pytest.mark.parametrize(("make", "message"), [*WRONG_VALUES, *WRONG_LISTS])
def test_wrong_values_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


@pytest.mark.parametrize(("make", "message"), WRONG_ORDERS)
def test_a_wrong_order_is_refused_by_naming_the_right_one(
    make: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}.*{RIGHT_ORDER}"):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda sampler: ReproducibleShuffleSampler(sampler, 0),
        lambda sampler: RepeatSampler(sampler),
        lambda sampler: DistributedSampler(sampler, 2, 0),
        lambda sampler: BatchSampler(sampler, 2),
        lambda sampler: SkipSampler(sampler, 2),
    ],
)
@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (
            {1: 2},
            r"builtins\.dict is not a sampler of records: it gives items by number or key, as a "
            r"dataset does",
        ),
        (iter([3]), r"builtins\.list_iterator is not a sampler of records: it has no __len__"),
        (
            None,
            r"builtins\.NoneType is not a sampler of records: it has no __iter__ and no __len__",
        ),
        (
            Endless(),
            rf"{__name__}\.Endless is not a sampler of records: it has no __len__",
        ),
        (
            torch.utils.data.TensorDataset(torch.zeros(3)),
            r"torch\.utils\.data\.dataset\.TensorDataset is not a sampler of records: it has no "
            r"__iter__",
        ),
        (
            BATCHES,
            r"trialrun\.samplers\._batch_samplers\.BatchSampler is not a sampler of records: it "
            r"is one of batches",
        ),
        (
            torch.utils.data.BatchSampler([1], 1, False),
            r"torch\.utils\.data\.sampler\.BatchSampler is not a sampler of records: it is one "
            r"of batches",
        ),
    ],
)
def test_what_is_no_sampler_of_records_is_refused(
    make: Callable[[Any], Any], sampler: object, message: str
) -> None:
    with pytest.raises(
        TypeError,
        match=rf"^{message}\. Give an object with __iter__ and __len__ over records, for example "
        r"trialrun\.samplers\.SequentialSampler\(len\(dataset\)\)\.$",
    ):
        make(sampler)


@pytest.mark.parametrize(
    "make",
    [
        lambda sampler: ReproducibleShuffleBatchSampler(sampler, 0),
        lambda sampler: RepeatBatchSampler(sampler),
        lambda sampler: DistributedBatchSampler(sampler, 2, 0),
        lambda sampler: SkipBatchSampler(sampler, 2),
    ],
)
def test_what_is_no_sampler_of_batches_is_refused(make: Callable[[Any], Any]) -> None:
    example = (
        r"Give an object with __iter__ and __len__ over batches, for example "
        r"trialrun\.samplers\.BatchSampler\(sampler, batch_size\)\.$"
    )
    with pytest.raises(
        TypeError,
        match=r"^trialrun\.samplers\._index_samplers\.SequentialSampler is not a sampler of "
        rf"batches: it is one of records\. {example}",
    ):
        make(TEN)
    with pytest.raises(
        TypeError,
        match=rf"^builtins\.dict is not a sampler of batches: it gives items .* {example}",
    ):
        make({1: [1, 2]})


@pytest.mark.parametrize(
    ("adapter", "own"), [(ForeignSampler, TEN), (ForeignBatchSampler, BATCHES)]
)
def test_the_adapter_for_samplers_from_elsewhere_refuses_ours(
    adapter: Callable[[Any], Any], own: Any
) -> None:
    with pytest.raises(
        TypeError,
        match=r"^trialrun\..*Sampler answers for any window by itself\. Give it as it is, without "
        r"the adapter for samplers from elsewhere\.$",
    ):
        adapter(own)


def test_positions_that_do_not_exist_are_refused() -> None:
    shuffled = ReproducibleShuffleSampler(TEN, 0)
    with pytest.raises(
        ValueError, match=r"^The record 10 is not one of 10\. Ask for records from 0 to 9\.$"
    ):
        shuffled.position_of(10, 0)
    with pytest.raises(ValueError, match=r"^records\[0\]=-1 is negative\."):
        shuffled.position_of(-1, 0)
    with pytest.raises(ValueError, match=r"^epoch=-1 is not a whole number of at least 0"):
        shuffled.position_of(1, -1)
    subset = ReproducibleShuffleSampler(SubsetSampler([7, 3]), 0)
    with pytest.raises(
        ValueError,
        match=r"^The record 8 is not one of the 2 of this subset\. Ask for a record that its "
        r"indices name\.$",
    ):
        subset.position_of(8, 0)
    share = ReproducibleShuffleSampler(DistributedSampler(TEN, 4, 1), 0)
    with pytest.raises(
        ValueError,
        match=r"^The record 6 is not in the share of rank 1; rank 2 has it\. Ask that worker's "
        r"sequence\.$",
    ):
        share.position_of(6, 0)
    batches = ReproducibleShuffleBatchSampler(BATCHES, 0)
    with pytest.raises(
        ValueError, match=r"^batch=5 is not a whole number of at least 0 and below 5"
    ):
        batches.position_of(5, 0)
    drawn = ReproducibleShuffleSampler(WeightedSampler([1, 1], 5, 0), 0)
    with pytest.raises(
        TypeError,
        match=r"^Weighted has no inverse\. Ask for the position of a record in a shuffle over "
        r"Sequential, Subset or Distributed\.$",
    ):
        drawn.position_of(1, 0)


def test_numpy_numbers_are_numbers() -> None:
    assert len(BatchSampler(SequentialSampler(np.int64(10)), np.int32(4))) == 3  # type: ignore[arg-type]
