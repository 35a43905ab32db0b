"""Samplers of batches: B consecutive records form a batch, and a skip is an addition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trialrun.samplers._checks import whole_number
from trialrun.samplers._random_access import (
    RECORDS_PER_BLOCK,
    RandomAccessBatchSampler,
    RandomAccessSampler,
    require_batch_sampler,
    require_sampler,
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
        TypeError: The sampler has no random access.
        ValueError: The batch size is not a whole number of at least 1.
    """

    def __init__(
        self, sampler: RandomAccessSampler, batch_size: int, drop_last: bool = False
    ) -> None:
        require_sampler(sampler)
        self._sampler = sampler
        self._batch_size = whole_number("batch_size", batch_size, 1)
        self._drop_last = drop_last
        self._items_per_block = max(1, RECORDS_PER_BLOCK // self._batch_size)

    def __len__(self) -> int:
        return self._num_batches(len(self._sampler))

    @property
    def num_positions(self) -> int:
        """The number of batches; an endless sampler counts the full ones below its end."""
        if self.is_endless:
            return self._sampler.num_positions // self._batch_size
        return self._num_batches(self._sampler.num_positions)

    @property
    def is_endless(self) -> bool:
        """Whether the inner sampler is."""
        return self._sampler.is_endless

    def gather(self, epoch: int, positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Returns the batches of those numbers."""
        size, end = self._batch_size, self._sampler.num_positions
        if len(positions) == 0:
            return []
        # A batch size beyond the end costs no more than what there is.
        width = min(size, end)
        # For B = 3, batches [4, 5]: items [[12, 13, 14], [15, 16, 17]].
        items = (positions[:, None] * size + np.arange(width)).reshape(-1)
        if items.max() < end:
            return list(self._sampler.gather(epoch, items).reshape(-1, width))
        # The short batch is among them, anywhere: positions come in any order.
        records = self._sampler.gather(epoch, items[items < end])
        stops = np.cumsum(np.minimum(size, end - positions * size))
        return np.split(records, stops[:-1])

    def _num_batches(self, num_records: int) -> int:
        full, rest = divmod(num_records, self._batch_size)
        return full + (rest > 0 and not self._drop_last)


class SkipBatchSampler(RandomAccessBatchSampler):
    """Another sampler's batches from a given one on; how a run goes on where it stopped.

    ``len()`` is the inner sampler's: the skip is not subtracted, so that the length of an epoch is
    the same for every attempt of a trial. Iterating over a finite sampler gives fewer batches.

    Args:
        batch_sampler: Any sampler of batches.
        skip: How many batches to leave out. Any number costs the same.

    Raises:
        TypeError: The sampler has no random access.
        ValueError: The skip is negative or no whole number.
    """

    def __init__(self, batch_sampler: RandomAccessBatchSampler, skip: int) -> None:
        require_batch_sampler(batch_sampler)
        self._sampler = batch_sampler
        self._skip = whole_number("skip", skip, 0)
        self._items_per_block = batch_sampler._items_per_block

    def __len__(self) -> int:
        return len(self._sampler)

    @property
    def num_positions(self) -> int:
        """What is left of the inner sampler's batches."""
        return max(0, self._sampler.num_positions - self._skip)

    @property
    def is_endless(self) -> bool:
        """Whether the inner sampler is."""
        return self._sampler.is_endless

    def gather(self, epoch: int, positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Returns the inner sampler's batches, ``skip`` further on."""
        return self._sampler.gather(epoch, positions + self._skip)
