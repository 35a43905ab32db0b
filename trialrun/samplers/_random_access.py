"""Torch's face of the sequences: a sampler is a sequence that torch's loaders can iterate over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar, cast

from torch.utils.data import Sampler

from trialrun.samplers.sequences import RECORDS_PER_BLOCK, Batches, IndexSequence, Records

ItemT = TypeVar("ItemT")
WindowT = TypeVar("WindowT")


class RandomAccess(Sampler[ItemT], ABC, Generic[ItemT, WindowT]):
    """A torch sampler over a sequence, which does all the arithmetic.

    The promises are those of ``trialrun.samplers.sequences.IndexSequence``. ``__iter__`` gives the
    same items as ``take``, from position 0, as Python numbers; ``len()`` is the length of one pass,
    in items, and an endless sampler goes on after it.

    Args:
        sequence: What is iterated over.
    """

    def __init__(self, sequence: IndexSequence[WindowT]) -> None:
        self._sequence = sequence

    @property
    def sequence(self) -> IndexSequence[WindowT]:
        """The sequence behind the sampler; it needs no torch."""
        return self._sequence

    @property
    def num_positions(self) -> int:
        """The end of the sequence: its length, or where 64 bits end when it is endless."""
        return self._sequence.num_positions

    @property
    def is_endless(self) -> bool:
        """Whether the sequence goes on after one pass."""
        return self._sequence.is_endless

    def take(self, start: int, stop: int) -> WindowT:
        """Returns the items at positions [start, stop), at the same cost wherever they lie.

        Args:
            start: The first position.
            stop: The position after the last; a finite sampler has ``num_positions``.

        Raises:
            ValueError: The window does not lie within the sequence.
        """
        return self._sequence.take(start, stop)

    def __iter__(self) -> Iterator[ItemT]:
        start, end = 0, self.num_positions
        longest = max(1, RECORDS_PER_BLOCK // self._sequence.records_per_item)
        # Blocks grow to their full length, so that the first item does not wait for thousands.
        length = max(1, longest // 32)
        while start < end:
            stop = min(start + length, end)
            yield from self._python_items(self.take(start, stop))
            start, length = stop, min(4 * length, longest)

    def __len__(self) -> int:
        return self._sequence.length

    @abstractmethod
    def _python_items(self, window: WindowT) -> Iterable[ItemT]:
        """Returns the items of a window as ``__iter__`` gives them."""


class RandomAccessSampler(RandomAccess[int, Records]):
    """A sampler of records: ``take`` returns an int64 array of shape (stop - start,).

    Args:
        sequence: A sequence of records, for example one of your own.
    """

    def _python_items(self, window: Records) -> Iterable[int]:
        return cast(list[int], window.tolist())


class RandomAccessBatchSampler(RandomAccess[list[int], Batches]):
    """A sampler of batches: ``take`` returns a list with one int64 array of records for each batch.

    Args:
        sequence: A sequence of batches, for example one of your own.
    """

    def _python_items(self, window: Batches) -> Iterable[list[int]]:
        return (batch.tolist() for batch in window)
