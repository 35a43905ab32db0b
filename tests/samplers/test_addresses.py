"""Random words are a function of (seed, stream, major, minor), the documented one."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import sampler_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from trialrun.samplers import addresses
from trialrun.samplers.addresses import AddressBook, Stream, random_words, root_key, scattered_words

GOLDEN = {
    (0, Stream.TRAIN, 0, 0): (
        0x9935DF92F51E1D31,
        0xA5D958C9186953F3,
        0xFE4D43912D6B2D4D,
        0x538F82F0B674455F,
    ),
    (0, Stream.TRAIN, 1, 0): (
        0xE8B51FF58D7EDB7C,
        0xD97FF25BE7BA25CE,
        0x3E2EC4B102C0AFB6,
        0x3F6B3533EBDB9AAF,
    ),
    (42, Stream.DATA, 1000, 3): (
        0xC93E86C069DC9E92,
        0x98C69C9B9778466D,
        0x1D028AC4D9EDFD79,
        0x7558F732F6683C36,
    ),
    (42, Stream.VALIDATION, 2**63 - 1, 2**32 - 1): (
        0x7C8B62F2A8773E74,
        0xC5AD3FFF3862F917,
        0xB61AFE4F3558D272,
        0x6046C92F121F89C6,
    ),
}


@pytest.mark.parametrize("address", GOLDEN)
def test_golden_words_are_pinned(address: tuple[int, Stream, int, int]) -> None:
    seed, stream, major, minor = address
    assert AddressBook(seed, stream).words(major, minor) == GOLDEN[address]


def test_stream_numbers_are_pinned() -> None:
    assert {stream.name: stream.value for stream in Stream} == {
        "SHUFFLE": 1,
        "MODEL": 2,
        "TRAIN": 3,
        "VALIDATION": 4,
        "DATA": 5,
        "VALIDATION_DATA": 6,
        "WEIGHTED": 7,
        "LENGTH_GROUPS": 8,
        "FOREIGN": 9,
        "CALLBACK": 10,
        "REDUCER": 11,
        "OPTIMIZER": 12,
        "STEP_CALLBACK": 13,
    }


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**70),
    stream=st.sampled_from(Stream),
    addresses=st.lists(
        st.tuples(
            st.integers(0, 600) | st.integers(0, 2**63 - 1),
            st.integers(0, 3) | st.integers(0, 2**32 - 1),
        ),
        max_size=8,
    ),
)
def test_words_equal_plain_philox_in_any_order(
    seed: int, stream: Stream, addresses: list[tuple[int, int]]
) -> None:
    book = AddressBook(seed, stream)
    for major, minor in addresses:
        assert list(book.words(major, minor)) == reference.words(seed, stream, (major, minor, 0), 4)


def test_scattered_words_are_those_of_splitmix64() -> None:
    # The first words of the published generator, which starts at 1234567.
    key = np.array([1234567, 0x9E3779B97F4A7C15], dtype=np.uint64)
    words = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert scattered_words(key, np.arange(4)).tolist() == words
    assert scattered_words(key, np.array([2, 0, 2])).tolist() == [words[2], words[0], words[2]]


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**64 - 1]),
    st.lists(st.integers(0, 2**63 - 1), max_size=5),
)
def test_scattered_words_equal_the_plain_reference(
    first: int, gamma: int, positions: list[int]
) -> None:
    key = np.array([first, gamma], dtype=np.uint64)
    got = scattered_words(key, np.array(positions, dtype=np.int64))
    assert got.tolist() == [reference.splitmix_word([first, gamma], p) for p in positions]


def test_words_are_python_ints() -> None:
    assert {type(word) for word in AddressBook(1, Stream.TRAIN).words(5, 2)} == {int}


def test_more_minors_than_blocks_are_kept_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_MAX_BLOCKS", 4)
    book = AddressBook(3, Stream.TRAIN)
    walk = [book.words(major, minor) for major in range(3) for minor in range(9)]
    fresh = [AddressBook(3, Stream.TRAIN).words(i // 9, i % 9) for i in range(27)]
    assert walk == fresh
    assert len(book._blocks) == 4


def test_no_two_addresses_share_words() -> None:
    seen = set()
    for seed in range(3):
        for stream in Stream:
            book = AddressBook(seed, stream)
            seen.update(book.words(major, minor) for major in range(300) for minor in range(3))
    assert len(seen) == 3 * len(Stream) * 300 * 3


def test_seed_and_stream_do_not_alias() -> None:
    keys = {tuple(root_key(seed, stream).tolist()) for seed in range(50) for stream in Stream}
    assert len(keys) == 50 * len(Stream)
    # The alias that the spawn key is there for.
    entropy = np.random.SeedSequence
    assert (entropy([1]).generate_state(2) == entropy([1, 0]).generate_state(2)).all()
    # A seed beyond 64 bits is not cut.
    assert not np.array_equal(root_key(1, Stream.DATA), root_key(1 + 2**64, Stream.DATA))


def test_counter_carries_from_word_to_word() -> None:
    key = root_key(9, Stream.MODEL)
    top = 2**64 - 1
    assert np.array_equal(
        random_words(key, (top, 0, 0, 0), 2)[1], random_words(key, (0, 1, 0, 0), 1)[0]
    )


@pytest.mark.parametrize("seed", [-1, 1.5, True, "7", None, np.float64(3)])
def test_a_seed_that_is_no_whole_number_is_refused(seed: object) -> None:
    message = rf"^seed={re.escape(repr(seed))} is not a whole number of at least 0\. Give such"
    with pytest.raises(ValueError, match=message):
        AddressBook(seed, Stream.TRAIN)  # type: ignore[arg-type]


def test_numpy_seed_is_the_same_seed() -> None:
    assert np.array_equal(root_key(np.int64(7), Stream.DATA), root_key(7, Stream.DATA))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("major", "minor", "message"),
    [
        (-1, 0, "major=-1 is not a whole number of at least 0 and below 9223372036854775808"),
        (2**63, 0, "major=9223372036854775808 is not a whole number"),
        (0, -1, "minor=-1 is not a whole number of at least 0 and below 4294967296"),
        (0, 2**32, "minor=4294967296 is not a whole number"),
    ],
)
@pytest.mark.parametrize("is_warm", [False, True])
def test_an_address_out_of_range_is_refused(
    major: int, minor: int, message: str, is_warm: bool
) -> None:
    book = AddressBook(0, Stream.TRAIN)
    if is_warm:
        book.words(0, 0)
    with pytest.raises(ValueError, match=f"^{message}"):
        book.words(major, minor)


@pytest.mark.parametrize("module", ["addresses", "permutation", "sequences", "record_order"])
def test_import_needs_no_torch(module: str) -> None:
    code = f"import sys, trialrun.samplers.{module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
