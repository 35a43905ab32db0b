"""B consecutive records form a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trialrun.samplers._checks import whole_number
from trialrun.samplers.sequences._sequence import (
    ENDLESS,
    Batches,
    BatchSequence,
    IndexSequence,
    OuterSequence,
    Records,
)


class Batched(OuterSequence[Batches], BatchSequence):
    """Batch k holds the items [k * B, (k + 1) * B) of a sequence of records.

    Over an endless sequence every batch is full. Over a finite one the last batch may be short.

    Args:
        inner: Any sequence of records.
        batch_size: B.
        drop_last: Whether a short last batch is left out. Over an endless sequence it only makes
            ``length`` round down, as there is no short batch.

    Raises:
        ValueError: The batch size is not a whole number of at least 1 and at most 2**62.
    """

    stage = "Batch"

    def __init__(
        self, inner: IndexSequence[Records], batch_size: int, drop_last: bool = False
    ) -> None:
        super().__init__(inner)
        self._batch_size = whole_number("batch_size", batch_size, 1, ENDLESS + 1)
        self._drop_last = drop_last

    @property
    def length(self) -> int:
        """The batches of one pass, the last one counted where it is kept."""
        return self._num_batches(self._inner.length)

    @property
    def num_positions(self) -> int:
        """The number of batches; an endless sequence counts the full ones below its end."""
        if self.is_endless:
            return self._inner.num_positions // self._batch_size
        return self._num_batches(self._inner.num_positions)

    @property
    def records_per_item(self) -> int:
        """B."""
        return self._batch_size

    def gather(self, epoch: int, positions: Records) -> Batches:
        """Returns the batches of those numbers."""
        return self._cut(self._inner.gather, epoch, positions)

    def epochs_of(self, epoch: int, positions: Records) -> Batches:
        """Returns what the inner sequence says, in batches."""
        return self._cut(self._inner.epochs_of, epoch, positions)

    def find(self, epoch: int, record: int, start: int, stop: int) -> Records:
        """Returns the batches that hold what the inner sequence finds."""
        size = self._batch_size
        end = min(stop * size, self._inner.num_positions)
        return np.unique(self._inner.find(epoch, record, start * size, end) // size)

    def arguments(self) -> dict[str, Any]:
        """The inner sequence, the batch size, and what becomes of a short last batch."""
        return {
            "inner": self._inner,
            "batch_size": self._batch_size,
            "drop_last": self._drop_last,
        }

    def _cut(
        self, read: Callable[[int, Records], Records], epoch: int, positions: Records
    ) -> Batches:
        """Returns what is read at the items of the batches of those numbers."""
        size, end = self._batch_size, self._inner.num_positions
        if len(positions) == 0:
            return []
        # A batch size beyond the end costs no more than what there is.
        width = min(size, end)
        # For B = 3, batches [4, 5]: items [[12, 13, 14], [15, 16, 17]].
        items = (positions[:, None] * size + np.arange(width)).reshape(-1)
        if items.max() < end:
            return list(read(epoch, items).reshape(-1, width))
        # The short batch is among them, anywhere: positions come in any order.
        records = read(epoch, items[items < end])
        stops = np.cumsum(np.minimum(size, end - positions * size))
        return np.split(records, stops[:-1])

    def _num_batches(self, num_records: int) -> int:
        full, rest = divmod(num_records, self._batch_size)
        return full + (rest > 0 and not self._drop_last)
