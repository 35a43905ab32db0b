"""Shuffle, repeat, deal out, skip: each is one line of arithmetic on positions.

They compose outwards, Dealt(Repeated(Shuffled(Count(N), seed)), P, r): a position of the outermost
is translated inwards, step by step, into an item of the innermost, be that a record or a batch.
"""

from __future__ import annotations

import numpy as np

from trialrun.samplers._checks import whole_number
from trialrun.samplers.permutation import permutation
from trialrun.samplers.sequences._sequence import (
    ENDLESS,
    DerivedSequence,
    IndexSequence,
    Records,
    WindowT,
    chain,
    require_passes,
)


class Shuffled(DerivedSequence[WindowT]):
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

    def __init__(self, inner: IndexSequence[WindowT], seed: int) -> None:
        super().__init__(inner)
        require_passes(inner, self.stage)
        self._seed = whole_number("seed", seed, 0)

    @property
    def length(self) -> int:
        """The inner sequence's."""
        return self._inner.num_positions

    def gather(self, epoch: int, positions: Records) -> WindowT:
        """Returns the items at the permuted positions of the inner sequence's pass."""
        order = permutation(self.length, self._seed, epoch)
        return self._inner.gather(epoch, order.apply(positions))

    def places_of(self, epoch: int, positions: Records) -> Records:
        """Returns where in a pass the items at some positions of the inner sequence have gone.

        Raises:
            ValueError: A position is not one of the inner sequence.
        """
        return permutation(self.length, self._seed, epoch).invert(positions)

    def positions_of(self, epoch: int, records: Records) -> Records:
        """Returns where records stand in a pass, through the inner sequence's inverse."""
        return self.places_of(epoch, self._inner.positions_of(epoch, records))


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
        pass_length = self._inner.num_positions
        epochs = positions // pass_length
        offsets = positions - epochs * pass_length
        # Runs of one pass: epochs [0, 0, 1, 1, 1] have the bounds [0, 2, 5].
        bounds = [0, *(np.flatnonzero(epochs[1:] != epochs[:-1]) + 1).tolist(), len(epochs)]
        runs = [
            self._inner.gather(int(epochs[start]), offsets[start:stop])
            for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
            if start < stop
        ]
        return runs[0] if len(runs) == 1 else self.join(runs)


class Dealt(DerivedSequence[WindowT]):
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

    def gather(self, epoch: int, positions: Records) -> WindowT:
        """Returns the items at every ``num_workers``-th position; the others are never computed."""
        return self._inner.gather(epoch, positions * self._num_workers + self._rank)

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

    def _share(self, length: int) -> int:
        return length // self._num_workers + (length % self._num_workers > self._rank)


class Skipped(DerivedSequence[WindowT]):
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

    def gather(self, epoch: int, positions: Records) -> WindowT:
        """Returns the inner sequence's items, ``skip`` further on."""
        return self._inner.gather(epoch, positions + self._skip)
