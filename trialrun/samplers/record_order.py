"""Which records a batch holds, and which batches hold a record: both without torch.

A run with S slots has one endless stream, which it deals out to the slots in turn: item i is slot
(i mod S)'s, as its item j = i // S. What an item is makes the two kinds.

    DealtRecords    of records: batch k of a slot holds its items [k * B, (k + 1) * B)
    DealtBatches    of batches: item k of a slot is its batch k

For 10 records, S = 2, B = 2: position 3 of pass 1 is item 13 of the run, item 6 of slot 1, and so
place 0 of its batch 3.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trialrun.samplers._checks import whole_number
from trialrun.samplers.sequences import (
    ENDLESS,
    Batched,
    Batches,
    Dealt,
    Description,
    IndexSequence,
    Records,
    Repeated,
    describe,
    from_description,
)
from trialrun.samplers.sequences._sequence import WindowT

__all__ = ["BatchRecords", "DealtBatches", "DealtRecords", "RecordOrder", "RecordUse"]


class BatchRecords(NamedTuple):
    """What one slot gets in one batch."""

    records: Records
    """Shape (B,)."""
    epochs: Records
    """Shape (B,), the pass over its dataset that each record belongs to."""


class RecordUse(NamedTuple):
    """Where a record is used once."""

    epoch: int
    """The pass over the dataset, from 0."""
    batch: int
    slot: int
    place: int
    """In the slot's share of the batch, from 0."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RecordOrder(ABC, Generic[WindowT]):
    """The order of the records in a run: a function of what is on record of it.

    Args:
        source: The records or batches, before they are dealt out. A finite sequence is repeated.
        num_slots: S.

    Raises:
        ValueError: A number is out of range, or the source is empty.
    """

    source: IndexSequence[WindowT]
    num_slots: int

    def __post_init__(self) -> None:
        whole_number("num_slots", self.num_slots, 1, ENDLESS + 1)
        _ = self.stream

    @functools.cached_property
    def stream(self) -> IndexSequence[WindowT]:
        """The endless sequence that the slots share."""
        return self.source if self.source.is_endless else Repeated(self.source)

    @property
    @abstractmethod
    def items_per_batch(self) -> int:
        """Items of the stream in a batch of all slots."""

    @abstractmethod
    def sequence(self, slot: int) -> IndexSequence[Batches]:
        """Returns the batches of one slot.

        Raises:
            ValueError: There is no such slot.
        """

    def records(self, batch: int, slot: int) -> BatchRecords:
        """Returns the records of one slot in one batch, and their passes.

        Args:
            batch: From 0; past and future ones cost the same.
            slot: Below S.

        Raises:
            ValueError: There is no such batch or slot.
        """
        batch = whole_number("batch", batch, 0, self._num_batches)
        sequence = self.sequence(whole_number("slot", slot, 0, self.num_slots))
        position = np.array([batch], dtype=np.int64)
        (records,), (epochs,) = sequence.gather(0, position), sequence.epochs_of(0, position)
        return BatchRecords(records, epochs)

    def uses(self, record: int, *, start_batch: int, stop_batch: int) -> Iterator[RecordUse]:
        """Yields every use of a record in the batches [start_batch, stop_batch), first to last.

        What that costs is what ``find`` of the stream costs: in a shuffle, one step backwards for
        each pass; in draws by weight, 15 ns for each draw.

        Args:
            record: Its number in the dataset. Of one that no sampler gives there is no use.
            start_batch: From 0.
            stop_batch: The batch after the last.

        Raises:
            ValueError: The record is negative or beyond 2**62, or there are no such batches.
        """
        record = whole_number("record", record, 0, ENDLESS + 1)
        stop_batch = whole_number("stop_batch", stop_batch, 0, self._num_batches)
        start_batch = whole_number("start_batch", start_batch, 0, stop_batch + 1)
        return self._uses(record, start_batch, stop_batch)

    def _uses(self, record: int, start_batch: int, stop_batch: int) -> Iterator[RecordUse]:
        size = self.items_per_batch
        for item in self.stream.find(0, record, start_batch * size, stop_batch * size):
            yield from self._uses_in(int(item), record)

    @abstractmethod
    def _uses_in(self, item: int, record: int) -> Iterator[RecordUse]:
        """Yields the uses of a record in one item of the stream, which has it."""

    @abstractmethod
    def describe(self, keep: Callable[[NDArray[Any]], str]) -> Description:
        """Returns the order as JSON data, from which ``from_description`` makes it again.

        Args:
            keep: Keeps an array, and returns the name by which it is found again.
        """

    @staticmethod
    def from_description(
        description: Description, fetch: Callable[[str], NDArray[Any]]
    ) -> DealtRecords | DealtBatches:
        """Returns the order that was described.

        Args:
            description: What ``describe`` returned, after any way through JSON.
            fetch: Returns the array that was kept under a name.

        Raises:
            ValueError: A stage is not of this package, or has another version; the message says
                which.
        """
        if "records" in description:
            return DealtRecords(
                source=from_description(description["records"], fetch),
                num_slots=description["num_slots"],
                batch_size=description["batch_size"],
            )
        return DealtBatches(
            source=from_description(description["batches"], fetch),
            num_slots=description["num_slots"],
        )

    @property
    def _num_batches(self) -> int:
        return ENDLESS // self.items_per_batch


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DealtRecords(RecordOrder[Records]):
    """Records are dealt out to the slots, and each slot makes batches of its share.

    Args:
        source: The records, before they are dealt out. A finite sequence is repeated.
        num_slots: S.
        batch_size: B, records in one slot's share of a batch.

    Raises:
        ValueError: A number is out of range, or the source is empty.
    """

    batch_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("batch_size", self.batch_size, 1, ENDLESS + 1)

    @property
    def items_per_batch(self) -> int:
        """S * B."""
        return self.num_slots * self.batch_size

    def sequence(self, slot: int) -> Batched:
        """Returns the batches of one slot: Repeat -> Distributed -> Batch, over the source.

        Raises:
            ValueError: There is no such slot.
        """
        return Batched(Dealt(self.stream, self.num_slots, slot), self.batch_size)

    def _uses_in(self, item: int, record: int) -> Iterator[RecordUse]:
        (epoch,) = self.stream.epochs_of(0, np.array([item], dtype=np.int64))
        own_item, slot = divmod(item, self.num_slots)
        batch, place = divmod(own_item, self.batch_size)
        yield RecordUse(int(epoch), batch, slot, place)

    def describe(self, keep: Callable[[NDArray[Any]], str]) -> Description:
        """Returns the order as JSON data."""
        return {
            "records": describe(self.source, keep),
            "num_slots": self.num_slots,
            "batch_size": self.batch_size,
        }


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DealtBatches(RecordOrder[Batches]):
    """Whole batches are dealt out to the slots.

    Args:
        source: The batches, before they are dealt out. A finite sequence is repeated.
        num_slots: S.

    Raises:
        ValueError: The number is out of range, or the source is empty.
    """

    @property
    def items_per_batch(self) -> int:
        """S."""
        return self.num_slots

    def sequence(self, slot: int) -> Dealt[Batches]:
        """Returns the batches of one slot: Repeat -> Distributed, over the source.

        Raises:
            ValueError: There is no such slot.
        """
        return Dealt(self.stream, self.num_slots, slot)

    def _uses_in(self, item: int, record: int) -> Iterator[RecordUse]:
        position = np.array([item], dtype=np.int64)
        (records,), (epochs,) = (
            self.stream.gather(0, position),
            self.stream.epochs_of(0, position),
        )
        batch, slot = divmod(item, self.num_slots)
        for place in np.flatnonzero(records == record).tolist():
            yield RecordUse(int(epochs[place]), batch, slot, place)

    def describe(self, keep: Callable[[NDArray[Any]], str]) -> Description:
        """Returns the order as JSON data."""
        return {"batches": describe(self.source, keep), "num_slots": self.num_slots}
