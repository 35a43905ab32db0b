"""The samplers of batches: each is the face of one sequence, with Determined's arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from trialrun.samplers._adapting import AnyBatchSampler, AnySampler, batches_of, records_of
from trialrun.samplers._checks import whole_number
from trialrun.samplers._random_access import RandomAccessBatchSampler
from trialrun.samplers.sequences import (
    Batched,
    Batches,
    Dealt,
    LengthGrouped,
    Repeated,
    Shuffled,
    Skipped,
)


class BatchSampler(RandomAccessBatchSampler):
    """Batch k holds the items [k * B, (k + 1) * B) of a sampler of records.

    Over an endless sampler every batch is full. Over a finite one the last batch may be short.

    Args:
        sampler: Any sampler of records.
        batch_size: B.
        drop_last: Whether a short last batch is left out. Over an endless sampler it only makes
            ``len()`` round down, as there is no short batch.

    Raises:
        TypeError: It is no sampler of records.
        ValueError: The batch size is not a whole number of at least 1 and at most 2**62.
    """

    def __init__(self, sampler: AnySampler, batch_size: int, drop_last: bool = False) -> None:
        super().__init__(Batched(records_of(sampler), batch_size, drop_last))


class LengthGroupedBatchSampler(RandomAccessBatchSampler):
    """Batches of records of like length, for sequences that are padded to the longest in a batch.

    Every pass is shuffled and cut into pools; within a pool the records are sorted by length, cut
    into batches, and the batches put into a random order. Records that fill no batch are any
    records, not the longest ones.

    Args:
        lengths: The length of each record of the dataset, at least 0, in any unit.
        batch_size: Records in a batch.
        seed: The trial's seed, any non-negative whole number.
        drop_last: Whether a short last batch is left out.
        batches_per_pool: Batches that are sorted together. More of them save more padding, and
            make a pass less random.

    Raises:
        ValueError: A length is negative, or another argument is out of range.
    """

    def __init__(
        self,
        lengths: Any,
        batch_size: int,
        seed: int,
        drop_last: bool = False,
        *,
        batches_per_pool: int = 32,
    ) -> None:
        super().__init__(
            LengthGrouped(
                lengths,
                batch_size,
                seed,
                drop_last=drop_last,
                batches_per_pool=batches_per_pool,
            )
        )


class ReproducibleShuffleBatchSampler(RandomAccessBatchSampler):
    """The batches of another sampler in a random order, which is new in every pass.

    A short batch may come anywhere. Which records are in a batch stays as it was.

    Args:
        batch_sampler: A finite sampler of batches.
        seed: The trial's seed, any non-negative whole number.

    Raises:
        TypeError: It is no sampler of batches.
        ValueError: The sampler is endless or skips, or the seed is negative or no whole number.
    """

    def __init__(self, batch_sampler: AnyBatchSampler, seed: int) -> None:
        self._shuffled: Shuffled[Batches] = Shuffled(batches_of(batch_sampler), seed)
        super().__init__(self._shuffled)

    def position_of(self, batch: int, epoch: int) -> int:
        """Returns where in one pass a batch of the inner sampler comes.

        Args:
            batch: The batch's number in the inner sampler's pass.
            epoch: The pass, from 0.

        Raises:
            ValueError: There is no such batch, or the pass is negative.
        """
        batch = whole_number("batch", batch, 0, len(self))
        return int(self._shuffled.places_of(epoch, np.array([batch], dtype=np.int64))[0])


class RepeatBatchSampler(RandomAccessBatchSampler):
    """Another sampler's pass 0, then its pass 1, and so on without end.

    No batch straddles passes: the last one of each pass may be short. ``len()`` is the length of
    one pass.

    Args:
        batch_sampler: A finite sampler with at least one batch.

    Raises:
        TypeError: It is no sampler of batches.
        ValueError: The sampler is empty or endless, or skips.
    """

    def __init__(self, batch_sampler: AnyBatchSampler) -> None:
        super().__init__(Repeated(batches_of(batch_sampler)))


class DistributedBatchSampler(RandomAccessBatchSampler):
    """One worker's share of another sampler: batch k is the worker's when k % num_workers == rank.

    Args:
        batch_sampler: Any sampler of batches, finite or endless.
        num_workers: Among how many workers the batches are dealt out.
        rank: Which worker's share this is, from 0.

    Raises:
        TypeError: It is no sampler of batches.
        ValueError: There is no worker, or too many, or the rank is not one of them.
    """

    def __init__(self, batch_sampler: AnyBatchSampler, num_workers: int, rank: int) -> None:
        super().__init__(Dealt(batches_of(batch_sampler), num_workers, rank))


class SkipBatchSampler(RandomAccessBatchSampler):
    """Another sampler's batches from a given one on; how a run goes on where it stopped.

    ``len()`` is the inner sampler's: the skip is not subtracted, so that the length of an epoch is
    the same for every attempt of a trial. Iterating over a finite sampler gives fewer batches.

    Args:
        batch_sampler: Any sampler of batches.
        skip: How many batches to leave out. Any number costs the same.

    Raises:
        TypeError: It is no sampler of batches.
        ValueError: The skip is negative or no whole number.
    """

    def __init__(self, batch_sampler: AnyBatchSampler, skip: int) -> None:
        super().__init__(Skipped(batches_of(batch_sampler), skip))
