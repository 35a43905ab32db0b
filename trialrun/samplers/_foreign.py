"""Samplers from elsewhere: each pass is iterated over, by a copy with our generators.

Nothing is known of such a sampler but its items, so a pass costs time and memory in proportion to
its whole length, at the first window that touches it. What it draws at random comes from the
address (seed, FOREIGN, pass), in three ways at once, because samplers differ:

- a torch, numpy or ``random`` generator among its attributes, or in a container among them, is
  replaced in the copy;
- the process's own generators are set to the address, and put back after the pass;
- ``set_epoch(pass)`` is called where there is one.

Each copy is made of a pristine one, which was made with the adapter, so that what a pass or a user
changes in the sampler's lists and arrays is gone. So pass 3 is the same whether or not pass 1 was
asked for before, and reading draws nothing from the trial's generators. What a sampler keeps
elsewhere (a file, a clock, an object that copies share) stays its own: the pass that is read first
is read twice, and a sampler that shows the difference is refused.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch

from trialrun.samplers._checks import whole_number
from trialrun.samplers._foreign_copies import (
    Words,
    copy_for_pass,
    dataset_length,
    deals_out,
    pristine_copy,
)
from trialrun.samplers._kept import Kept
from trialrun.samplers.addresses import AddressBook, Stream
from trialrun.samplers.sequences import Batches, BatchSequence, Dealt, Records, RecordSequence

WindowT = TypeVar("WindowT")

# A million records, or 40,000 passes of 10. Slots that go through the same short passes one after
# the other, each a whole window of the loader's, then iterate over each pass once.
_MAX_KEPT_BYTES: Final = 2**23
# What is read a second time costs at most about 0.1 s where the sampler gives items one by one.
_NUM_COMPARED: Final = 2**20


class ForeignRecords(RecordSequence):
    """The records that a sampler from elsewhere gives, pass by pass.

    Args:
        sampler: Has ``__len__`` and ``__iter__``, over whole numbers.
        seed: Any non-negative whole number, for what it draws.

    Raises:
        ValueError: The seed is negative or no whole number.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        self.stage = _stage(sampler)  # type: ignore[misc]  # its name is not known before
        self._passes = _Passes(sampler, seed, _as_records)
        self._num_records = dataset_length(sampler)

    @property
    def length(self) -> int:
        """The sampler's."""
        return self._passes.length

    @property
    def num_records(self) -> int | None:
        """The length of the sampler's ``data_source``, where it has one."""
        return self._num_records

    def gather(self, epoch: int, positions: Records) -> Records:
        """Returns the records at those positions, after iterating over the whole pass."""
        return self._passes.window(epoch)[positions]


class ForeignBatches(BatchSequence):
    """The batches that a batch sampler from elsewhere gives, pass by pass.

    Args:
        batch_sampler: Has ``__len__`` and ``__iter__``, over lists of whole numbers.
        seed: Any non-negative whole number, for what it draws.

    Raises:
        ValueError: The seed is negative or no whole number.
    """

    def __init__(self, batch_sampler: Any, seed: int) -> None:
        self.stage = _stage(batch_sampler)  # type: ignore[misc]  # as above
        self._passes = _Passes(batch_sampler, seed, as_batches)

    @property
    def length(self) -> int:
        """The sampler's."""
        return self._passes.length

    @property
    def records_per_item(self) -> int:
        """1, as the size of its batches is not known."""
        return 1

    def gather(self, epoch: int, positions: Records) -> Batches:
        """Returns the batches at those positions, after iterating over the whole pass."""
        batches = self._passes.window(epoch)
        # Copies: what a reader writes into them must not change the answer for the next one.
        return [batches[position].copy() for position in positions.tolist()]


