"""Samplers from elsewhere: each pass is iterated over once, from a copy with our generators.

Nothing is known of such a sampler but its items, so a pass costs time and memory in proportion to
its whole length, at the first window that touches it. What it draws at random comes from the
address (seed, FOREIGN, pass), in three ways at once, because samplers differ:

- a torch, numpy or ``random`` generator among its attributes is replaced in the copy;
- the process's own generators are set to the address, and put back after the pass;
- ``set_epoch(pass)`` is called where there is one.

So pass 3 is the same whether or not pass 1 was asked for before, and reading draws nothing from the
trial's generators. What a sampler keeps elsewhere (a file, a clock, a mutable object that copies
share) stays its own.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import random
from collections.abc import Callable, Iterator, Sized
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import Sampler

from trialrun.samplers._checks import whole_number
from trialrun.samplers.addresses import AddressBook, Stream
from trialrun.samplers.sequences import Batches, BatchSequence, Records, RecordSequence

WindowT = TypeVar("WindowT")
_Words = tuple[int, int, int, int]


def is_iterable_sampler(value: object) -> bool:
    """Whether something may be a sampler: it has a length and items, but no item by number.

    A dataset is none: given in a sampler's place, it is a mistake.
    """
    if not (hasattr(value, "__iter__") and hasattr(value, "__len__")):
        return False
    return isinstance(value, Sampler) or not hasattr(value, "__getitem__")


class ForeignRecords(RecordSequence):
    """The records that a sampler from elsewhere gives, pass by pass.

    Args:
        sampler: Has ``__len__`` and ``__iter__``, over whole numbers.
        seed: Any non-negative whole number, for what it draws.

    Raises:
        ValueError: The seed is negative or no whole number.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        self.stage = type(sampler).__name__  # type: ignore[misc]  # its name is not known before
        self._passes = _Passes(sampler, seed, _as_records)
        source = getattr(sampler, "data_source", None)
        self._num_records = len(source) if isinstance(source, Sized) else None

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
        self.stage = type(batch_sampler).__name__  # type: ignore[misc]  # as above
        self._passes = _Passes(batch_sampler, seed, _as_batches)

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
        return [batches[position] for position in positions.tolist()]


class _Passes(Generic[WindowT]):
    """The passes of a sampler; the one read last is kept.

    Args:
        sampler: Has ``__len__`` and ``__iter__``.
        seed: Any non-negative whole number.
        convert: Makes the window of a pass of its items, or refuses them.
    """

    def __init__(
        self, sampler: Any, seed: int, convert: Callable[[str, list[Any]], WindowT]
    ) -> None:
        self._sampler = sampler
        self._name = type(sampler).__name__
        self._convert = convert
        self._book = AddressBook(seed, Stream.FOREIGN)
        self.length = whole_number(f"len({self._name})", len(sampler), 0)
        self._kept: tuple[int, WindowT] | None = None

    def window(self, epoch: int) -> WindowT:
        """Returns all items of a pass.

        Raises:
            ValueError: The sampler's length has changed, or it gives another number of items.
            TypeError: Its items are not of the right kind.
        """
        kept = self._kept
        if kept is None or kept[0] != epoch:
            # Two passes of 10**8 records would not fit where one does.
            self._kept = None
            kept = (epoch, self._convert(self._name, self._items(epoch)))
            self._kept = kept
        return kept[1]

    def _items(self, epoch: int) -> list[Any]:
        words = self._book.words(epoch)
        sampler = _copy_for_pass(self._sampler, words, epoch)
        if len(sampler) != self.length:
            raise ValueError(
                f"The {self._name} had the length {self.length} when the chain was made, and has "
                f"{len(sampler)} in pass {epoch}. Give a sampler whose length stays the same."
            )
        with _seeded_process(words):
            # One more than there should be: a sampler without end must not be waited for.
            items = list(itertools.islice(sampler, self.length + 1))
        if len(items) != self.length:
            given = len(items) if len(items) < self.length else f"more than {self.length}"
            raise ValueError(
                f"The {self._name} gave {given} items in pass {epoch}, and its length is "
                f"{self.length}. Make __len__ the number of items that __iter__ gives."
            )
        return items


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


def _as_batches(name: str, items: list[Any]) -> Batches:
    for item in items:
        if not (hasattr(item, "__iter__") and hasattr(item, "__len__")):
            raise TypeError(
                f"The {name} gave {item!r}, which is not a batch of records. Put a BatchSampler "
                "around a sampler of records."
            )
    return [_as_records(name, list(item)) for item in items]


def _copy_for_pass(sampler: Any, words: _Words, epoch: int) -> Any:
    """Returns a copy whose own generators begin at the words; samplers inside it are copied too."""
    twin = copy.copy(sampler)
    for name, value in list(getattr(twin, "__dict__", {}).items()):
        is_sampler = isinstance(value, Sampler) or name in ("sampler", "batch_sampler")
        if is_sampler and is_iterable_sampler(value):
            setattr(twin, name, _copy_for_pass(value, words, epoch))
        else:
            seeded = _seeded_generator(value, words)
            # RandomSampler's generator is None until somebody gives one.
            if seeded is not None and (value is not None or name == "generator"):
                setattr(twin, name, seeded)
    if hasattr(twin, "set_epoch"):
        twin.set_epoch(epoch)
    return twin


def _seeded_generator(value: object, words: _Words) -> object | None:
    """Returns a generator of the value's kind, torch's for None, and None for anything else."""
    torch_word, numpy_word, python_word, _ = words
    if value is None or isinstance(value, torch.Generator):
        return torch.Generator().manual_seed(torch_word)
    if isinstance(value, np.random.RandomState):
        return np.random.RandomState(np.random.MT19937(numpy_word))
    if isinstance(value, np.random.Generator):
        return np.random.Generator(np.random.Philox(key=numpy_word))
    if isinstance(value, random.Random):
        return random.Random(python_word)
    return None


@contextlib.contextmanager
def _seeded_process(words: _Words) -> Iterator[None]:
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
