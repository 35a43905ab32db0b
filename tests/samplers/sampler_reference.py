"""The samplers once more in plain Python integers, written from the documented definitions.

Slow and obvious on purpose: no arrays, no blocks. Only the root keys come from numpy.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

from trialrun.samplers.addresses import Stream, root_key

MASK = 2**64 - 1


def philox_block(key: list[int], counter: int) -> list[int]:
    """Philox4x64-10 as in Salmon et al. 2011, table 2."""
    x = [(counter >> (64 * i)) & MASK for i in range(4)]
    k = list(key)
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [(p1 >> 64) ^ x[1] ^ k[0], p1 & MASK, (p0 >> 64) ^ x[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return x


def words(seed: int, stream: Stream, counter: tuple[int, int, int], count: int) -> list[int]:
    key = root_key(seed, stream).tolist()
    first = counter[0] + (counter[1] << 64) + (counter[2] << 128)
    blocks = (philox_block(key, first + i) for i in range(-(-count // 4)))
    return list(itertools.chain.from_iterable(blocks))[:count]


def splitmix_word(key: list[int], position: int) -> int:
    """SplitMix64 as in Steele et al. 2014, figure 16 and 17."""
    first, gamma = key[0], key[1] | 1
    if bin(gamma ^ (gamma >> 1)).count("1") < 24:
        gamma ^= 0xAAAAAAAAAAAAAAAA
    word = (first + (position + 1) * gamma) & MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


# Plain Philox takes 20 us a word, and the property tests ask for a pass often.
@functools.cache
def sorted_permutation(n: int, seed: int, epoch: int) -> list[int]:
    keys = words(seed, Stream.SHUFFLE, (0, epoch, n), n)
    return sorted(range(n), key=keys.__getitem__)


def feistel_image(n: int, seed: int, epoch: int, index: int) -> int:
    root = math.isqrt(n - 1) + 1
    a = min(range(root, root + min(64, 1 + root // 16)), key=lambda a: a * -(-n // a) - n)
    b = -(-n // a)
    keys = words(seed, Stream.SHUFFLE, (0, epoch, n), 24)

    def mixed(half: int, i: int, modulus: int) -> int:
        word = (half * (keys[3 * i] | 1) + keys[3 * i + 1]) & MASK
        word = ((word ^ (word >> 32)) * (keys[3 * i + 2] | 1)) & MASK
        bits = modulus.bit_length()
        return (word >> bits) * modulus >> (64 - bits)

    while True:
        left, right = divmod(index, b)
        for i in range(0, 8, 2):
            left = (left + mixed(right, i, a)) % a
            right = (right + mixed(left, i + 1, b)) % b
        index = left * b + right
        if index < n:
            return index


def rank_stream(n: int, seed: int, num_workers: int, rank: int) -> Iterator[int]:
    passes = itertools.chain.from_iterable(
        sorted_permutation(n, seed, e) for e in itertools.count()
    )
    return itertools.islice(passes, rank, None, num_workers)


def weighted_record(weights: list[float], seed: int, position: int) -> int:
    word = splitmix_word(root_key(seed, Stream.WEIGHTED).tolist(), position)
    sums = list(itertools.accumulate(weights))
    target = (word >> 11) / 2**53 * sums[-1]
    # Below 1e-307 the product may be rounded up to the whole sum, which is beyond every record.
    last = max(record for record, weight in enumerate(weights) if weight > 0)
    return next((record for record, total in enumerate(sums) if total > target), last)


def length_groups(
    lengths: list[int], batch_size: int, seed: int, drop_last: bool, per_pool: int, epoch: int
) -> list[list[int]]:
    order = sorted_permutation(len(lengths), seed, epoch)
    num_full = len(lengths) // batch_size
    batches = []
    for pool, first in enumerate(range(0, num_full, per_pool)):
        num_batches = min(per_pool, num_full - first)
        records = order[first * batch_size : (first + num_batches) * batch_size]
        records.sort(key=lengths.__getitem__)
        keys = words(seed, Stream.LENGTH_GROUPS, (0, epoch, pool), num_batches)
        for batch in sorted(range(num_batches), key=keys.__getitem__):
            batches.append(records[batch * batch_size : (batch + 1) * batch_size])
    rest = sorted(order[num_full * batch_size :], key=lengths.__getitem__)
    return batches if drop_last or not rest else [*batches, rest]
