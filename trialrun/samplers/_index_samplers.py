"""Samplers of records: count, shuffle, repeat and distribute are each one line of arithmetic.

They compose outwards, Distributed(Repeat(ReproducibleShuffle(Sequential(N), seed)), P, r): a
position of the outermost is translated inwards, step by step, into a record of [0, N).
"""

from __future__ import annotations

from collections.abc import Sized

import numpy as np
from numpy.typing import NDArray

from trialrun.samplers._checks import whole_number
from trialrun.samplers._random_access import (
    ENDLESS,
    RandomAccessSampler,
    require_finite,
    require_sampler,
)
from trialrun.samplers.permutation import permutation


class SequentialSampler(RandomAccessSampler):
    """The records 0, 1, ..., N - 1, in every pass.

    Args:
        length: N, at most 2**62, or the dataset itself, whose length is read once.

    Raises:
        ValueError: The length is negative or no whole number.
    """

    def __init__(self, length: int | Sized) -> None:
        value = len(length) if isinstance(length, Sized) else length
        self._length = whole_number("length", value, 0, ENDLESS + 1)

    @property
    def num_positions(self) -> int:
        """N."""
        return self._length

    @property
    def is_endless(self) -> bool:
        """False."""
        return False

    def gather(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the positions: record p is at position p."""
        return positions


class ReproducibleShuffleSampler(RandomAccessSampler):
    """The items of another sampler in a random order, which is new in every pass.

    The order of pass e is ``permutation(len(sampler), seed, e)``: a function, so that no earlier
    pass has to be gone through. Alone, the sampler shows pass 0; under a ``RepeatSampler``, all.

    Args:
        sampler: A finite sampler.
        seed: The trial's seed, any non-negative whole number.

    Raises:
        TypeError: The sampler has no random access.
        ValueError: The sampler is endless, or the seed is negative or no whole number.
    """

    def __init__(self, sampler: RandomAccessSampler, seed: int) -> None:
        require_sampler(sampler)
        require_finite("shuffled", sampler)
        self._sampler = sampler
        self._seed = whole_number("seed", seed, 0)

    @property
    def num_positions(self) -> int:
        """As many as the inner sampler has."""
        return self._sampler.num_positions

    @property
    def is_endless(self) -> bool:
        """False."""
        return False

    def gather(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the items at the permuted positions of the inner sampler's pass."""
        order = permutation(self.num_positions, self._seed, epoch)
        return self._sampler.gather(epoch, order.apply(positions))


class RepeatSampler(RandomAccessSampler):
    """Another sampler's pass 0, then its pass 1, and so on without end.

    A window may straddle passes. ``len()`` is the length of one pass.

    Args:
        sampler: A finite sampler with at least one item.

    Raises:
        TypeError: The sampler has no random access.
        ValueError: The sampler is empty or endless.
    """

    def __init__(self, sampler: RandomAccessSampler) -> None:
        require_sampler(sampler)
        require_finite("repeated", sampler)
        if sampler.num_positions == 0:
            raise ValueError(
                f"A {type(sampler).__name__} of length 0 cannot be repeated: a pass needs at least "
                "one record. Check the path or the split that the dataset reads, and that there "
                "are no more workers than records."
            )
        self._sampler = sampler

    def __len__(self) -> int:
        return len(self._sampler)

    @property
    def num_positions(self) -> int:
        """2**62, where 64 bits end."""
        return ENDLESS

    @property
    def is_endless(self) -> bool:
        """True."""
        return True

    def gather(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the items, pass by pass: 10 records, position 12 is item 2 of pass 1."""
        pass_length = self._sampler.num_positions
        epochs = positions // pass_length
        offsets = positions - epochs * pass_length
        # Runs of one pass: epochs [0, 0, 1, 1, 1] have the bounds [0, 2, 5].
        bounds = [0, *(np.flatnonzero(epochs[1:] != epochs[:-1]) + 1).tolist(), len(epochs)]
        runs = [
            self._sampler.gather(int(epochs[start]), offsets[start:stop])
            for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
            if start < stop
        ]
        return runs[0] if len(runs) == 1 else np.concatenate([offsets[:0], *runs])


class DistributedSampler(RandomAccessSampler):
    """One worker's share of another sampler: item i is the worker's when i % num_workers == rank.

    Args:
        sampler: Any sampler of records, finite or endless.
        num_workers: Among how many workers the items are dealt out.
        rank: Which worker's share this is, from 0.

    Raises:
        TypeError: The sampler has no random access.
        ValueError: There is no worker, or the rank is not one of them.
    """

    def __init__(self, sampler: RandomAccessSampler, num_workers: int, rank: int) -> None:
        require_sampler(sampler)
        self._sampler = sampler
        self._num_workers = whole_number("num_workers", num_workers, 1)
        self._rank = whole_number("rank", rank, 0, self._num_workers)

    def __len__(self) -> int:
        return self._share(len(self._sampler))

    @property
    def num_positions(self) -> int:
        """This worker's share of the inner sampler's."""
        return self._share(self._sampler.num_positions)

    @property
    def is_endless(self) -> bool:
        """Whether the inner sampler is."""
        return self._sampler.is_endless

    def gather(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the items at every ``num_workers``-th position; the others are never computed."""
        return self._sampler.gather(epoch, positions * self._num_workers + self._rank)

    def _share(self, length: int) -> int:
        return length // self._num_workers + (length % self._num_workers > self._rank)
