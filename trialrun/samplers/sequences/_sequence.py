"""What every sequence promises: the answer for any window of it, without a state and without torch.

Legend: a *position* counts along a sequence, from 0; an *item* is what stands there: a record, or a
batch of records; a *pass* (``epoch`` in arguments, from 0) is one walk over a finite sequence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final, Generic, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

# Where an endless sequence of records ends: after 146,000 years at a million records a second.
# Every position below it fits into 64 bits, and so does the one after it.
ENDLESS: Final = 2**62

Records: TypeAlias = NDArray[np.int64]
"""A window of records, shape (n,)."""
Batches: TypeAlias = list[Records]
"""A window of batches: a list of arrays, because a finite sequence's last one may be shorter."""
WindowT = TypeVar("WindowT")

# What is computed at once of a long window. Shuffled, that takes about 0.2 ms, and an index costs a
# tenth of what it costs in windows of 256.
RECORDS_PER_BLOCK: Final = 8192

_RIGHT_ORDER: Final = "Shuffle -> Repeat -> Distributed -> Batch -> Skip"


class IndexSequence(ABC, Generic[WindowT]):
    """A sequence of items, finite or endless, that answers for any window.

    Promises:

    - It is a function of the arguments that it was made with. Reading changes nothing, so that any
      number of readers, threads and copies in other processes agree.
    - ``take`` costs time and memory in proportion to its window, wherever it lies.
    - A finite sequence may hold another order in every pass. ``take`` shows pass 0; ``gather`` has
      them all, and ``Repeated`` strings them together.

    A new kind implements ``length``, ``gather``, and, where they differ, the other properties. It
    derives from ``RecordSequence``, ``BatchSequence`` or ``DerivedSequence``. One of this package
    also says its ``arguments``, from which ``describe`` makes a description that goes on record.
    """

    stage: ClassVar[str]
    """Its name in a chain, as messages show it: "Shuffle", for example."""
    version: ClassVar[int] = 1
    """Goes up whenever the same arguments give other items."""

    @property
    @abstractmethod
    def length(self) -> int:
        """The items of one pass, as an epoch counts them; a skip is not subtracted."""

    @property
    def num_positions(self) -> int:
        """The end of the sequence, which is where 64 bits end when it is endless."""
        return self.length

    @property
    def is_endless(self) -> bool:
        """Whether the sequence goes on after one pass."""
        return False

    @property
    def stages(self) -> tuple[str, ...]:
        """The chain that it is, from the bottom: ("Sequential", "Shuffle"), for example."""
        return (self.stage,)

    def __str__(self) -> str:
        return chain(self.stages)

    @property
    def num_records(self) -> int | None:
        """The length of the dataset whose records these are, or None where that is unknown."""
        return None

    @property
    def min_num_records(self) -> int:
        """The least length of a dataset that has all these records, 0 where nothing is known."""
        return self.num_records or 0

    @property
    @abstractmethod
    def records_per_item(self) -> int:
        """Records in one item, at most: 1, or the batch size."""

    @abstractmethod
    def gather(self, epoch: int, positions: Records) -> WindowT:
        """Returns the items at some positions of one pass. Arguments are not checked.

        Args:
            epoch: The pass, from 0; always 0 for an endless sequence, which has one pass only.
            positions: Shape (n,), each in [0, num_positions), in any order. They are not changed.

        Returns:
            n items; the array may be ``positions`` itself.
        """

    @abstractmethod
    def join(self, windows: list[WindowT]) -> WindowT:
        """Returns one window with the items of several, at least none."""

    def epochs_of(self, epoch: int, positions: Records) -> WindowT:
        """Returns the pass over its dataset to which each record at some positions belongs.

        Those of a finite sequence all belong to the pass that is asked for. An endless one, which
        goes on from pass to pass, says better.

        Args:
            epoch: As for ``gather``.
            positions: As for ``gather``.

        Returns:
            A window of the shape that ``gather`` returns.
        """
        if not isinstance(self.join([]), list):
            return cast(WindowT, np.full_like(positions, epoch))
        # Only the batches themselves know their sizes.
        window = cast(Batches, self.gather(epoch, positions))
        return cast(WindowT, [np.full_like(batch, epoch) for batch in window])

    def find(self, epoch: int, record: int, start: int, stop: int) -> Records:
        """Returns the positions in [start, stop) of one pass whose items hold a record, ascending.

        All items of the window are looked at, in blocks, so that memory stays small. A kind that
        has a shorter way takes it.

        Args:
            epoch: As for ``gather``.
            record: Any number of at least 0.
            start: The first position.
            stop: The position after the last, at most ``num_positions``.
        """
        size = max(1, RECORDS_PER_BLOCK // self.records_per_item)
        found = [np.empty(0, dtype=np.int64)]
        for first in range(start, stop, size):
            positions = np.arange(first, min(first + size, stop), dtype=np.int64)
            window = self.gather(epoch, positions)
            if isinstance(window, list):
                holds = np.array([(batch == record).any() for batch in window], dtype=bool)
            else:
                holds = cast(Records, window) == record
            found.append(positions[holds])
        return np.concatenate(found)

    def arguments(self) -> dict[str, Any]:
        """Returns what a sequence of this package was made with, by its constructor's names.

        Values are whole numbers, booleans, arrays, sequences, and lists of these.

        Raises:
            TypeError: It is no sequence of this package.
        """
        raise TypeError(
            f"{type(self).__name__} does not say what it was made with, so it cannot be described. "
            "Describe the sequences of trialrun.samplers."
        )

    def take(self, start: int, stop: int) -> WindowT:
        """Returns the items at positions [start, stop).

        Args:
            start: The first position.
            stop: The position after the last; a finite sequence has ``num_positions``.

        Raises:
            ValueError: The window does not lie within the sequence.
        """
        if not 0 <= start <= stop <= self.num_positions:
            raise ValueError(
                f"The window [{start}, {stop}) does not lie within the {self.num_positions} "
                f"positions of {chain(self.stages)}. Ask for 0 <= start <= stop <= num_positions."
            )
        return self.gather(0, np.arange(start, stop, dtype=np.int64))

    def positions_of(self, epoch: int, records: Records) -> Records:
        """Returns where records stand in one pass: the inverse of ``gather``.

        Args:
            epoch: The pass, from 0.
            records: Shape (n,).

        Raises:
            ValueError: A record is not among the items.
            TypeError: The sequence has no inverse, because a record may stand at several positions
                or the items are batches.
        """
        raise TypeError(
            f"{chain(self.stages)} has no inverse. Ask for the position of a record in a shuffle "
            "over Sequential, Subset or Distributed."
        )


class RecordSequence(IndexSequence[Records]):
    """A sequence of records that begins a chain: ``take`` returns an int64 array."""

    @property
    def records_per_item(self) -> int:
        """1."""
        return 1

    def join(self, windows: list[Records]) -> Records:
        """Returns the windows one after the other."""
        return np.concatenate([np.empty(0, dtype=np.int64), *windows])


class BatchSequence(IndexSequence[Batches]):
    """A sequence of batches: ``take`` returns a list with one int64 array for each batch."""

    def join(self, windows: list[Batches]) -> Batches:
        """Returns the windows one after the other."""
        return [batch for window in windows for batch in window]


class OuterSequence(IndexSequence[WindowT]):
    """A sequence over another one, with whose records it goes on.

    Args:
        inner: The sequence that is read, of records or of batches.
    """

    def __init__(self, inner: IndexSequence[Any]) -> None:
        self._inner = inner

    @property
    def is_endless(self) -> bool:
        """Whether the inner sequence is."""
        return self._inner.is_endless

    @property
    def stages(self) -> tuple[str, ...]:
        """The inner sequence's, and this one."""
        return (*self._inner.stages, self.stage)

    @property
    def num_records(self) -> int | None:
        """The inner sequence's."""
        return self._inner.num_records

    @property
    def min_num_records(self) -> int:
        """The inner sequence's."""
        return self._inner.min_num_records


class DerivedSequence(OuterSequence[WindowT]):
    """Another sequence read at other positions; records and batches share the arithmetic.

    Args:
        inner: The sequence that is read.
    """

    _inner: IndexSequence[WindowT]

    def __init__(self, inner: IndexSequence[WindowT]) -> None:
        super().__init__(inner)

    @property
    def records_per_item(self) -> int:
        """The inner sequence's."""
        return self._inner.records_per_item

    def join(self, windows: list[WindowT]) -> WindowT:
        """Does what the inner sequence does."""
        return self._inner.join(windows)


def chain(stages: tuple[str, ...]) -> str:
    """Returns how a chain is written in messages: "Sequential -> Shuffle -> Repeat"."""
    return " -> ".join(stages)


def require_passes(inner: IndexSequence[WindowT], stage: str) -> None:
    """Refuses a sequence that cannot be gone through pass by pass.

    Args:
        inner: What is to be shuffled or repeated.
        stage: "Shuffle", for example.

    Raises:
        ValueError: It is endless, or something was skipped in it.
    """
    if inner.is_endless:
        reason = f"{stage} needs passes with an end, and {inner.stages[-1]} has none"
    elif "Skip" in inner.stages:
        reason = f"a skip is made once in a run, and {stage} would make it in every pass"
    else:
        return
    raise ValueError(
        f"{chain((*inner.stages, stage))} cannot work: {reason}. Build the chain in the order "
        f"{_RIGHT_ORDER}."
    )
