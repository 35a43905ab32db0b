"""The samplers of records: each is the face of one sequence, with Determined's arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from fractions import Fraction
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from trialrun.samplers._adapting import AnySampler, records_of
from trialrun.samplers._checks import whole_number, whole_numbers
from trialrun.samplers._foreign_copies import is_iterable_sampler
from trialrun.samplers._random_access import RandomAccessSampler
from trialrun.samplers.sequences import (
    ENDLESS,
    Count,
    Dealt,
    IndexSequence,
    Mixed,
    Records,
    Repeated,
    Shuffled,
    Skipped,
    Subset,
    Weighted,
)


class SequentialSampler(RandomAccessSampler):
    """The records 0, 1, ..., N - 1, in every pass.

    Args:
        length: N, at most 2**62, or the dataset itself, whose length is read once.

    Raises:
        ValueError: The length is negative or no whole number.
    """

    def __init__(self, length: int | Sized) -> None:
        super().__init__(_count(length))


class SubsetSampler(RandomAccessSampler):
    """The given records, in the given order, in every pass.

    Args:
        indices: The records, each at least 0: a list, an array or a tensor.

    Raises:
        ValueError: The indices are not of that kind.
    """

    def __init__(self, indices: Any) -> None:
        super().__init__(Subset(indices))


class WeightedSampler(RandomAccessSampler):
    """Draws with replacement, each record in proportion to its weight.

    Draw p of a run is a function of (weights, seed, p). Draws count on over the passes: under a
    ``RepeatSampler``, draw i of pass e is draw e * num_samples + i.

    Args:
        weights: One for each record of the dataset, at least 0, in any unit.
        num_samples: The draws of one pass.
        seed: Any non-negative whole number.

    Raises:
        ValueError: A weight is no number, negative or not finite, all are zero, or another argument
            is out of range.
    """

    def __init__(self, weights: Any, num_samples: int, seed: int) -> None:
        super().__init__(Weighted(weights, num_samples, seed))


class MixtureSampler(RandomAccessSampler):
    """Several datasets in given proportions, without end, for a ``ConcatDataset`` of them.

    The datasets alternate by a fixed pattern, evenly spread, so that any window of one period has
    the proportions exactly: with the proportions [3, 1] the pattern is 0, 0, 1, 0. Each dataset
    goes through passes of its own: a small one is gone through more often, in a new order every
    time where its sampler shuffles, and no other notices. Give each shuffle a seed of its own:
    two datasets of one length would otherwise have one order.

    ``len()`` is the sum of the samplers' lengths.

    Args:
        samplers: For each dataset a sampler of its records, or the dataset, or its length. A list
            is a dataset here; a list of records is a ``SubsetSampler``.
        proportions: For each a share of at least 0: fractions or floats whose sum is 1, or whole
            numbers, of which 3 and 1 mean three quarters and one quarter.
        dataset_lengths: For each dataset its length; needed where the sampler does not know it, as
            a ``SubsetSampler``.

    Raises:
        ValueError: The numbers of arguments differ, a proportion is negative, their sum is not 1,
            the pattern would be longer than 2**20, a dataset with a share is empty, or a dataset's
            length is negative, missing or too small for its sampler. Where a sampler from elsewhere
            gives too large a record, this shows when it is read.
        TypeError: One of the samplers is no sampler, dataset or length.
    """

    def __init__(
        self,
        samplers: Sequence[AnySampler | Sized | int],
        proportions: Iterable[float | Fraction],
        dataset_lengths: Iterable[int] | None = None,
    ) -> None:
        components = [_component(number, sampler) for number, sampler in enumerate(samplers)]
        super().__init__(Mixed(components, proportions, dataset_lengths))


class ReproducibleShuffleSampler(RandomAccessSampler):
    """The items of another sampler in a random order, which is new in every pass.

    The order of pass e is a function of (len(sampler), seed, e), so that no earlier pass has to be
    gone through. Alone, the sampler shows pass 0; under a ``RepeatSampler``, all.

    Args:
        sampler: A finite sampler.
        seed: The trial's seed, any non-negative whole number.

    Raises:
        TypeError: It is no sampler of records.
        ValueError: The sampler is endless or skips, or the seed is negative or no whole number.
    """

    def __init__(self, sampler: AnySampler, seed: int) -> None:
        super().__init__(Shuffled(records_of(sampler), seed))

    def position_of(self, record: int, epoch: int) -> int:
        """Returns the position of a record in one pass; the inverse of the shuffle.

        Raises:
            ValueError: The record is not in the sampler, or the pass is negative.
            TypeError: The sampler below has no inverse, because a record may come more than once.
        """
        return int(self.positions_of([record], epoch)[0])

    def positions_of(self, records: Any, epoch: int) -> Records:
        """Returns the positions of several records in one pass, shape (n,).

        Raises:
            ValueError: A record is not in the sampler, or the pass is negative.
            TypeError: The sampler below has no inverse, because a record may come more than once.
        """
        return self.sequence.positions_of(epoch, whole_numbers("records", records))


class RepeatSampler(RandomAccessSampler):
    """Another sampler's pass 0, then its pass 1, and so on without end.

    A window may straddle passes. ``len()`` is the length of one pass.

    Args:
        sampler: A finite sampler with at least one item.

    Raises:
        TypeError: It is no sampler of records.
        ValueError: The sampler is empty or endless, or skips.
    """

    def __init__(self, sampler: AnySampler) -> None:
        super().__init__(Repeated(records_of(sampler)))


class DistributedSampler(RandomAccessSampler):
    """One worker's share of another sampler: item i is the worker's when i % num_workers == rank.

    Args:
        sampler: Any sampler of records, finite or endless.
        num_workers: Among how many workers the items are dealt out.
        rank: Which worker's share this is, from 0.

    Raises:
        TypeError: It is no sampler of records.
        ValueError: There is no worker, or too many, or the rank is not one of them.
    """

    def __init__(self, sampler: AnySampler, num_workers: int, rank: int) -> None:
        super().__init__(Dealt(records_of(sampler), num_workers, rank))


class SkipSampler(RandomAccessSampler):
    """Another sampler from a given item on, at the same cost for any number.

    ``len()`` is the inner sampler's: the skip is not subtracted. Iterating over a finite sampler
    gives fewer items.

    Args:
        sampler: Any sampler of records, finite or endless.
        skip: How many items to leave out.

    Raises:
        TypeError: It is no sampler of records.
        ValueError: The skip is negative or no whole number.
    """

    def __init__(self, sampler: AnySampler, skip: int) -> None:
        super().__init__(Skipped(records_of(sampler), skip))


def _count(length: int | Sized) -> Count:
    return Count(len(length) if isinstance(length, Sized) else length)


def _component(number: int, sampler: AnySampler | Sized | int) -> IndexSequence[Records]:
    name = f"samplers[{number}]"
    if isinstance(sampler, int | np.integer) and not isinstance(sampler, bool):
        return Count(whole_number(name, sampler, 0, ENDLESS + 1))
    # Also a torch sampler without a length, whose refusal says what it lacks.
    if is_iterable_sampler(sampler) or isinstance(sampler, Sampler):
        return records_of(sampler)
    if isinstance(sampler, Sized):
        return Count(len(sampler))
    raise TypeError(
        f"{name}={sampler!r} is no sampler, dataset or length. Give a sampler of the dataset's "
        "records, the dataset, or its length."
    )
