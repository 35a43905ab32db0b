"""What a pass changes in a sampler from elsewhere, no other pass sees."""

from __future__ import annotations

import dataclasses
import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_classes import Drawing, Rotated
from torch.utils.data import (
    Sampler,
)

from trialrun.samplers import (
    BatchSampler,
    DistributedSampler,
    ForeignBatchSampler,
    ForeignSampler,
    RepeatSampler,
)
from trialrun.samplers._foreign_copies import copy_for_pass, pristine_copy


class Shuffling:
    """Shuffles a container of its own in place, as many hand-written samplers do."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        order = list(range(20))
        self.order: Any = {
            "deque": deque(order),
            "array": np.arange(20),
            "tensor": torch.arange(20),
            "dict": dict(zip(order, order, strict=True)),
            "lists in a dict": {"even": order[::2], "odd": order[1::2]},
            "list in a tuple": (order, "train"),
            "sampler in a list": [],
        }.get(kind, order)
        if kind == "sampler in a list":
            self.order = [ShufflingSampler("list")]
        self.same = self.order

    def __len__(self) -> int:
        return 20

    def __iter__(self) -> Iterator[int]:
        order: Any = self.order
        assert self.same is order
        if self.kind == "tensor":
            order.copy_(order[torch.randperm(20)])
        elif self.kind == "array":
            np.random.shuffle(order)
        elif self.kind == "dict":
            first, last = order.popitem(), order.popitem()
            order.update([first, last])
            order.update({random.randrange(20): order.pop(random.randrange(18))})
            order.update({key: key for key in set(range(20)) - set(order)})
            order = list(order)
        elif self.kind == "lists in a dict":
            for records in order.values():
                random.shuffle(records)
            order = [*order["even"], *order["odd"]]
        elif self.kind == "list in a tuple":
            random.shuffle(order[0])
            order = order[0]
        elif self.kind == "sampler in a list":
            order = order[0]
        else:
            random.shuffle(order)
        return iter([int(record) for record in order])


class ShufflingSampler(Shuffling, Sampler[int]):
    """The same, as torch's interface has it."""


SHUFFLING = [
    "list",
    "deque",
    "array",
    "tensor",
    "dict",
    "lists in a dict",
    "list in a tuple",
    "sampler in a list",
]


@pytest.mark.parametrize("kind", SHUFFLING)
def test_an_order_shuffled_in_place_carries_nothing_from_pass_to_pass(kind: str) -> None:
    straight = RepeatSampler(ForeignSampler(Shuffling(kind), 5)).take(0, 80)
    assert (np.sort(straight.reshape(4, 20), axis=1) == np.arange(20)).all()
    assert len({tuple(items) for items in straight.reshape(4, 20).tolist()}) == 4
    for start in range(0, 80, 7):
        resumed = RepeatSampler(ForeignSampler(Shuffling(kind), 5)).take(start, 80)
        assert resumed.tolist() == straight[start:].tolist()


@pytest.mark.parametrize("kind", SHUFFLING)
def test_chains_over_one_sampler_share_out_each_pass_exactly(kind: str) -> None:
    sampler, adapter = Shuffling(kind), ForeignSampler(Shuffling(kind), 5)
    straight = RepeatSampler(ForeignSampler(Shuffling(kind), 5)).take(0, 80).tolist()
    for bottoms in ([ForeignSampler(sampler, 5), ForeignSampler(sampler, 5)], [adapter, adapter]):
        chains = [
            BatchSampler(DistributedSampler(RepeatSampler(bottom), 2, slot), 3)
            for slot, bottom in enumerate(bottoms)
        ]
        # 3 batches of 6 records straddle passes of 20.
        windows = [[chain.take(k, k + 3) for chain in chains] for k in range(0, 12, 3)]
        shares = [np.concatenate([b for window in windows for b in window[s]]) for s in range(2)]
        assert np.stack(shares, axis=1).reshape(-1).tolist() == straight[:72]


def test_what_becomes_of_the_users_sampler_later_does_not_matter() -> None:
    sampler = Shuffling("list")
    expected = RepeatSampler(ForeignSampler(Shuffling("list"), 5)).take(0, 60).tolist()
    repeat = RepeatSampler(ForeignSampler(sampler, 5))
    sampler.order.reverse()
    assert repeat.take(0, 30).tolist() == expected[:30]
    sampler.order.clear()
    assert repeat.take(30, 60).tolist() == expected[30:]
    assert sampler.order == []


