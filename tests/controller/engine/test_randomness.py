from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from trialrun.controller.engine.randomness import Generators
from trialrun.samplers import AddressBook, Stream


def draws() -> tuple[Any, ...]:
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]


@pytest.fixture
def generators() -> Generators:
    return Generators(11, torch.device("cpu"))


def test_an_address_gives_the_same_draws_whatever_came_before(generators: Generators) -> None:
    generators.enter(Stream.TRAIN, 5, 2)
    expected = draws()
    for before in range(4):
        torch.rand(before)
        np.random.rand(before)
        random.gauss(0, 1)
        torch.randn(1)  # leaves half of a pair behind in some generators
        np.random.randn(1)
        generators.enter(Stream.TRAIN, before, before)
        draws()
        generators.enter(Stream.TRAIN, 5, 2)
        assert draws() == expected
    other = Generators(11, torch.device("cpu"))
    other.enter(Stream.TRAIN, 5, 2)
    assert draws() == expected


def test_every_part_of_an_address_matters_to_every_generator() -> None:
    seen = []
    for seed in (11, 12):
        generators = Generators(seed, torch.device("cpu"))
        for stream in (Stream.TRAIN, Stream.DATA, Stream.VALIDATION):
            for major in (0, 1, 300):
                for minor in (0, 1):
                    generators.enter(stream, major, minor)
                    seen.append(draws())
    for position in range(3):
        assert len({tuple(one[position]) for one in seen}) == len(seen) == 36


def test_seed_and_batch_are_not_added(generators: Generators) -> None:
    generators.enter(Stream.TRAIN, 0)
    first = draws()
    Generators(10, torch.device("cpu")).enter(Stream.TRAIN, 1)
    assert draws() != first


def test_the_words_are_those_of_the_address_book(generators: Generators) -> None:
    generators.enter(Stream.MODEL, 7, 3)
    words = AddressBook(11, Stream.MODEL).words(7, 3)
    assert torch.default_generator.initial_seed() % 2**64 == words[0]
    assert random.random() == random.Random(words[3]).random()


def test_a_slot_that_waited_goes_on_where_it_was(generators: Generators) -> None:
    generators.enter(Stream.TRAIN, 0, 0)
    # A normal draw leaves its other half in the generator; that must come back too.
    np.random.randn(1)
    random.gauss(0, 1)
    torch.randn(1)
    states = generators.save()
    expected = draws(), np.random.randn(), random.gauss(0, 1), torch.randn(1).item()
    generators.enter(Stream.TRAIN, 0, 1)
    draws()
    generators.restore(states)
    assert (draws(), np.random.randn(), random.gauss(0, 1), torch.randn(1).item()) == expected


def test_python_draws_are_those_of_its_own_seed() -> None:
    generators = Generators(7, torch.device("cpu"))
    random.gauss(0, 1)  # leaves its twin for the next call, which must be forgotten
    generators.enter(Stream.TRAIN, 3, 1)
    drawn = [random.random(), random.gauss(0, 1)]
    word = AddressBook(7, Stream.TRAIN).words(3, 1)[3]
    random.seed(word)
    assert drawn == [random.random(), random.gauss(0, 1)]
