"""The shuffle of one pass: a permutation of [0, N) that is a function of (N, seed, epoch).

Any window of it is computed on its own, forwards (which record is at position p?) and backwards (at
which position is record r?). N records, at most 2**62; positions and records are int64.

Up to ``THRESHOLD`` records a permutation is drawn exactly and kept as a table. Beyond, it is a
keyed bijection: no table and no start-up cost, so that 10**12 records cost what 10**5 do.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trialrun.samplers._checks import whole_number
from trialrun.samplers.addresses import Stream, random_words, root_key

__all__ = [
    "ALGORITHM_VERSION",
    "FeistelPermutation",
    "Permutation",
    "SortedPermutation",
    "THRESHOLD",
    "permutation",
]

ALGORITHM_VERSION: Final = 1
"""Part of a run's identity: changes whenever any permutation does."""

THRESHOLD: Final = 2**14
"""Most records for which a table is made. Sorting that many takes about 1 ms, once in each pass."""

_RECORDS_END: Final = 2**62 + 1
_EPOCH_END: Final = 2**63

# A whole pass shows every pair of positions, so a few rounds are not enough. The differences of
# neighbours over 4,000 passes of 30 records are off a uniform law by 196 standard deviations with 4
# rounds, 7 with 6, 0.2 with 8. A round costs 2 to 3 ns for an index.
_NUM_ROUNDS: Final = 8
# Indices worked on at once: 4 arrays of 64 KiB stay in a core's second-level cache.
_BLOCK_LENGTH: Final = 8192

_Words = NDArray[np.uint64]


def permutation(num_records: int, seed: int, epoch: int) -> Permutation:
    """Returns the order of the records in one pass.

    Orders of different (num_records, seed, epoch) are unrelated: seed and epoch enter the key and
    the counter of a counter-based generator, they are never added.

    Args:
        num_records: N, at most 2**62.
        seed: The trial's seed, any non-negative whole number.
        epoch: The pass, from 0; below 2**63.

    Raises:
        ValueError: An argument is out of range.
    """
    return _permutation(
        whole_number("num_records", num_records, 0, _RECORDS_END),
        whole_number("seed", seed, 0),
        whole_number("epoch", epoch, 0, _EPOCH_END),
    )


# Folded slots walk through the same pass side by side and share its table. A table takes at most
# 384 KiB with its words and its inverse, so all of them 12 MiB. A chain uses two where a window
# straddles passes; a mixture of small datasets, two for each.
@functools.lru_cache(maxsize=32)
def _permutation(num_records: int, seed: int, epoch: int) -> Permutation:
    if num_records <= THRESHOLD:
        return SortedPermutation(num_records, seed, epoch)
    return FeistelPermutation(num_records, seed, epoch)