class Holding:
    """Its generators are in containers."""

    def __init__(self, container: str, kind: str) -> None:
        pair = [Drawing(kind).own, Drawing(kind).own]
        self.kind = kind
        self.rngs: Any = {
            "list": pair,
            "dict": dict(enumerate(pair)),
            "tuple": tuple(pair),
            "list in a dict": {"train": pair},
        }[container]

    def __len__(self) -> int:
        return 20

    def __iter__(self) -> Iterator[int]:
        rngs = self.rngs["train"] if "train" in self.rngs else self.rngs
        halves = []
        for number in range(2):
            part: Any = Drawing(self.kind)
            part.own = rngs[number]
            halves.append([record % 10 + 10 * number for record in part if record < 10])
        # Two generators must not draw alike.
        assert halves[0] != [record - 10 for record in halves[1]]
        return iter([*halves[0], *halves[1]])


@pytest.mark.parametrize("kind", ["numpy state", "numpy generator", "random", "torch"])
@pytest.mark.parametrize("container", ["list", "dict", "tuple", "list in a dict"])
def test_generators_in_a_container_are_seeded(container: str, kind: str) -> None:
    straight = RepeatSampler(ForeignSampler(Holding(container, kind), 5)).take(0, 80)
    assert len({tuple(items) for items in straight.reshape(4, 20).tolist()}) == 4
    other = RepeatSampler(ForeignSampler(Holding(container, kind), 5))
    assert other.take(50, 80).tolist() == straight[50:].tolist()
    assert other.take(0, 50).tolist() == straight[:50].tolist()


def test_datasets_models_and_what_cannot_be_written_into_are_not_copied(tmp_path: Path) -> None:
    class Heavy(Rotated):
        def __init__(self) -> None:
            super().__init__()
            self.data_source = ["a", "b", "c", "d", "e"]
            self.rows = torch.utils.data.TensorDataset(torch.zeros(5))
            self.model = torch.nn.Linear(2, 2)
            self.weights = torch.nn.Parameter(torch.zeros(3))
            self.fixed = np.arange(3)
            self.fixed.setflags(write=False)
            self.mapped = np.memmap(tmp_path / "tokens", dtype=np.int32, mode="w+", shape=(3,))
            self.everything = dict(vars(self))
            self.copied = [np.arange(3), torch.zeros(3)]

    sampler = Heavy()
    twin = copy_for_pass(pristine_copy(sampler), lambda _: (1, 2, 3, 4), 0)
    names = ("data_source", "rows", "model", "weights", "fixed", "mapped")
    assert all(getattr(twin, name) is getattr(sampler, name) for name in names)
    assert all(twin.everything[name] is getattr(sampler, name) for name in names[1:])
    assert not any(a is b for a, b in zip(twin.copied, sampler.copied, strict=True))


def test_a_frozen_sampler_is_copied() -> None:
    @dataclasses.dataclass(frozen=True)
    class Frozen:
        order: list[int]

        def __len__(self) -> int:
            return len(self.order)

        def __iter__(self) -> Iterator[int]:
            random.shuffle(self.order)
            return iter(self.order)

    order = list(range(9))
    assert sorted(ForeignSampler(Frozen(order))) == order == list(range(9))


class Elsewhere:
    """Keeps its place in an object of which nothing is known."""

    class Place:
        number = 0

    def __init__(self, items: Any = (5, 6, 7), change: int = 0) -> None:
        self.items = items
        self.change = change
        self.place = Elsewhere.Place()

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        self.place.number += 1
        if self.place.number > 1 and self.change < 0:
            return iter(self.items[:2])
        changed = [*self.items[:2], self.items[2]]
        if self.place.number > 1:
            changed[2] = changed[self.change]
        return iter(changed)


@pytest.mark.parametrize("change", [0, -1])
@pytest.mark.parametrize(
    ("adapter", "items"),
    [(ForeignSampler, (5, 6, 7)), (ForeignBatchSampler, ([1, 2], [3, 4], [5, 6]))],
)
def test_a_sampler_that_cannot_repeat_a_pass_is_refused(
    adapter: Any, items: Any, change: int
) -> None:
    with pytest.raises(
        ValueError,
        match=r"^The Elsewhere gave other items when pass 0 was read a second time, from item 2 "
        r"on, so it could not resume exactly\. Let __iter__ depend on nothing that it changes, but "
        r"for its own lists, dictionaries, arrays and tensors, and draw from torch, numpy or "
        r"random\.$",
    ):
        adapter(Elsewhere(items, change)).take(0, 1)
