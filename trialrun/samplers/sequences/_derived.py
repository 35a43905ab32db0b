"""Shuffle, repeat, deal out, skip: each is one line of arithmetic on positions.

They compose outwards, Dealt(Repeated(Shuffled(Count(N), seed)), P, r): a position of the outermost
is translated inwards, step by step, into an item of the innermost, be that a record or a batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from trialrun.samplers._checks import whole_number
from trialrun.samplers.permutation import ALGORITHM_VERSION, permutation
from trialrun.samplers.sequences._sequence import (
    ENDLESS,
    DerivedSequence,
    IndexSequence,
    Records,
    WindowT,
    chain,
    require_passes,
)


class Moved(DerivedSequence[WindowT]):
    """Another sequence whose items stand at other positions: one position, one item."""

    @abstractmethod
    def inner_positions(self, epoch: int, positions: Records) -> Records:
        """Returns where the items at some positions stand in the inner sequence."""

    def gather(self, epoch: int, positions: Records) -> WindowT:
        """Returns the inner sequence's items; those between them are never computed."""
        return self._inner.gather(epoch, self.inner_positions(epoch, positions))

    def epochs_of(self, epoch: int, positions: Records) -> WindowT:
        """Returns what the inner sequence says, of an endless one."""
        if not self.is_endless:  # no need to compute a shuffle for that
            return super().epochs_of(epoch, positions)
        return self._inner.epochs_of(epoch, self.inner_positions(epoch, positions))


class Shuffled(Moved[WindowT]):
    """The items of another sequence in a random order, which is new in every pass.

    The order of pass e is ``permutation(length, seed, e)``: a function, so that no earlier pass has
    to be gone through.

    Args:
        inner: A finite sequence.
        seed: The trial's seed, any non-negative whole number.

    Raises:
        ValueError: The sequence is endless or skips, or the seed is negative or no whole number.
    """

    stage = "Shuffle"
    version = ALGORITHM_VERSION

    def __init__(self, inner: IndexSequence[WindowT], seed: int) -> None:
        super().__init__(inner)
        require_passes(inner, self.stage)
        self._seed = whole_number("seed", seed, 0)

    @property
    def length(self) -> int:
        """The inner sequence's."""
        return self._inner.num_positions

    def inner_positions(self, epoch: int, positions: Records) -> Records:
        """Returns the permuted positions."""
        return permutation(self.length, self._seed, epoch).apply(positions)

    def places_of(self, epoch: int, positions: Records) -> Records:
        """Returns where in a pass the items at some positions of the inner sequence have gone.

        Raises:
            ValueError: A position is not one of the inner sequence.
        """
        return permutation(self.length, self._seed, epoch).invert(positions)

    def positions_of(self, epoch: int, records: Records) -> Records:
        """Returns where records stand in a pass, through the inner sequence's inverse."""
        return self.places_of(epoch, self._inner.positions_of(epoch, records))

    def find(self, epoch: int, record: int, start: int, stop: int) -> Records:
        """Returns where the shuffle has put what the inner sequence finds in its pass."""
        inner_positions = self._inner.find(epoch, record, 0, self.length)
        places = np.sort(self.places_of(epoch, inner_positions))
        return places[(places >= start) & (places < stop)]

    def arguments(self) -> dict[str, Any]:
        """The inner sequence and the seed."""
        return {"inner": self._inner, "seed": self._seed}


