"""Batches that are written out."""

from __future__ import annotations

from typing import Any

import numpy as np

from trialrun.samplers._checks import whole_numbers
from trialrun.samplers.sequences._sequence import Batches, BatchSequence, Records


class Listed(BatchSequence):
    """The given batches, in the given order, in every pass; they are read at any place.

    Args:
        records: Shape (n,), whole numbers of at least 0: the records of all batches, one batch
            after the other.
        sizes: The number of records in each batch.

    Raises:
        ValueError: The numbers are not of that kind, or the sizes have another sum than n.
    """

    stage = "list"

    def __init__(self, records: Any, sizes: Any) -> None:
        # Copies, because a user's array may change later.
        self._records = whole_numbers("records", records).copy()
        self._sizes = whole_numbers("sizes", sizes).copy()
        # For the sizes [2, 0, 3]: batch k holds the records [bounds[k], bounds[k + 1]) of the list.
        self._bounds = np.concatenate([[0], np.cumsum(self._sizes)])
        if self._bounds[-1] != len(self._records):
            raise ValueError(
                f"The sizes of the batches have the sum {self._bounds[-1]}, and the number of "
                f"records is {len(self._records)}. Give the size of each batch."
            )
        self._min_num_records = int(self._records.max(initial=-1)) + 1

    @classmethod
    def of(cls, batches: Batches) -> Listed:
        """Returns the sequence of some batches, each an array of records."""
        sizes = [len(batch) for batch in batches]
        return cls(np.concatenate([np.empty(0, dtype=np.int64), *batches]), sizes)

    @property
    def length(self) -> int:
        """The number of batches."""
        return len(self._sizes)

    @property
    def min_num_records(self) -> int:
        """One more than the largest record."""
        return self._min_num_records

    @property
    def records_per_item(self) -> int:
        """1, as their sizes may differ."""
        return 1

    def gather(self, epoch: int, positions: Records) -> Batches:
        """Returns copies of the batches at those places of the list."""
        starts, stops = self._bounds[positions].tolist(), self._bounds[positions + 1].tolist()
        return [self._records[start:stop].copy() for start, stop in zip(starts, stops, strict=True)]

    def find(self, epoch: int, record: int, start: int, stop: int) -> Records:
        """Returns all batches with the record in that part of the list."""
        first = self._bounds[start]
        places = first + np.flatnonzero(self._records[first : self._bounds[stop]] == record)
        return np.unique(np.searchsorted(self._bounds, places, side="right") - 1)

    def arguments(self) -> dict[str, Any]:
        """The records and the sizes."""
        return {"records": self._records, "sizes": self._sizes}
