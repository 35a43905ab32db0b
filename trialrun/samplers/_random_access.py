"""What every sampler promises: the answer for any window of its sequence, without a state.

Legend: a *position* counts along a sampler's sequence, from 0; an *item* is what stands there: a
record, or a batch of records.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

# Where an endless sequence of records ends: after 146,000 years at a million records a second.
# Every position below it fits into 64 bits, and so does the one after it.
ENDLESS: Final = 2**62
# What __iter__ computes at once. Shuffled, that takes about 0.2 ms, and an index costs a tenth of
# what it costs in windows of 256.
RECORDS_PER_BLOCK: Final = 8192

ItemT = TypeVar("ItemT")
WindowT = TypeVar("WindowT")


class RandomAccess(Sampler[ItemT], ABC, Generic[ItemT, WindowT]):
    """A sampler that answers for any window of its sequence, finite or endless.

    Promises:

    - The sequence is a function of the arguments that the sampler was made with. Reading changes
      nothing, so that any number of readers, threads and copies in other processes agree.
    - ``take`` costs time and memory in proportion to its window, wherever it lies.
    - ``__iter__`` gives the same items as ``take``, from position 0, as Python numbers.
    - ``len()`` is the length of one pass, in items; an endless sampler goes on after it.

    A sampler that is finite may hold another order in every pass; ``take`` and ``__iter__`` show
    pass 0, and a ``RepeatSampler`` around it asks ``gather`` for the others. A new kind of sampler
    implements ``gather``, ``num_positions`` and, where it differs, ``__len__``.
    """

    _items_per_block: int = RECORDS_PER_BLOCK
    """Items that ``__iter__`` computes at once, at most."""

    @property
    @abstractmethod
    def num_positions(self) -> int:
        """The end of the sequence: its length, or where 64 bits end when it is endless."""

    @property
    @abstractmethod
    def is_endless(self) -> bool:
        """Whether the sequence goes on after one pass."""

    @abstractmethod
    def gather(self, epoch: int, positions: NDArray[np.int64]) -> WindowT:
        """Returns the items at some positions of one pass. Arguments are not checked.

        Args:
            epoch: The pass, from 0; always 0 for an endless sampler, which has one pass only.
            positions: Shape (n,), each in [0, num_positions), in any order. They are not changed.

        Returns:
            n items; the array may be ``positions`` itself.
        """

    @abstractmethod
    def _python_items(self, window: WindowT) -> Iterable[ItemT]:
        """Returns the items of a window as ``__iter__`` gives them."""

    def take(self, start: int, stop: int) -> WindowT:
        """Returns the items at positions [start, stop).

        Args:
            start: The first position.
            stop: The position after the last; a finite sampler has ``num_positions``.

        Raises:
            ValueError: The window does not lie within the sequence.
        """
        if not 0 <= start <= stop <= self.num_positions:
            raise ValueError(
                f"The window [{start}, {stop}) does not lie within the {self.num_positions} "
                f"positions of this {type(self).__name__}. Ask for 0 <= start <= stop <= "
                "num_positions."
            )
        return self.gather(0, np.arange(start, stop, dtype=np.int64))

    def __iter__(self) -> Iterator[ItemT]:
        start, end = 0, self.num_positions
        # Blocks grow to their full length, so that the first item does not wait for thousands.
        length = max(1, self._items_per_block // 32)
        while start < end:
            stop = min(start + length, end)
            yield from self._python_items(self.take(start, stop))
            start, length = stop, min(2 * length, self._items_per_block)

    def __len__(self) -> int:
        return self.num_positions


class RandomAccessSampler(RandomAccess[int, NDArray[np.int64]]):
    """A sampler of records: ``take`` returns an int64 array of shape (stop - start,).

    The promises are those of ``RandomAccess``.
    """

    def _python_items(self, window: NDArray[np.int64]) -> Iterable[int]:
        return cast(list[int], window.tolist())


class RandomAccessBatchSampler(RandomAccess[list[int], list[NDArray[np.int64]]]):
    """A sampler of batches: ``take`` returns a list with one int64 array of records for each batch.

    The promises are those of ``RandomAccess``. Batches are arrays in a list, because the last batch
    of a finite sampler may be shorter than the others.
    """

    def _python_items(self, window: list[NDArray[np.int64]]) -> Iterable[list[int]]:
        return (batch.tolist() for batch in window)


def require_sampler(sampler: object) -> None:
    """Refuses what is not a random-access sampler of records.

    Raises:
        TypeError: It is something else.
    """
    _require(
        sampler, RandomAccessSampler, "a sampler of records", "SequentialSampler(len(dataset))"
    )


def require_batch_sampler(sampler: object) -> None:
    """Refuses what is not a random-access sampler of batches.

    Raises:
        TypeError: It is something else.
    """
    _require(sampler, RandomAccessBatchSampler, "a sampler of batches", "BatchSampler(...)")


def require_finite(verb: str, sampler: RandomAccessSampler) -> None:
    """Refuses a sampler that has no end.

    Args:
        verb: What it cannot be: "shuffled", for example.
        sampler: Any sampler of records.

    Raises:
        ValueError: It is endless.
    """
    if sampler.is_endless:
        raise ValueError(
            f"An endless {type(sampler).__name__} cannot be {verb}: that needs a sequence with an "
            "end. Put the RepeatSampler around the result instead."
        )


def _require(sampler: object, kind: type, noun: str, example: str) -> None:
    if not isinstance(sampler, kind):
        raise TypeError(
            f"{type(sampler).__module__}.{type(sampler).__name__} is not {noun} with "
            f"take(start, stop), which exact resume needs. Give a {kind.__name__}, for example "
            f"trialrun.samplers.{example}."
        )
