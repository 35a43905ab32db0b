"""Every mistake in making a sampler is refused with the value, the rule and the next step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch.utils.data import RandomSampler
from torch.utils.data import SequentialSampler as TorchSequentialSampler

from trialrun.samplers import (
    BatchSampler,
    DistributedSampler,
    RepeatSampler,
    ReproducibleShuffleSampler,
    SequentialSampler,
    SkipBatchSampler,
)

TEN = SequentialSampler(10)
BATCHES = BatchSampler(TEN, 2)
ENDLESS = RepeatSampler(TEN)

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
        lambda: ReproducibleShuffleSampler(ENDLESS, 0),
        r"An endless RepeatSampler cannot be shuffled: that needs a sequence with an end\. "
        r"Put the RepeatSampler around the result instead\.",
    ),
    (
        lambda: ReproducibleShuffleSampler(DistributedSampler(ENDLESS, 2, 0), 0),
        r"An endless DistributedSampler cannot be shuffled",
    ),
    (lambda: RepeatSampler(ENDLESS), r"An endless RepeatSampler cannot be repeated"),
    (
        lambda: RepeatSampler(SequentialSampler(0)),
        r"A SequentialSampler of length 0 cannot be repeated: a pass needs at least one record\. "
        r"Check the path or the split that the dataset reads, and that there are no more workers "
        r"than records\.",
    ),
    (
        lambda: RepeatSampler(DistributedSampler(SequentialSampler(2), 4, 3)),
        r"A DistributedSampler of length 0 cannot be repeated",
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
        lambda: BatchSampler(TEN, 0),
        r"batch_size=0 is not a whole number of at least 1\. Give such a number for batch_size\.",
    ),
    (lambda: BatchSampler(TEN, True), r"batch_size=True is not a whole number of at least 1\."),
    (
        lambda: SkipBatchSampler(BATCHES, -1),
        r"skip=-1 is not a whole number of at least 0\. Give such a number for skip\.",
    ),
]


@pytest.mark.parametrize(("make", "message"), WRONG_VALUES)
def test_wrong_values_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda sampler: ReproducibleShuffleSampler(sampler, 0),
        lambda sampler: RepeatSampler(sampler),
        lambda sampler: DistributedSampler(sampler, 2, 0),
        lambda sampler: BatchSampler(sampler, 2),
    ],
)
@pytest.mark.parametrize(
    ("sampler", "name"),
    [
        (RandomSampler(range(10)), r"torch\.utils\.data\.sampler\.RandomSampler"),
        (TorchSequentialSampler(range(10)), r"torch\.utils\.data\.sampler\.SequentialSampler"),
        (range(10), r"builtins\.range"),
        (BATCHES, r"trialrun\.samplers\._batch_samplers\.BatchSampler"),
    ],
)
def test_a_sampler_without_random_access_is_refused(
    make: Callable[[Any], Any], sampler: object, name: str
) -> None:
    with pytest.raises(
        TypeError,
        match=rf"^{name} is not a sampler of records with take\(start, stop\), which exact resume "
        r"needs\. Give a RandomAccessSampler, for example "
        r"trialrun\.samplers\.SequentialSampler\(len\(dataset\)\)\.$",
    ):
        make(sampler)


def test_a_batch_sampler_without_random_access_is_refused() -> None:
    with pytest.raises(
        TypeError,
        match=r"^trialrun\.samplers\._index_samplers\.SequentialSampler is not a sampler of "
        r"batches with take\(start, stop\).* Give a RandomAccessBatchSampler, for example "
        r"trialrun\.samplers\.BatchSampler\(\.\.\.\)\.$",
    ):
        SkipBatchSampler(TEN, 0)  # type: ignore[arg-type]
