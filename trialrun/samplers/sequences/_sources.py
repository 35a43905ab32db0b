"""Where a chain begins: a count of records, or a list of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from trialrun.samplers._checks import whole_number, whole_numbers
from trialrun.samplers.sequences._sequence import ENDLESS, Records, RecordSequence


class Count(RecordSequence):
    """The records 0, 1, ..., N - 1, in every pass.

    Args:
        length: N, at most 2**62.

    Raises:
        ValueError: The length is negative or no whole number.
    """

    stage = "Sequential"

    def __init__(self, length: int) -> None:
        self._length = whole_number("length", length, 0, ENDLESS + 1)

    @property
    def length(self) -> int:
        """N."""
        return self._length

    @property
    def num_records(self) -> int:
        """N."""
        return self._length

    def gather(self, epoch: int, positions: Records) -> Records:
        """Returns the positions: record p is at position p."""
        return positions

    def find(self, epoch: int, record: int, start: int, stop: int) -> Records:
        """Returns the record, if it is in the window."""
        return np.array([record] if start <= record < stop else [], dtype=np.int64)

    def arguments(self) -> dict[str, Any]:
        """N."""
        return {"length": self._length}

    def positions_of(self, epoch: int, records: Records) -> Records:
        """Returns the records: record p is at position p."""
        if len(records) and not 0 <= records.min() <= records.max() < self._length:
            wrong = records[(records < 0) | (records >= self._length)][0]
            raise ValueError(
                f"The record {wrong} is not one of {self._length}. Ask for records from 0 to "
                f"{self._length - 1}."
            )
        return records


class Subset(RecordSequence):
    """The given records, in the given order, in every pass.

    Args:
        indices: Shape (n,), whole numbers of at least 0: a list, an array or a tensor.

    Raises:
        ValueError: The indices are not of that kind.
    """

    stage = "Subset"

    def __init__(self, indices: Any) -> None:
        # A copy, because a user's array may change later.
        self._indices = whole_numbers("indices", indices).copy()
        self._min_num_records = int(self._indices.max(initial=-1)) + 1

    @property
    def length(self) -> int:
        """N."""
        return len(self._indices)

    @property
    def min_num_records(self) -> int:
        """One more than the largest index."""
        return self._min_num_records

    def gather(self, epoch: int, positions: Records) -> Records:
        """Returns the records at those places of the list."""
        return self._indices[positions]

    def find(self, epoch: int, record: int, start: int, stop: int) -> Records:
        """Returns all places of the record in that part of the list."""
        return start + np.flatnonzero(self._indices[start:stop] == record)

    def arguments(self) -> dict[str, Any]:
        """The indices."""
        return {"indices": self._indices}

    def positions_of(self, epoch: int, records: Records) -> Records:
        """Returns the first place of each record in the list, by a sort of the whole list."""
        order = np.argsort(self._indices, kind="stable")
        in_order = self._indices[order]
        # For indices [7, 3, 7], in order [3, 7, 7]: record 7 is found at 1, which is place 0.
        found = np.searchsorted(in_order, records)
        for record, place in zip(records.tolist(), found.tolist(), strict=True):
            if place == len(in_order) or in_order[place] != record:
                raise ValueError(
                    f"The record {record} is not one of the {len(in_order)} of this subset. Ask "
                    "for a record that its indices name."
                )
        return order[found]
