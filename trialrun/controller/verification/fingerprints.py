"""A hash of anything that a batch or an attribute may be: equal values have equal ones."""

from __future__ import annotations

import array
import datetime
import decimal
import enum
import fractions
import functools
import random
import sys
import types
import warnings
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from blake3 import blake3

_SCALARS: tuple[type, ...] = (
    *(bool, int, float, complex, str, bytes, bytearray, array.array, range, type(None)),
    *(datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, fractions.Fraction),
    *(enum.Enum, PurePath),
)
_SAMPLED_BYTES = 1 << 24
_MOST_PARTS = 100_000
_UNREAD = (type, types.ModuleType, types.BuiltinFunctionType)


def fingerprint(value: Any) -> str:
    """Returns the hash of a batch's contents, all of them.

    Tensors and arrays count by type, shape and bytes; random generators by their state; modules by
    their state dictionary; iterators by where they stand; functions by what they close over; other
    objects by their attributes, or where they have none by their type alone.
    """
    return _Fingerprint(frozenset(), is_sampled=False).of(value)


def sampled_fingerprint(value: Any, held: Collection[int]) -> str:
    """Returns a hash of what code keeps from batch to batch, which may be a whole dataset.

    As ``fingerprint``, but of tensors and arrays beyond 16 MiB a sample counts, and of lists
    without end the beginning.

    Args:
        value: The value.
        held: The ``id`` of objects that count by their type alone, wherever they are met.
    """
    return _Fingerprint(frozenset(held), is_sampled=True).of(value)


class _Fingerprint:
    def __init__(self, held: frozenset[int], *, is_sampled: bool) -> None:
        self._hasher = blake3()
        self._held = held
        self._is_sampled = is_sampled
        self._num_parts = 0

    def of(self, value: Any) -> str:
        self._add(value, self._held)
        return str(self._hasher.hexdigest(length=16))

    def _add(self, value: Any, inside: frozenset[int]) -> None:
        self._num_parts += 1
        if self._is_sampled and self._num_parts > _MOST_PARTS:
            return
        self._write(type(value).__qualname__)
        if isinstance(value, _SCALARS):
            self._write(repr(value))
            return
        if id(value) in inside:  # it contains itself, or is held
            return
        if isinstance(value, torch.Tensor):
            self._add_tensor(value)
        elif isinstance(value, np.ndarray | np.generic):
            self._add_array(np.asarray(value), inside)
        else:
            inside |= {id(value)}
            for part in _parts(value):
                self._add(part, inside)

    def _write(self, text: str) -> None:
        self._hasher.update(f"{text}\0".encode())

    def _add_tensor(self, tensor: torch.Tensor) -> None:
        tensor = tensor.detach()
        if tensor.layout is not torch.strided:
            tensor = tensor.to_dense()
        self._write(f"{tensor.dtype}\0{tuple(tensor.shape)}")
        if self._is_sampled and tensor.nbytes > _SAMPLED_BYTES:
            tensor = tensor.reshape(-1)[:: tensor.nbytes // _SAMPLED_BYTES + 1]
        data = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
        self._hasher.update(data.numpy().data)

    def _add_array(self, array: np.ndarray[Any, Any], inside: frozenset[int]) -> None:
        self._write(f"{array.dtype}\0{array.shape}")
        if array.dtype.hasobject:
            for item in array.reshape(-1).tolist():
                self._add(item, inside)
            return
        if self._is_sampled and array.nbytes > _SAMPLED_BYTES:
            array = array.flat[:: array.nbytes // _SAMPLED_BYTES + 1]
        self._hasher.update(np.ascontiguousarray(array).tobytes())


def _parts(value: Any) -> Iterator[Any]:
    """Yields what a value consists of."""
    if isinstance(value, torch.Generator):
        yield value.get_state()
    elif isinstance(value, np.random.Generator):
        yield value.bit_generator.state
    elif isinstance(value, np.random.RandomState):
        yield value.get_state()
    elif isinstance(value, random.Random):
        if not isinstance(value, random.SystemRandom):
            yield value.getstate()
    elif isinstance(value, torch.nn.Module):
        yield value.state_dict()
        yield plain_attributes(value)
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from pair
    elif isinstance(value, list | tuple | deque):
        yield from value
    elif isinstance(value, set | frozenset):
        yield from sorted(value, key=repr)
    elif isinstance(value, types.SimpleNamespace):
        yield vars(value)
    elif isinstance(value, types.FunctionType):
        yield from _closed_over(value)
    elif isinstance(value, types.MethodType):
        yield value.__self__
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, types.GeneratorType):
        frame = value.gi_frame
        yield from () if frame is None else (frame.f_lasti, dict(frame.f_locals))
    elif isinstance(value, Iterator) and _is_of_python(value):
        yield from _where_it_stands(value)
    elif not isinstance(value, _UNREAD) and not _is_of_python(value):
        yield from _attributes(value)


def plain_attributes(module: torch.nn.Module) -> dict[str, Any]:
    """Returns the attributes of a module that are neither torch's own nor in its state."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training"
    }


def _closed_over(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it has none yet
            yield None
    yield from (function.__defaults__, function.__kwdefaults__, vars(function))


def _where_it_stands(iterator: Iterator[Any]) -> Iterator[Any]:
    """Yields what an iterator of Python itself would be pickled as, which leaves it where it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            reduced = iterator.__reduce__()
    except TypeError:
        return  # such as that of a file
    yield from reduced[1:]


def _is_of_python(value: Any) -> bool:
    """Returns whether Python itself defines the type: a logger, a lock or a file is no state."""
    return type(value).__module__.partition(".")[0] in _STANDARD


def _attributes(value: Any) -> Iterator[Any]:
    if hasattr(value, "__dict__"):
        yield vars(value)
    for cls in type(value).__mro__:
        names = cls.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield from (name, getattr(value, name))


_STANDARD = frozenset(sys.stdlib_module_names) | {"trialrun"}
