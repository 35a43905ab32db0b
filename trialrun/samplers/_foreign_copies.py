"""Copies of a sampler from elsewhere: what one pass changes in it, no other pass sees.

A copy has its own containers (lists, dictionaries, sets, deques, arrays, tensors, however deep),
its own samplers inside it, and its own torch, numpy and ``random`` generators. Everything else is
shared: datasets and models, because of their size, read-only arrays and mapped files, and objects
of other kinds, of which nothing is known.
"""

from __future__ import annotations

import array
import copy
import random
from collections import deque
from collections.abc import Callable, Sized
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

Words = tuple[int, int, int, int]
"""Four random words of 64 bits."""

# Attributes that hold datasets, also where these are lists, and those that hold samplers.
_DATASET_NAMES: Final = ("data_source", "dataset", "datasets")
_SAMPLER_NAMES: Final = ("sampler", "batch_sampler")
_UNCHANGING: Final = {int, float, complex, bool, str, bytes, type(None)}


def is_iterable_sampler(value: object) -> bool:
    """Whether something may be a sampler: it has a length and items, but no item by number.

    A dataset is none: given in a sampler's place, it is a mistake.
    """
    if not (hasattr(value, "__iter__") and hasattr(value, "__len__")):
        return False
    return isinstance(value, Sampler) or not hasattr(value, "__getitem__")


def pristine_copy(sampler: Any) -> Any:
    """Returns a copy that later changes of the sampler's containers do not reach.

    The generators in it are still the sampler's own. It is only there to be copied for passes.
    """
    return _Copier(None, None).copy_sampler(sampler)


def copy_for_pass(sampler: Any, words: Callable[[int], Words], epoch: int) -> Any:
    """Returns a copy that is told the pass, and whose generators begin at the pass's words.

    Args:
        sampler: A pristine copy. It is not changed.
        words: Gives generator n of the sampler, in the order of its attributes, its words.
        epoch: The pass, from 0.
    """
    return _Copier(words, epoch).copy_sampler(sampler)


class _Copier:
    """One copy; two attributes that hold one object hold one copy of it."""

    def __init__(self, words: Callable[[int], Words] | None, epoch: int | None) -> None:
        self._words = words
        self._epoch = epoch
        self._num_generators = 0
        # The originals are kept with their copies: an id is only theirs as long as they live.
        self._copies: dict[int, tuple[object, Any]] = {}

    def copy_sampler(self, sampler: Any) -> Any:
        twin = self._known(sampler)
        if twin is None:
            twin = self._remember(sampler, copy.copy(sampler))
            attributes = getattr(twin, "__dict__", {})
            for name, value in list(attributes.items()):
                # Not by setattr, which a frozen dataclass refuses.
                attributes[name] = self._copy_attribute(name, value)
            if self._epoch is not None and hasattr(twin, "set_epoch"):
                twin.set_epoch(self._epoch)
        return twin

    def _copy_attribute(self, name: str, value: Any) -> Any:
        if name in _DATASET_NAMES:
            return value
        # RandomSampler's generator is None until somebody gives one.
        if name == "generator" and value is None and self._words is not None:
            return torch.Generator().manual_seed(self._next_words()[0])
        if name in _SAMPLER_NAMES and is_iterable_sampler(value):
            return self.copy_sampler(value)
        return self._copy(value)

    def _copy(self, value: Any) -> Any:
        if type(value) in _UNCHANGING:
            return value
        twin = self._known(value)
        if twin is None:
            twin = self._copy_unknown(value)
        return twin

    def _copy_unknown(self, value: Any) -> Any:
        if type(value) in (list, dict):  # first, as there may be a list for each of many batches
            return self._copy_items(value)
        if isinstance(value, Dataset | torch.nn.Module | torch.nn.Parameter):
            return value
        if isinstance(value, Sampler):
            return self.copy_sampler(value)
        if isinstance(value, torch.Generator | np.random.RandomState | np.random.Generator):
            return self._copy_generator(value)
        if isinstance(value, random.Random):
            return self._copy_generator(value)
        if isinstance(value, torch.Tensor):
            return self._remember(value, value.detach().clone())
        if isinstance(value, np.ndarray):
            is_fixed = isinstance(value, np.memmap) or not value.flags.writeable
            return value if is_fixed else self._remember(value, value.copy())
        if isinstance(value, set | bytearray | array.array):
            return self._remember(value, copy.copy(value))
        if isinstance(value, list | deque | dict):
            return self._copy_items(value)
        if isinstance(value, tuple):
            items = [self._copy(item) for item in value]
            if all(twin is item for twin, item in zip(items, value, strict=True)):
                return value
            twin = value._make(items) if hasattr(value, "_make") else tuple(items)
            return self._remember(value, twin)
        return value

    def _copy_items(self, container: Any) -> Any:
        twin = self._remember(container, copy.copy(container))
        is_dict = isinstance(container, dict)
        values = container.values() if is_dict else container
        # Ten times as fast for a million numbers than to look at each.
        if not set(map(type, values)) <= _UNCHANGING:
            for key, value in list(container.items() if is_dict else enumerate(container)):
                twin[key] = self._copy(value)
        return twin

    def _copy_generator(self, generator: Any) -> Any:
        if self._words is None:
            return generator
        torch_word, numpy_word, python_word, _ = self._next_words()
        twin: Any
        if isinstance(generator, torch.Generator):
            twin = torch.Generator().manual_seed(torch_word)
        elif isinstance(generator, np.random.RandomState):
            twin = np.random.RandomState(np.random.MT19937(numpy_word))
        elif isinstance(generator, np.random.Generator):
            twin = np.random.Generator(np.random.Philox(key=numpy_word))
        else:
            twin = random.Random(python_word)
        return self._remember(generator, twin)

    def _next_words(self) -> Words:
        assert self._words is not None
        self._num_generators += 1
        return self._words(self._num_generators - 1)

    def _known(self, value: object) -> Any:
        return self._copies.get(id(value), (None, None))[1]

    def _remember(self, value: object, twin: Any) -> Any:
        self._copies[id(value)] = (value, twin)
        return twin


def dataset_length(sampler: object) -> int | None:
    """Returns the length of the sampler's ``data_source``, or None where it has none."""
    source = getattr(sampler, "data_source", None)
    return len(source) if isinstance(source, Sized) else None


def deals_out(sampler: object) -> bool:
    """Whether a sampler, or the one inside it, gives one worker's share, as torch's do."""
    parts = [sampler, *(getattr(sampler, name, None) for name in _SAMPLER_NAMES)]
    return any(hasattr(part, "num_replicas") and hasattr(part, "rank") for part in parts)
