"""The batches of which predictions are made: every record once, each with its index.

A description (``trialrun.DataLoader``) is gone through in the order of the dataset, whatever its
order in training or validation. What its sampler leaves out has no prediction; what the sampler
gives several times has one. A loader that the trial brought knows no indices: its records are
numbered as they come.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from trialrun._data_loader import DataLoader
from trialrun._fetching import RecordIds
from trialrun._trial import Trial
from trialrun.controller.engine.data.loaders import AddressedBatches, BatchAddress
from trialrun.controller.engine.data.order import DataOrder
from trialrun.controller.engine.data.sources import ValidationSource
from trialrun.samplers import RandomAccessBatchSampler
from trialrun.samplers.addresses import Stream

# Items of a sampler that are looked at together.
_BLOCK_ITEMS = 8192


class IndexedBatch(NamedTuple):
    """A batch, whose it is, and the indices of its records, shape (B,)."""

    number: int
    slot: int
    records: RecordIds
    batch: Any


class PredictionData(abc.ABC):
    """The batches of the slots of this process, in order: batch k is that of slot k modulo S."""

    order: str
    """Whose order it is: ``dataset`` or ``loader``."""

    num_rounds: int | None
    """How often each slot has a batch, the last time perhaps not all; None: slot 0 has them all."""

    @abc.abstractmethod
    def __iter__(self) -> Iterator[IndexedBatch]:
        """Iterates over the batches of this process."""


class DescribedData(PredictionData):
    """The records of a description, in the order of its dataset.

    Args:
        loader: The user's description.
        seed: The trial's seed.
        num_slots: S.
        slots: The slots of this process.

    Raises:
        InvalidDataLoaderError: Its samplers do not fit.
    """

    order = "dataset"

    def __init__(self, loader: DataLoader, seed: int, *, num_slots: int, slots: range) -> None:
        order = DataOrder.of(loader, seed)
        self._batch_size = order.batch_size
        # None: all of them, which need not be listed.
        self._selected = _selected(order) if order.is_given else None
        self._num_records = order.dataset_length if self._selected is None else len(self._selected)
        self._num_slots, self._slots = num_slots, slots
        self._num_batches = -(-self._num_records // self._batch_size)
        self.num_rounds = -(-self._num_batches // num_slots)
        self._batches = AddressedBatches(
            loader, seed, Stream.VALIDATION_DATA, lambda: map(_address, self._rows())
        )

    def __iter__(self) -> Iterator[IndexedBatch]:
        """Iterates over the batches of this process."""
        for (number, row), batch in zip(self._rows(), self._batches, strict=True):
            yield IndexedBatch(number, number % self._num_slots, row, batch)

    def _rows(self) -> Iterator[tuple[int, RecordIds]]:
        for number in range(self._num_batches):
            if number % self._num_slots not in self._slots:
                continue
            start = number * self._batch_size
            stop = min(start + self._batch_size, self._num_records)
            if self._selected is None:
                yield number, np.arange(start, stop, dtype=np.int64)
            else:
                yield number, self._selected[start:stop]


class LoaderData(PredictionData):
    """The records of a loader that the trial brought, numbered as they come.

    Args:
        source: Its batches.
        trial: Knows how many records a batch holds.
    """

    order = "loader"
    num_rounds = None

    def __init__(self, source: ValidationSource, trial: Trial) -> None:
        self._source = source
        self._trial = trial

    def __iter__(self) -> Iterator[IndexedBatch]:
        """Iterates over all batches where slot 0 is, and elsewhere over nothing."""
        start = 0
        for pieces in self._source.rounds():
            for slot, number, batch in pieces:
                stop = start + self._trial.get_batch_length(batch)
                yield IndexedBatch(number, slot, np.arange(start, stop, dtype=np.int64), batch)
                start = stop


def _address(numbered: tuple[int, RecordIds]) -> BatchAddress:
    number, row = numbered
    return BatchAddress(number, 0, row)


def _selected(order: DataOrder) -> RecordIds:
    """Returns the records that one pass of a sampler gives, in the order of the dataset."""
    is_given = np.zeros(order.dataset_length, dtype=bool)
    for start in range(0, order.pass_length, _BLOCK_ITEMS):
        stop = min(start + _BLOCK_ITEMS, order.pass_length)
        if isinstance(order.source, RandomAccessBatchSampler):
            for batch in order.source.take(start, stop):
                is_given[batch] = True
        else:
            is_given[order.source.take(start, stop)] = True
    return np.flatnonzero(is_given)