class Repeated(DerivedSequence[WindowT]):
    """Another sequence's pass 0, then its pass 1, and so on without end.

    A window may straddle passes. ``length`` is that of one pass.

    Args:
        inner: A finite sequence with at least one item.

    Raises:
        ValueError: The sequence is empty or endless, or skips.
    """

    stage = "Repeat"

    def __init__(self, inner: IndexSequence[WindowT]) -> None:
        super().__init__(inner)
        require_passes(inner, self.stage)
        if inner.num_positions == 0:
            raise ValueError(
                f"{chain(inner.stages)} of length 0 cannot be repeated: a pass needs at least one "
                "item. Check the path or the split that the dataset reads, that there are no more "
                "workers than items, and that drop_last leaves a batch."
            )

    @property
    def length(self) -> int:
        """The inner sequence's."""
        return self._inner.length

    @property
    def num_positions(self) -> int:
        """2**62, where 64 bits end."""
        return ENDLESS

    @property
    def is_endless(self) -> bool:
        """True."""
        return True

    def gather(self, epoch: int, positions: Records) -> WindowT:
        """Returns the items, pass by pass: 10 records, position 12 is item 2 of pass 1."""
        return self._pass_by_pass(self._inner.gather, positions)

    def epochs_of(self, epoch: int, positions: Records) -> WindowT:
        """Returns the numbers of the passes."""
        return self._pass_by_pass(self._inner.epochs_of, positions)

    def find(self, epoch: int, record: int, start: int, stop: int) -> Records:
        """Returns what the inner sequence finds in each pass that the window touches."""
        pass_length = self._inner.num_positions
        found = [np.empty(0, dtype=np.int64)]
        # 10 records, positions [8, 24): the passes 0, 1 and 2 have some of them.
        for number in range(start // pass_length, -(-stop // pass_length)):
            first = number * pass_length
            begin, end = max(0, start - first), min(pass_length, stop - first)
            found.append(first + self._inner.find(number, record, begin, end))
        return np.concatenate(found)

    def arguments(self) -> dict[str, Any]:
        """The inner sequence."""
        return {"inner": self._inner}

    def _pass_by_pass(self, read: Callable[[int, Records], WindowT], positions: Records) -> WindowT:
        pass_length = self._inner.num_positions
        epochs = positions // pass_length
        offsets = positions - epochs * pass_length
        # Runs of one pass: epochs [0, 0, 1, 1, 1] have the bounds [0, 2, 5].
        bounds = [0, *(np.flatnonzero(epochs[1:] != epochs[:-1]) + 1).tolist(), len(epochs)]
        runs = [
            read(int(epochs[start]), offsets[start:stop])
            for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
            if start < stop
        ]
        return runs[0] if len(runs) == 1 else self.join(runs)


class Dealt(Moved[WindowT]):
    """One worker's share of another sequence: item i is the worker's when i % num_workers == rank.

    Args:
        inner: Any sequence, finite or endless.
        num_workers: Among how many workers the items are dealt out, at most 2**62.
        rank: Which worker's share this is, from 0.

    Raises:
        ValueError: There is no worker, or too many, or the rank is not one of them.
    """

    stage = "Distributed"

    def __init__(self, inner: IndexSequence[WindowT], num_workers: int, rank: int) -> None:
        super().__init__(inner)
        self._num_workers = whole_number("num_workers", num_workers, 1, ENDLESS + 1)
        self._rank = whole_number("rank", rank, 0, self._num_workers)

    @property
    def length(self) -> int:
        """This worker's share of the inner sequence's."""
        return self._share(self._inner.length)

    @property
    def num_positions(self) -> int:
        """This worker's share of the inner sequence's."""
        return self._share(self._inner.num_positions)

    def inner_positions(self, epoch: int, positions: Records) -> Records:
        """Returns every ``num_workers``-th position, from ``rank`` on."""
        return positions * self._num_workers + self._rank

    def positions_of(self, epoch: int, records: Records) -> Records:
        """Returns where this worker meets the records."""
        positions = self._inner.positions_of(epoch, records)
        others = positions % self._num_workers != self._rank
        if others.any():
            raise ValueError(
                f"The record {records[others][0]} is not in the share of rank {self._rank}; rank "
                f"{positions[others][0] % self._num_workers} has it. Ask that worker's sequence."
            )
        return positions // self._num_workers

    def find(self, epoch: int, record: int, start: int, stop: int) -> Records:
        """Returns this worker's share of what the inner sequence finds."""
        end = min(stop * self._num_workers, self._inner.num_positions)
        positions = self._inner.find(epoch, record, start * self._num_workers, end)
        own: Records = positions[positions % self._num_workers == self._rank]
        return own // self._num_workers

    def arguments(self) -> dict[str, Any]:
        """The inner sequence, the number of workers and the rank."""
        return {"inner": self._inner, "num_workers": self._num_workers, "rank": self._rank}

    def _share(self, length: int) -> int:
        return length // self._num_workers + (length % self._num_workers > self._rank)


class Skipped(Moved[WindowT]):
    """Another sequence from a given item on; how a run goes on where it stopped.

    ``length`` is the inner sequence's: the skip is not subtracted, so that the length of an epoch
    is the same for every attempt of a trial. A finite sequence has fewer positions.

    Args:
        inner: Any sequence.
        skip: How many items to leave out, at most 2**62. Any number costs the same.

    Raises:
        ValueError: The skip is negative, too large or no whole number.
    """

    stage = "Skip"

    def __init__(self, inner: IndexSequence[WindowT], skip: int) -> None:
        super().__init__(inner)
        self._skip = whole_number("skip", skip, 0, ENDLESS + 1)

    @property
    def length(self) -> int:
        """The inner sequence's."""
        return self._inner.length

    @property
    def num_positions(self) -> int:
        """What is left of the inner sequence's."""
        return max(0, self._inner.num_positions - self._skip)

    def inner_positions(self, epoch: int, positions: Records) -> Records:
        """Returns the positions ``skip`` further on."""
        return positions + self._skip

    def find(self, epoch: int, record: int, start: int, stop: int) -> Records:
        """Returns what the inner sequence finds, ``skip`` further on."""
        found = self._inner.find(epoch, record, start + self._skip, stop + self._skip)
        return found - self._skip

    def arguments(self) -> dict[str, Any]:
        """The inner sequence and the skip."""
        return {"inner": self._inner, "skip": self._skip}
