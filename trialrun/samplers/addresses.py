"""Randomness is addressed, not carried: the words at (seed, stream, major, minor) are a function.

Nothing here has a position that moves, so there is no generator state to save: a run that reaches
batch 1,000 in one go and a run that was stopped on the way draw the same words there.

The function: ``root_key`` makes a 128-bit key of (seed, stream); the words are the output block of
the counter-based generator Philox4x64-10 under that key, at the counter

    word:     0       1       2             3
    address   major   minor   0             0     (``AddressBook``)
    shuffle   block   epoch   num_records   0     (``trialrun.samplers.permutation``)
    groups    block   epoch   pool          0     (``trialrun.samplers.sequences.LengthGrouped``)

Where one word is wanted at each of many positions that lie apart, ``scattered_words`` computes them
with SplitMix64 under the same kind of key: numpy's Philox has blocks of consecutive words only.

Sources: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011; Steele,
Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014. Only raw output of
numpy's bit generator is used, because numpy guarantees its stream in every version.
"""

from __future__ import annotations

import enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trialrun.samplers._checks import whole_number

__all__ = ["AddressBook", "Stream", "random_words", "root_key", "scattered_words"]

# A power of two. 256 addresses cost one generator (about 12 us), 1,024 words (about 7 us) and their
# Python numbers (about 50 us), so that a lookup's share is 0.3 us; a block takes 60 KiB.
_MAJORS_PER_BLOCK: Final = 256
# Blocks kept, one for each minor: at most 4 MiB for each book. More slots than that in one process
# still get the right words, only slower.
_MAX_BLOCKS: Final = 64
_MAJOR_END: Final = 2**63
_MINOR_END: Final = 2**32

Words = tuple[int, int, int, int]
"""Four random words of 64 bits."""


class Stream(enum.IntEnum):
    """What draws the random numbers.

    The values are part of a run's identity: a stream is never renumbered, new ones are added below.
    """

    SHUFFLE = 1
    """The order of the training records in each pass."""
    MODEL = 2
    """The construction of the trial: initial weights. One address for all slots."""
    TRAIN = 3
    """``train_batch``, for each batch (major) and slot (minor)."""
    VALIDATION = 4
    """``evaluate_batch``, for each batch (major) of the validation data: alike each time."""
    DATA = 5
    """Dataset and collate function of a training batch, for each batch (major) and slot (minor)."""
    VALIDATION_DATA = 6
    """Dataset and collate function of a validation batch."""
    WEIGHTED = 7
    """Draws with replacement, one word for each position (``WeightedSampler``)."""
    LENGTH_GROUPS = 8
    """The order of the batches within a pool (``LengthGroupedBatchSampler``)."""
    FOREIGN = 9
    """A sampler from elsewhere, for each pass (major) and each of its generators (minor)."""
    CALLBACK = 10
    """Callbacks, for each batch (major) and each event and callback (minor)."""
    REDUCER = 11
    """A metric reducer, for each report's batch (major) and slot, or S across slots (minor)."""
    OPTIMIZER = 12
    """What a step draws for all slots together, for each batch (major) and step in it (minor)."""
    STEP_CALLBACK = 13
    """Callbacks after a step, for each batch (major), and each step in it and callback (minor)."""


def root_key(seed: int, stream: Stream) -> NDArray[np.uint64]:
    """Returns the key under which all words of one stream of one seed lie.

    The stream goes in as a spawn key: as part of the entropy, (seed, stream) pairs would alias,
    because ``SeedSequence([1])`` equals ``SeedSequence([1, 0])``.

    Args:
        seed: The trial's seed, any non-negative whole number.
        stream: What will draw.

    Returns:
        Two words of 64 bits, shape (2,).

    Raises:
        ValueError: The seed is negative or no whole number, or there is no such stream.
    """
    entropy = whole_number("seed", seed, 0)
    root = np.random.SeedSequence(entropy, spawn_key=(Stream(stream),))
    return root.generate_state(2, np.uint64).astype(np.uint64, copy=False)


def random_words(
    key: NDArray[np.uint64], counter: tuple[int, int, int, int], num_blocks: int
) -> NDArray[np.uint64]:
    """Returns consecutive Philox4x64-10 output blocks.

    Args:
        key: Two words, from ``root_key``.
        counter: The counter of the first block, four words of 64 bits, lowest first. The counter of
            block i is that plus i, as one number of 256 bits.
        num_blocks: How many blocks.

    Returns:
        Words of 64 bits, shape (num_blocks, 4).
    """
    first = sum(word << (64 * i) for i, word in enumerate(counter))
    # numpy adds 1 to the counter before it makes a block: start one below, 0 wraps to 2**256 - 1.
    bits = np.random.Philox(key=key, counter=(first - 1) % 2**256)
    return bits.random_raw(4 * num_blocks).reshape(num_blocks, 4)


def scattered_words(key: NDArray[np.uint64], positions: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Returns the words of the generator SplitMix64 at any positions of its sequence.

    Its state is an addition for each word, s(p) = key[0] + (p + 1) * gamma modulo 2**64, and the
    word a bijective mix of it: any position costs the same, about 10 ns.

    Args:
        key: Two words, from ``root_key``: the first state, and what gamma is made of.
        positions: Any shape, in any order; counted modulo 2**64.

    Returns:
        Words of 64 bits, same shape.
    """
    first, gamma = (int(word) for word in key)
    gamma |= 1
    # As the paper's mixGamma does: too regular a gamma, such as 0x...0001, gives states that differ
    # in few bits.
    if (gamma ^ (gamma >> 1)).bit_count() < 24:
        gamma ^= 0xAAAAAAAAAAAAAAAA
    words = positions.astype(np.uint64)
    words += np.uint64(1)
    words *= np.uint64(gamma)
    words += np.uint64(first)
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


class AddressBook:
    """The random words of one stream: ``words(major, minor)``, in any order, as often as wanted.

    Words are computed for 256 consecutive majors at once and kept for the minors used last; that
    changes the speed (below 1 us each when majors ascend) and nothing else.

    Args:
        seed: The trial's seed, any non-negative whole number.
        stream: What draws.

    Raises:
        ValueError: The seed is negative or no whole number.
    """

    def __init__(self, seed: int, stream: Stream) -> None:
        self._key = root_key(seed, stream)
        # minor -> (first major of the block, the words of its 256 majors), oldest first.
        self._blocks: dict[int, tuple[int, list[Words]]] = {}

    def words(self, major: int, minor: int = 0) -> Words:
        """Returns the four 64-bit words at an address.

        Args:
            major: The batch, or 0; below 2**63.
            minor: The slot, or 0; below 2**32.

        Raises:
            ValueError: An address is out of range.
        """
        block = self._blocks.get(minor)
        # A block was only kept for a legal address, so that a hit needs no check of its own.
        if block is None or not 0 <= major - block[0] < _MAJORS_PER_BLOCK:
            block = self._compute(major, minor)
        return block[1][major - block[0]]

    def _compute(self, major: int, minor: int) -> tuple[int, list[Words]]:
        major = whole_number("major", major, 0, _MAJOR_END)
        minor = whole_number("minor", minor, 0, _MINOR_END)
        first = major - major % _MAJORS_PER_BLOCK
        words = random_words(self._key, (first, minor, 0, 0), _MAJORS_PER_BLOCK)
        block = (first, [(a, b, c, d) for a, b, c, d in words.tolist()])
        self._blocks.pop(minor, None)
        if len(self._blocks) >= _MAX_BLOCKS:
            del self._blocks[next(iter(self._blocks))]
        self._blocks[minor] = block
        return block
