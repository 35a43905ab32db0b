"""Every mistake in making a sampler is refused with the value, the rule and the next step."""

from __future__ import annotations

import math
from collections.abc import Callable
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
        r"num_workers=0 is not a whole number of at least 1\. Give such a number for num_workers\.",
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
        r"num_workers=0 is not a whole number of at least 1\.",
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
        r"batch_size=0 is not a whole number of at least 1\. Give such a number for batch_size\.",
    ),
    (lambda: BatchSampler(TEN, True), r"batch_size=True is not a whole number of at least 1\."),
    (
        lambda: SkipBatchSampler(BATCHES, -1),
        r"skip=-1 is not a whole number of at least 0\. Give such a number for skip\.",
    ),
    (lambda: SkipSampler(TEN, -1), r"skip=-1 is not a whole number of at least 0\."),
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
        r"batches_per_pool=0 is not a whole number of at least 1\.",
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
        r"All 2 weights are 0, so no record could be drawn\. Give at least one record a weight "
        r"above 0\.$",
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
        r"2 samplers have 3 proportions\. Give one proportion for each sampler\.$",
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
        r"2 samplers have 1 dataset_lengths\. Give one length for each sampler\.$",
    ),
    (
        lambda: MixtureSampler([5, 5], [1, 1], [4, 5]),
        r"dataset_lengths\[0\]=4 is not a whole number of at least 5 and below",
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
            r"builtins\.dict is not a sampler of records, that has __iter__ and __len__ and whose "
            r"items have no numbers",
        ),
        (iter([3]), r"builtins\.list_iterator is not a sampler of records, that has"),
        (
            torch.utils.data.TensorDataset(torch.zeros(3)),
            r"torch\.utils\.data\.dataset\.TensorDataset is not a sampler of records, that has",
        ),
        (
            BATCHES,
            r"trialrun\.samplers\._batch_samplers\.BatchSampler is not a sampler of records, but "
            r"one of batches",
        ),
        (
            torch.utils.data.BatchSampler([1], 1, False),
            r"torch\.utils\.data\.sampler\.BatchSampler is not a sampler of records, but one of "
            r"batches",
        ),
    ],
)
def test_what_is_no_sampler_of_records_is_refused(
    make: Callable[[Any], Any], sampler: object, message: str
) -> None:
    example = r"trialrun\.samplers\.SequentialSampler\(len\(dataset\)\)"
    with pytest.raises(TypeError, match=rf"^{message}.*\. Give one, for example {example}\.$"):
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
    example = r"Give one, for example trialrun\.samplers\.BatchSampler\(sampler, batch_size\)\.$"
    with pytest.raises(
        TypeError,
        match=r"^trialrun\.samplers\._index_samplers\.SequentialSampler is not a sampler of "
        rf"batches, but one of records\. {example}",
    ):
        make(TEN)
    with pytest.raises(
        TypeError, match=rf"^builtins\.dict is not a sampler of batches, .* {example}"
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
