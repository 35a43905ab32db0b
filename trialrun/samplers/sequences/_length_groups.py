"""Batches of records of like length, in an order that is still random."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from trialrun.samplers._checks import whole_number, whole_numbers
from trialrun.samplers._kept import Kept
from trialrun.samplers.addresses import Stream, random_words, root_key
from trialrun.samplers.permutation import ALGORITHM_VERSION, permutation
from trialrun.samplers.sequences._sequence import (
    ENDLESS,
    Batches,
    BatchSequence,
    Records,
)

_MAX_KEPT_BYTES: Final = 2**23
# What an array takes besides its records.
_BATCH_BYTES: Final = 112


class LengthGrouped(BatchSequence):
    """Every pass is shuffled, cut into pools, and sorted by length within each pool.

    A pool is cut into batches, and these are put into a random order, so that batches of short and
    of long records alternate. The N mod B records at the end of the shuffled pass are the short
    last batch: they are any records, not the longest ones, also where they are left out.

    A window costs as much as the pools that it touches; those read last are kept, for the slots
    that read the same window one after the other. Memory: 8 bytes for each record's length, and
    8 MiB of pools.

    Args:
        lengths: Shape (N,), the length of each record, in any unit.
        batch_size: B.
        seed: The trial's seed, any non-negative whole number.
        drop_last: Whether a short last batch is left out.
        batches_per_pool: More of them make the lengths in a batch more alike, and the batches of a
            pass less random.

    Raises:
        ValueError: A length is negative, or another argument is out of range.
    """

    stage = "LengthGrouped"
    version = ALGORITHM_VERSION

    def __init__(
        self,
        lengths: Any,
        batch_size: int,
        seed: int,
        *,
        drop_last: bool = False,
        batches_per_pool: int = 32,
    ) -> None:
        # A copy, because a user's array may change later.
        self._lengths = whole_numbers("lengths", lengths).copy()
        self._batch_size = whole_number("batch_size", batch_size, 1, ENDLESS + 1)
        self._seed = whole_number("seed", seed, 0)
        self._drop_last = drop_last
        self._batches_per_pool = whole_number("batches_per_pool", batches_per_pool, 1, ENDLESS + 1)
        self._kept: Kept[tuple[int, int], Batches] = Kept(_MAX_KEPT_BYTES)
        self._key = root_key(seed, Stream.LENGTH_GROUPS)

    @property
    def length(self) -> int:
        """The batches of one pass."""
        full, rest = divmod(len(self._lengths), self._batch_size)
        return full + (rest > 0 and not self._drop_last)

    @property
    def num_records(self) -> int:
        """N."""
        return len(self._lengths)

    @property
    def records_per_item(self) -> int:
        """B."""
        return self._batch_size

    def gather(self, epoch: int, positions: Records) -> Batches:
        """Returns the batches of those numbers: batch 70 is batch 6 of pool 2, of 32 each."""
        pools = positions // self._batches_per_pool
        batches = {pool: self._pool(epoch, pool) for pool in np.unique(pools).tolist()}
        places = positions - pools * self._batches_per_pool
        # Copies: what a reader writes into them must not change the answer for the next one.
        return [
            batches[pool][place].copy()
            for pool, place in zip(pools.tolist(), places.tolist(), strict=True)
        ]

    def find(self, epoch: int, record: int, start: int, stop: int) -> Records:
        """Returns the batch of a record: the shuffle says which pool it is in."""
        size, num_records = self._batch_size, len(self._lengths)
        if record >= num_records:
            return np.empty(0, dtype=np.int64)
        place = permutation(num_records, self._seed, epoch).invert(np.array([record]))[0]
        first = int(place) // size
        num_full = num_records // size
        if first < num_full:
            first -= first % self._batches_per_pool
            pool = self._pool(epoch, first // self._batches_per_pool)
            first += next(number for number, batch in enumerate(pool) if record in batch)
        # Else it is in the short batch, which stands after the full ones, or is left out.
        is_inside = start <= first < min(stop, self.length)
        return np.array([first] if is_inside else [], dtype=np.int64)

    def arguments(self) -> dict[str, Any]:
        """The lengths, the batch size, the seed, and how pools and batches are cut."""
        return {
            "lengths": self._lengths,
            "batch_size": self._batch_size,
            "seed": self._seed,
            "drop_last": self._drop_last,
            "batches_per_pool": self._batches_per_pool,
        }

    def _pool(self, epoch: int, pool: int) -> Batches:
        batches = self._kept.get((epoch, pool))
        if batches is None:
            batches = self._compute_pool(epoch, pool)
            size_bytes = sum(batch.nbytes + _BATCH_BYTES for batch in batches)
            self._kept.put((epoch, pool), batches, size_bytes)
        return batches

    def _compute_pool(self, epoch: int, pool: int) -> Batches:
        """Returns the batches of a pool; the last one ends with the short batch."""
        size, num_records = self._batch_size, len(self._lengths)
        num_full = num_records // size
        start = pool * self._batches_per_pool
        stop = min(start + self._batches_per_pool, num_full)
        shuffled = permutation(num_records, self._seed, epoch)
        # Where a batch is larger than the dataset, there is none, and its size no shape.
        width = max(1, min(size, num_records))
        full = self._sorted(shuffled.take(start * size, stop * size)).reshape(-1, width)
        words = random_words(self._key, (0, epoch, pool, 0), -(-len(full) // 4)).reshape(-1)
        batches = list(full[np.argsort(words[: len(full)], kind="stable")])
        if stop - start < self._batches_per_pool:
            batches.append(self._sorted(shuffled.take(num_full * size, num_records)))
        return batches

    def _sorted(self, records: Records) -> Records:
        return records[np.argsort(self._lengths[records], kind="stable")]