class Permutation(ABC):
    """A permutation of [0, N), read at any position.

    Promises: it never changes after it was made, so that threads may share it; ``invert`` undoes
    ``apply``; the cost of a call is proportional to the indices asked for.

    Args:
        num_records: N.
    """

    def __init__(self, num_records: int) -> None:
        self._num_records = num_records

    def __len__(self) -> int:
        return self._num_records

    def take(self, start: int, stop: int) -> NDArray[np.int64]:
        """Returns the records at positions [start, stop), shape (stop - start,).

        Raises:
            ValueError: The window does not lie within [0, N).
        """
        if not 0 <= start <= stop <= self._num_records:
            raise ValueError(
                f"The window [{start}, {stop}) does not lie within [0, {self._num_records}), the "
                "records of this permutation. Ask for 0 <= start <= stop <= its length."
            )
        return self._forward(np.arange(start, stop, dtype=np.int64))

    def apply(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the record at each position, same shape (one dimension).

        Raises:
            ValueError: A position is not in [0, N).
        """
        self._require_members("position", positions)
        return self._forward(positions)

    def invert(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the position of each record, same shape (one dimension).

        Raises:
            ValueError: A record is not in [0, N).
        """
        self._require_members("record", records)
        return self._backward(records)

    @abstractmethod
    def _forward(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Does what ``apply`` promises, for positions that are legal, into a new array."""

    @abstractmethod
    def _backward(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """Does what ``invert`` promises, for records that are legal, into a new array."""

    def _require_members(self, noun: str, values: NDArray[np.int64]) -> None:
        for value in (values.min(), values.max()) if len(values) else ():
            if not 0 <= value < self._num_records:
                raise ValueError(
                    f"The {noun} {value} is not one of the {self._num_records} of this "
                    f"permutation. Ask for {noun}s from 0 to {self._num_records - 1}."
                )


class SortedPermutation(Permutation):
    """The uniform permutation: the order that sorts N random words.

    N words of 64 bits hold two equal ones with a probability below N**2 / 2**65 (2**-37 at the
    threshold); a stable sort then keeps their order, so that the result is the same everywhere.

    Args:
        num_records: N.
        seed: The trial's seed.
        epoch: The pass.
    """

    def __init__(self, num_records: int, seed: int, epoch: int) -> None:
        super().__init__(num_records)
        self._words = _shuffle_words(num_records, seed, epoch, num_records)

    @functools.cached_property
    def _records(self) -> NDArray[np.int64]:
        return np.argsort(self._words, kind="stable").astype(np.int64, copy=False)

    @functools.cached_property
    def _positions(self) -> NDArray[np.int64]:
        positions = np.empty_like(self._records)
        positions[self._records] = np.arange(len(positions))
        return positions

    def _forward(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._records[positions]

    def _backward(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(records) == 1 and "_records" not in vars(self):
            # Who asks for one record in each of many passes needs no table: its position is the
            # number of words before its own, at a tenth of the cost of a sort.
            (record,) = records
            word = self._words[record]
            before = np.count_nonzero(self._words < word)
            return np.array([before + np.count_nonzero(self._words[:record] == word)])
        return self._positions[records]


class FeistelPermutation(Permutation):
    """A keyed bijection of [0, N): a Feistel network with cycle walking.

    An index is written as (left, right) in Z_a x Z_b, with a * b just above N. Rounds alternate

        left  = (left + F_i(right)) mod a        right = (right + F_i(left)) mod b

    where F_i mixes its argument with the round's three key words and scales the upper bits of the
    result down to the modulus. Each round can be undone, so the network permutes [0, a * b). An
    image in [N, a * b) is sent through the network again, until it falls below N: that follows the
    network's cycles, hence it is a permutation of [0, N) and can be undone too.

    Sources: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002 (cycle walking
    and the generalised Feistel network over Z_a x Z_b); Mitchell, Stokes, Frank, Holmes,
    "Bandwidth-Optimal Random Shuffling for GPUs", 2021 (bijections as shuffles).

    Args:
        num_records: N, at least 1.
        seed: The trial's seed.
        epoch: The pass.
    """

    def __init__(self, num_records: int, seed: int, epoch: int) -> None:
        super().__init__(num_records)
        a = _left_modulus(num_records)
        b = -(-num_records // a)
        self._has_excess = a * b > num_records
        # Numbers for numpy are arrays without dimensions: half the call overhead of its scalars.
        self._b = _word(b)
        words = _shuffle_words(num_records, seed, epoch, 3 * _NUM_ROUNDS).reshape(_NUM_ROUNDS, 3)
        self._rounds = tuple(
            _Round(keys, modulus=(a, b)[i % 2]) for i, keys in enumerate(words.tolist())
        )

    def _forward(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._walk(positions, forward=True)

    def _backward(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._walk(records, forward=False)

    def _walk(self, indices: NDArray[np.int64], *, forward: bool) -> NDArray[np.int64]:
        images = self._network(indices.astype(np.uint64), forward=forward)
        if self._has_excess:
            outside = np.flatnonzero(images >= np.uint64(len(self)))
            while len(outside):
                images[outside] = self._network(images[outside], forward=forward)
                outside = outside[images[outside] >= np.uint64(len(self))]
        return images.view(np.int64)

    def _network(self, indices: _Words, *, forward: bool) -> _Words:
        """Replaces each index in [0, a * b) by its image; returns the same array."""
        rounds = self._rounds if forward else self._rounds[::-1]
        scratch = np.empty((4, min(len(indices), _BLOCK_LENGTH)), dtype=np.uint64)
        for start in range(0, len(indices), _BLOCK_LENGTH):
            block = indices[start : start + _BLOCK_LENGTH]
            left, right, mixed, other = scratch[:, : len(block)]
            np.floor_divide(block, self._b, out=left)
            np.multiply(left, self._b, out=mixed)
            np.subtract(block, mixed, out=right)
            # Even rounds change the left half; backwards, the first one changes the right half.
            changed, fixed = (left, right) if forward else (right, left)
            for feistel_round in rounds:
                feistel_round.mix(fixed, mixed, other)
                if forward:
                    feistel_round.add(changed, mixed, other)
                else:
                    feistel_round.subtract(changed, mixed, other)
                changed, fixed = fixed, changed
            np.multiply(left, self._b, out=left)
            np.add(left, right, out=block)
        return indices


class _Round:
    """One round function F and its modulus. All arrays are uint64 and of one shape.

    Args:
        keys: Three words of 64 bits.
        modulus: a or b, at most 2**31 + 64.
    """

    def __init__(self, keys: list[int], modulus: int) -> None:
        bits = modulus.bit_length()
        # An odd multiplier loses no bit of what it multiplies.
        self._multiplier = _word(keys[0] | 1)
        self._offset = _word(keys[1])
        self._second_multiplier = _word(keys[2] | 1)
        # 64 - bits upper bits of the mixed word, times the modulus, fill 64 bits: the fraction of
        # the modulus is their upper part. For a = 3125 (12 bits): (word >> 12) * 3125 >> 52.
        self._upper_shift = _word(bits)
        self._modulus = _word(modulus)
        self._scale_shift = _word(64 - bits)

    def mix(self, half: _Words, mixed: _Words, other: _Words) -> None:
        """Sets ``mixed`` to F(half) in [0, modulus); ``other`` is scratch."""
        np.multiply(half, self._multiplier, out=mixed)
        np.add(mixed, self._offset, out=mixed)
        np.right_shift(mixed, _THIRTY_TWO, out=other)
        np.bitwise_xor(mixed, other, out=mixed)
        np.multiply(mixed, self._second_multiplier, out=mixed)
        np.right_shift(mixed, self._upper_shift, out=mixed)
        np.multiply(mixed, self._modulus, out=mixed)
        np.right_shift(mixed, self._scale_shift, out=mixed)

    def add(self, half: _Words, mixed: _Words, other: _Words) -> None:
        """Adds ``mixed`` to ``half`` modulo the modulus; ``other`` is scratch."""
        np.add(half, mixed, out=half)
        # Below the modulus the difference wraps to a huge number, so the minimum is the remainder.
        np.subtract(half, self._modulus, out=other)
        np.minimum(half, other, out=half)

    def subtract(self, half: _Words, mixed: _Words, other: _Words) -> None:
        """Subtracts ``mixed`` from ``half`` modulo the modulus; ``other`` is scratch."""
        np.subtract(half, mixed, out=half)
        # A negative difference has wrapped to a huge number, and the sum wraps it back.
        np.add(half, self._modulus, out=other)
        np.minimum(half, other, out=half)


def _shuffle_words(num_records: int, seed: int, epoch: int, num_words: int) -> _Words:
    """Returns the first words that belong to a pass.

    The counter holds N, so that a dataset with one more record has an order of its own.
    """
    counter = (0, epoch, num_records, 0)
    blocks = random_words(_shuffle_key(seed), counter, -(-num_words // 4))
    return blocks.reshape(-1)[:num_words]


# A SeedSequence costs 15 us, which a pass over ten records would feel.
@functools.lru_cache(maxsize=8)
def _shuffle_key(seed: int) -> _Words:
    return root_key(seed, Stream.SHUFFLE)


def _left_modulus(num_records: int) -> int:
    """Returns a: of some numbers from the square root of N upwards, the best divisor of N.

    a * ceil(N / a) - N is (-N) mod a. The smaller it is, the fewer indices walk a second time: for
    N = 10,000,000, a = 3163 leaves 3,043 of them, a = 3200 none.
    """
    root = math.isqrt(num_records - 1) + 1
    # a and b stay within an eighth of each other, because an unequal network mixes worse.
    candidates = range(root, root + min(64, 1 + root // 16))
    return min(candidates, key=lambda a: -num_records % a)


def _word(value: int) -> _Words:
    return np.array(value, dtype=np.uint64)


_THIRTY_TWO: Final = _word(32)
