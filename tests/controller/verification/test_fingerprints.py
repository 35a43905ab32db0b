from __future__ import annotations

import collections
import copy
import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trialrun.controller.verification.fingerprints import fingerprint

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


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.clone_state()
    return copy.deepcopy(value)
