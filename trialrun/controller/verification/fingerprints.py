"""A hash of anything that a batch or an attribute may be: equal values have equal ones."""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from blake3 import blake3

_SCALARS = (bool, int, float, complex, str, bytes, enum.Enum, PurePath, type(None))


def fingerprint(value: Any) -> str:
    """Returns the hash of a value's contents.

    Tensors and arrays count by type, shape and bytes; random generators by their state; modules by
    their state dictionary; other objects by their attributes, or where they have none by their type
    alone.
    """
    hasher = blake3()
    _add(hasher, value, set())
    return str(hasher.hexdigest(length=16))


def _add(hasher: Any, value: Any, inside: set[int]) -> None:
    hasher.update(f"{type(value).__qualname__}\0".encode())
    if id(value) in inside:  # it contains itself
        return
    inside = inside | {id(value)}
    if isinstance(value, torch.Tensor):
        _add_tensor(hasher, value, inside)
    elif isinstance(value, np.ndarray | np.generic):
        _add_array(hasher, np.asarray(value), inside)
    elif isinstance(value, _SCALARS):
        hasher.update(f"{value!r}\0".encode())
    else:
        for part in _parts(value):
            _add(hasher, part, inside)


def _add_tensor(hasher: Any, tensor: torch.Tensor, inside: set[int]) -> None:
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    hasher.update(f"{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
    data = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
    hasher.update(data.numpy().tobytes())


def _add_array(hasher: Any, array: np.ndarray[Any, Any], inside: set[int]) -> None:
    hasher.update(f"{array.dtype}\0{array.shape}\0".encode())
    if array.dtype.hasobject:
        for item in array.reshape(-1).tolist():
            _add(hasher, item, inside)
    else:
        hasher.update(np.ascontiguousarray(array).tobytes())


def _parts(value: Any) -> list[Any]:
    if isinstance(value, torch.Generator):
        return [value.get_state()]
    if isinstance(value, np.random.Generator):
        return [value.bit_generator.state]
    if isinstance(value, np.random.RandomState):
        return [value.get_state()]
    if isinstance(value, random.Random):
        return [value.getstate()]
    if isinstance(value, torch.nn.Module):
        return [value.state_dict()]
    if isinstance(value, Mapping):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    return [vars(value)] if hasattr(value, "__dict__") and not callable(value) else []
