from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import itertools
import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trialrun.controller.verification.fingerprints import fingerprint, sampled_fingerprint

Pair = collections.namedtuple("Pair", ["image", "label"])


@dataclasses.dataclass
class Sample:
    image: torch.Tensor
    name: str


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


class Slotted:
    __slots__ = ()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


VALUES = [
    None,
    True,
    1,
    1.0,
    -0.0,
    0.0,
    "a",
    b"a",
    Path("a"),
    torch.tensor([1.0, 2.0]),
    torch.tensor([[1.0, 2.0]]),
    torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
    torch.tensor(1.0),
    torch.eye(2).to_sparse(),
    torch.empty(0),
    np.array([1.0, 2.0]),
    np.array([1, 2]),
    np.float32(1.0),
    np.array(["a", None], dtype=object),
    [],
    [1, 2],
    (1, 2),
    [2, 1],
    {"a": 1},
    {"b": 1},
    {"a": 1, "b": 2},
    {"b": 2, "a": 1},
    {1, 2},
    {1, 3},
    Pair(torch.ones(2), 3),
    Pair(torch.ones(2), 4),
    Sample(torch.zeros(2), "a"),
    Sample(torch.zeros(2), "b"),
    Plain(1),
    Plain([torch.ones(1)]),
    generator(1),
    generator(2),
    np.random.default_rng(1),
    np.random.default_rng(2),
    np.random.RandomState(1),
    random.Random(1),
    random.Random(2),
    torch.nn.Linear(2, 2),
    torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)]),
    Slotted(),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_equal_contents_have_equal_fingerprints(value: Any) -> None:
    is_slotted = isinstance(value, Slotted)
    twin = Slotted() if is_slotted else _copied(value)
    assert fingerprint(twin) == fingerprint(value)


def test_other_contents_have_other_fingerprints() -> None:
    assert len({fingerprint(value) for value in VALUES}) == len(VALUES)


def test_a_stride_or_a_view_is_no_difference() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    assert fingerprint(tensor.t()) == fingerprint(tensor.t().contiguous())
    assert fingerprint(tensor[:, 1]) == fingerprint(tensor[:, 1].clone())


def test_what_contains_itself_has_one() -> None:
    first: list[Any] = [1]
    first.append(first)
    second: list[Any] = [2]
    second.append(second)
    assert fingerprint(first) != fingerprint(second)


def counting() -> Callable[[], int]:
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return count

    return step


def squares() -> Iterator[int]:
    for number in itertools.count():
        yield number * number


@pytest.mark.parametrize(
    ("value", "advance"),
    [
        (counting(), lambda value: value()),
        (functools.partial(counting()), lambda value: value()),
        (squares(), next),
        (iter([1, 2, 3]), next),
        (iter(range(5)), next),
        (itertools.cycle([1, 2]), next),
        (itertools.count(), next),
        (enumerate("abc"), next),
        (zip([1, 2], [3, 4], strict=True), next),
    ],
)
def test_what_stands_elsewhere_has_another_and_looking_moves_nothing(
    value: Any, advance: Callable[[Any], Any]
) -> None:
    before = fingerprint(value)
    assert fingerprint(value) == before
    advance(value)
    assert fingerprint(value) != before


def test_what_python_itself_keeps_is_no_state() -> None:
    logger = logging.getLogger("tests.fingerprints")
    before = fingerprint({"log": logger})
    logger.isEnabledFor(logging.ERROR)  # which it remembers
    assert fingerprint({"log": logger}) == before


def test_what_is_held_counts_by_its_type_wherever_it_is_met() -> None:
    held = torch.zeros(2)
    owner = Plain([held, 1])
    before = sampled_fingerprint(owner, {id(held)})
    held += 1
    assert sampled_fingerprint(owner, {id(held)}) == before
    owner.value[1] = 2
    assert sampled_fingerprint(owner, {id(held)}) != before


@pytest.mark.parametrize("make", [torch.zeros, lambda n: np.zeros(n, dtype=np.float32)])
def test_of_a_large_dataset_a_sample_counts(make: Callable[[int], Any]) -> None:
    large = make(5_000_000)
    before = sampled_fingerprint(large, ())
    large[1] = 1  # between the sampled ones
    assert sampled_fingerprint(large, ()) == before
    large[:] = 1
    assert sampled_fingerprint(large, ()) != before
    assert sampled_fingerprint(make(5_000_001), ()) != sampled_fingerprint(make(5_000_000), ())


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.clone_state()
    return copy.deepcopy(value)