class _Passes(Generic[WindowT]):
    """The passes of a sampler; those read last are kept, up to 8 MiB, and the last one anyway.

    Args:
        sampler: Has ``__len__`` and ``__iter__``.
        seed: Any non-negative whole number.
        convert: Makes the window of a pass of its items, or refuses them.
    """

    def __init__(
        self, sampler: Any, seed: int, convert: Callable[[str, list[Any]], WindowT]
    ) -> None:
        self._sampler = pristine_copy(sampler)
        self._name = type(sampler).__name__
        self._convert = convert
        self._book = AddressBook(seed, Stream.FOREIGN)
        self.length = whole_number(f"len({self._name})", len(sampler), 0)
        self._kept: Kept[int, WindowT] = Kept(_MAX_KEPT_BYTES)
        self._pass_bytes = 8 * self.length
        self._is_compared = False

    def window(self, epoch: int) -> WindowT:
        """Returns all items of a pass. They are not to be written into.

        Raises:
            ValueError: The sampler's length has changed, it gives another number of items, or a
                second reading of the pass gives other items.
            TypeError: Its items are not of the right kind.
        """
        window = self._kept.get(epoch)
        if window is None:
            # Two passes of 10**8 records would not fit where one does.
            self._kept.make_room(self._pass_bytes)
            window = self._convert(self._name, self._items(epoch))
            if not self._is_compared:
                self._compare(epoch, window)
                self._is_compared = True
            self._pass_bytes = _size_bytes(window)
            self._kept.put(epoch, window, self._pass_bytes)
        return window

    def _items(self, epoch: int) -> list[Any]:
        # One more than there should be: a sampler without end must not be waited for.
        items = self._read(epoch, self.length + 1)
        if len(items) != self.length:
            given = len(items) if len(items) < self.length else f"more than {self.length}"
            raise ValueError(
                f"The {self._name} has the length {self.length}, and the number of items that it "
                f"gave in pass {epoch} is {given}. Make __len__ the number of items "
                "that __iter__ gives."
            )
        return items

    def _compare(self, epoch: int, window: WindowT) -> None:
        """Reads the beginning of a pass again, and refuses a sampler that gives something else."""
        num_items = min(self.length, _NUM_COMPARED)
        items = self._read(epoch, num_items)
        place = _first_difference(window, self._convert(self._name, items))
        if place is None and len(items) == num_items:
            return
        raise ValueError(
            f"The {self._name} gave other items when pass {epoch} was read a second time, from "
            f"item {len(items) if place is None else place} on, so it could not resume exactly. "
            "Let __iter__ depend on nothing that it changes, but for its own lists, dictionaries, "
            "arrays and tensors, and draw from torch, numpy or random."
        )

    def _read(self, epoch: int, num_items: int) -> list[Any]:
        def words(number: int) -> Words:
            return self._book.words(epoch, number)

        sampler = copy_for_pass(self._sampler, words, epoch)
        if len(sampler) != self.length:
            raise ValueError(
                f"The {self._name} had the length {self.length} when the chain was made, and has "
                f"{len(sampler)} in pass {epoch}. Give a sampler whose length stays the same."
            )
        with _seeded_process(words(0)):
            return list(itertools.islice(sampler, num_items))


def _stage(sampler: object) -> str:
    """Returns the name in a chain; a share of the records has the name of ours."""
    return Dealt.stage if deals_out(sampler) else type(sampler).__name__


def _size_bytes(window: Records | Batches | object) -> int:
    arrays = window if isinstance(window, list) else [window]
    return sum(map(sys.getsizeof, arrays))


def _first_difference(window: Records | Batches | object, again: object) -> int | None:
    if isinstance(window, np.ndarray) and isinstance(again, np.ndarray):
        places = np.flatnonzero(window[: len(again)] != again)
        return int(places[0]) if len(places) else None
    assert isinstance(window, list) and isinstance(again, list)
    pairs = enumerate(zip(window, again, strict=False))
    return next((place for place, (a, b) in pairs if not np.array_equal(a, b)), None)


def _as_records(name: str, items: list[Any]) -> Records:
    if not items:
        return np.empty(0, dtype=np.int64)
    try:
        records = np.array(items)
    except ValueError:  # batches of different lengths
        records = np.empty((0, 0))
    if records.ndim != 1 or records.dtype.kind not in "iu":
        wrong = next((item for item in items if not _is_whole_number(item)), items[0])
        raise TypeError(
            f"The {name} gave {wrong!r}, which is not the number of a record. A sampler of "
            "batches belongs into the samplers whose name has Batch before Sampler."
        )
    return records.astype(np.int64, copy=False)


def _is_whole_number(item: object) -> bool:
    number = np.asarray(item)
    return number.ndim == 0 and number.dtype.kind in "iu"


def as_batches(name: str, items: list[Any]) -> Batches:
    """Returns what somebody's batch sampler, or list, gives as arrays of records.

    Args:
        name: What gave it, for the message.
        items: Each a list of records.

    Raises:
        TypeError: One of them is no batch.
    """
    for item in items:
        if not (hasattr(item, "__iter__") and hasattr(item, "__len__")):
            raise TypeError(
                f"The {name} gave {item!r}, which is not a batch of records. Put a BatchSampler "
                "around a sampler of records."
            )
    return [_as_records(name, list(item)) for item in items]


@contextlib.contextmanager
def _seeded_process(words: Words) -> Iterator[None]:
    torch_word, numpy_word, python_word, _ = words
    states = (torch.default_generator.get_state(), np.random.get_state(), random.getstate())
    # The generator itself: torch.manual_seed also walks over every backend (200 us).
    torch.default_generator.manual_seed(torch_word)
    np.random.seed(numpy_word & 0xFFFFFFFF)
    random.seed(python_word)
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
