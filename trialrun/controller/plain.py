"""Plain data: what may enter a checkpoint or travel between processes, without pickled code.

Plain are None, booleans, numbers, strings, tensors, numpy arrays and numbers, and lists, tuples and
dictionaries of them. ``torch.load(weights_only=True)`` reads all of it back. What is only derived
from a number or string, such as a member of an ``IntEnum`` or a numpy string, goes as the number or
string that it equals; so does a numpy number that is a dictionary's key.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from trialrun._errors import TrialrunError

_NUMPY = "__numpy__"
_SCALARS = (bool, int, float, complex, str)
# Numpy's types that torch has too.
_DTYPES = {np.dtype(name) for name in ("bool", "int8", "int16", "int32", "int64")}
_DTYPES |= {np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64")}
_DTYPES |= {np.dtype(name) for name in ("float16", "float32", "float64", "complex64", "complex128")}

# From a class derived from one of them to itself.
_CONVERSIONS: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    str: str.__str__,
}


def snapshot(value: Any, name: str) -> Any:
    """Copies plain data into memory of its own, with tensors on the CPU.

    Args:
        value: Plain data; tensors may be on any device.
        name: What it is called in an error, e.g. ``optimizer 0``.

    Returns:
        A copy that shares no memory with the value. Mappings become ``dict``, lists ``list``, numpy
        data dictionaries of one tensor, which ``restore`` undoes.

    Raises:
        TrialrunError: Something in it is not plain data; the message names where.
    """
    if value is None or type(value) in _SCALARS:
        return value
    if isinstance(value, torch.Tensor):
        copied = value.detach().to("cpu", copy=True)
        return copied.contiguous() if copied.layout is torch.strided else copied
    # Before the numbers: a numpy number is also a Python float or complex.
    if isinstance(value, np.ndarray | np.generic) and value.dtype.newbyteorder("=") in _DTYPES:
        array = np.array(value, dtype=value.dtype.newbyteorder("="))
        return {_NUMPY: torch.from_numpy(array), "scalar": isinstance(value, np.generic)}
    for kind, convert in _CONVERSIONS.items():
        if isinstance(value, kind):
            return convert(value)
    if isinstance(value, Mapping):
        items = {
            _snapshot_key(key, name): snapshot(item, f"{name}[{key!r}]")
            for key, item in value.items()
        }
        # Schedulers keep their milestones in a Counter, which torch reads back as one.
        return Counter(items) if isinstance(value, Counter) else items
    if isinstance(value, list | tuple):
        elements = [snapshot(item, f"{name}[{index}]") for index, item in enumerate(value)]
        return elements if isinstance(value, list) else tuple(elements)
    raise TrialrunError(_not_plain(name, value))


def _snapshot_key(key: Any, name: str) -> Any:
    if isinstance(key, tuple):
        return tuple(_snapshot_key(part, name) for part in key)
    # The Python number is equal and has the same hash, so that it is found as the numpy one was.
    plain = key.item() if isinstance(key, np.generic) else key
    if plain is not None and not isinstance(plain, _SCALARS):
        raise TrialrunError(_not_plain(f"The key {key!r} of {name}", key))
    return snapshot(plain, name)


def _not_plain(name: str, value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, np.ndarray):
        kind += f" of type {value.dtype}"
    return (
        f"{name} is a {kind}, which is not plain data, so it can be neither kept in a checkpoint "
        "nor sent to another process. Use numbers, strings, tensors, numpy arrays, and lists, "
        "tuples and dictionaries of them."
    )


def restore(value: Any) -> Any:
    """Returns what ``snapshot`` was given, from what it returned."""
    if isinstance(value, dict):
        if _NUMPY in value:
            array = value[_NUMPY].numpy()
            return array[()] if value["scalar"] else array
        return type(value)({key: restore(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return type(value)(restore(item) for item in value)
    return value


def encode(value: Any, name: str) -> torch.Tensor:
    """Returns plain data as a one-dimensional tensor of bytes."""
    buffer = io.BytesIO()
    torch.save(snapshot(value, name), buffer)
    return torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8)


def decode(data: torch.Tensor) -> Any:
    """Returns the plain data that ``encode`` turned into bytes; runs no code from them."""
    return restore(torch.load(io.BytesIO(data.numpy().tobytes()), weights_only=True))
