"""Samplers as people write them, which know nothing of trialrun."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler


class Drawing:
    """A shuffle by somebody else, with a generator that every pass moves on."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.own: Any = {
            "numpy state": np.random.RandomState(1),
            "numpy generator": np.random.default_rng(1),
            "random": random.Random(1),
            "torch": torch.Generator().manual_seed(1),
        }.get(kind)

    def __len__(self) -> int:
        return 20

    def __iter__(self) -> Iterator[int]:
        order = list(range(20))
        if self.kind in ("numpy state", "numpy generator"):
            self.own.shuffle(order)
        elif self.kind == "random":
            self.own.shuffle(order)
        elif self.kind == "torch":
            order = torch.randperm(20, generator=self.own).tolist()
        elif self.kind == "process's torch":
            order = torch.randperm(20).tolist()
        elif self.kind == "process's numpy":
            np.random.shuffle(order)
        else:
            random.shuffle(order)
        return iter(order)


class Rotated(Sampler[int]):
    """As torch's DistributedSampler it must be told the pass."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[int]:
        return iter((i + self.epoch) % 5 for i in range(5))


class Wrapped(Sampler[list[int]]):
    """Somebody's batches over a sampler that draws."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler) // 2

    def __iter__(self) -> Iterator[list[int]]:
        records = iter(self.sampler)
        return iter([[next(records), next(records)] for _ in range(len(self))])
