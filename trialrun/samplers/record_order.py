"""Which records a batch holds, and which batches hold a record: both at once, without torch.

The chain of a run with S slots is Shuffle -> Repeat -> Distributed -> Batch. Written out, for N
records and B of them in each slot's share of a batch, the record at position p of pass e is item

    i = e * N + p      of the run; slot i mod S has it, as its item j = i // S;
    k = j // B         is the batch, and j mod B the place in the slot's share.

For N = 10, S = 2, B = 2: position 3 of pass 1 is item 13 of the run, item 6 of slot 1, and so
place 0 of batch 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from trialrun.samplers._checks import whole_number
from trialrun.samplers.permutation import permutation
from trialrun.samplers.sequences import (
    ENDLESS,
    Batched,
    Count,
    Dealt,
    IndexSequence,
    Records,
    Repeated,
    Shuffled,
)

__all__ = ["BatchRecords", "RecordOrder", "RecordUse"]


class BatchRecords(NamedTuple):
    """What one slot gets in one batch."""

    records: Records
    """Shape (B,)."""
    epochs: Records
    """Shape (B,), the pass over the dataset that each record belongs to."""


class RecordUse(NamedTuple):
    """Where a record is used once."""

    epoch: int
    """The pass over the dataset, from 0."""
    batch: int
    slot: int
    place: int
    """In the slot's share of the batch, from 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordOrder:
    """The order of the records in a run: a function of what is on record of it.

    Args:
        num_records: N, the dataset's length.
        seed: The trial's seed.
        num_slots: S.
        batch_size: B, records in one slot's share of a batch.
        is_shuffled: Whether every pass has an order of its own.

    Raises:
        ValueError: A number is out of range.
    """

    num_records: int
    seed: int
    num_slots: int
    batch_size: int
    is_shuffled: bool

    def __post_init__(self) -> None:
        whole_number("num_records", self.num_records, 1, ENDLESS + 1)
        whole_number("seed", self.seed, 0)
        whole_number("num_slots", self.num_slots, 1, ENDLESS + 1)
        whole_number("batch_size", self.batch_size, 1, ENDLESS + 1)

    @property
    def global_batch_size(self) -> int:
        """S * B."""
        return self.num_slots * self.batch_size

    def sequence(self, slot: int) -> Batched:
        """Returns the chain of one slot.

        Raises:
            ValueError: There is no such slot.
        """
        records: IndexSequence[Records] = Count(self.num_records)
        if self.is_shuffled:
            records = Shuffled(records, self.seed)
        return Batched(Dealt(Repeated(records), self.num_slots, slot), self.batch_size)

    def records(self, batch: int, slot: int) -> BatchRecords:
        """Returns the records of one slot in one batch, and their passes.

        Args:
            batch: From 0; past and future ones cost the same.
            slot: Below S.

        Raises:
            ValueError: There is no such batch or slot.
        """
        batch = whole_number("batch", batch, 0, ENDLESS // self.global_batch_size)
        slot = whole_number("slot", slot, 0, self.num_slots)
        (records,) = self.sequence(slot).take(batch, batch + 1)
        own_items = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        items = own_items * self.num_slots + slot
        return BatchRecords(records, items // self.num_records)

    def uses(self, record: int, *, start_batch: int, stop_batch: int) -> Iterator[RecordUse]:
        """Yields every use of a record in the batches [start_batch, stop_batch), first to last.

        A use costs one step backwards through the shuffle, and a dataset is used once in a pass.

        Args:
            record: Its number in the dataset.
            start_batch: From 0.
            stop_batch: The batch after the last.

        Raises:
            ValueError: There is no such record, or there are no such batches.
        """
        record = whole_number("record", record, 0, self.num_records)
        stop_batch = whole_number("stop_batch", stop_batch, 0, ENDLESS // self.global_batch_size)
        start_batch = whole_number("start_batch", start_batch, 0, stop_batch + 1)
        return self._uses(record, start_batch, stop_batch)

    def _uses(self, record: int, start_batch: int, stop_batch: int) -> Iterator[RecordUse]:
        start, stop = start_batch * self.global_batch_size, stop_batch * self.global_batch_size
        # N = 10, items [8, 24): the passes 0, 1 and 2 have some of them.
        for epoch in range(start // self.num_records, -(-stop // self.num_records)):
            item = epoch * self.num_records + self.position_of(record, epoch)
            if start <= item < stop:
                own_item, slot = divmod(item, self.num_slots)
                batch, place = divmod(own_item, self.batch_size)
                yield RecordUse(epoch, batch, slot, place)

    def position_of(self, record: int, epoch: int) -> int:
        """Returns the position of a record in one pass.

        Raises:
            ValueError: There is no such record, or the pass is negative.
        """
        record = whole_number("record", record, 0, self.num_records)
        if not self.is_shuffled:
            return record
        order = permutation(self.num_records, self.seed, epoch)
        return int(order.invert(np.array([record], dtype=np.int64))[0])
