"""What must be known of a loaded batch: how many records it holds, how it gets to a device.

A batch is whatever the collate function made: tensors and arrays with the records along their
first dimension, in dictionaries, lists, tuples, named tuples and dataclasses, however deep.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from trialrun._errors import UnknownBatchLengthError

logger = logging.getLogger(__name__)

_TORCH_FLOATS = {"float16", "float32", "float64", "complex64", "complex128"}


def data_length(data: Any) -> int:
    """Returns the number of records in a batch: the length of its first tensor or array.

    Args:
        data: A tensor, numpy array or packed sequence with the records along its first dimension,
            or a dictionary, sequence or dataclass, however deep, that holds one. A dictionary
            without any may have lists as columns, such as texts.

    Raises:
        UnknownBatchLengthError: No tensor, array or column is found. It is an
            ``InvalidTrialError``, a ``TypeError`` and a ``ValueError``.
    """
    length = _length(data)
    if length is None:
        raise UnknownBatchLengthError(
            f"The number of records in a batch of type {type(data).__name__} is unknown. Override "
            "get_batch_length(batch) in the trial."
        )
    return length


def _length(data: Any) -> int | None:
    if isinstance(data, torch.Tensor | np.ndarray):
        return len(data) if data.ndim > 0 else None
    if isinstance(data, PackedSequence):
        return int(data.batch_sizes[0])
    parts: Iterable[Any] = ()
    if isinstance(data, Mapping):
        parts = data.values()
    elif isinstance(data, list | tuple):
        parts = data
    elif dataclasses.is_dataclass(data) and not isinstance(data, type):
        parts = [getattr(data, field.name) for field in dataclasses.fields(data)]
    for part in parts:
        length = _length(part)
        if length is not None:
            return length
    if isinstance(data, Mapping):
        return next((len(column) for column in data.values() if isinstance(column, list)), None)
    return None


def to_device(data: Any, device: torch.device | str, warned_types: set[type] | None = None) -> Any:
    """Returns the data with every tensor and numeric array, however deep, on the device.

    What is on the device already is not copied. Dictionaries, lists, tuples, named tuples,
    dataclasses and classes derived from them keep their types; another mapping becomes a ``dict``.

    Args:
        data: Tensors, numpy arrays, objects with ``.to`` (packed sequences, graphs, tokenized
            texts), and containers of them. Anything else is handed back as it is, with one warning
            for each type; arrays of text, objects or 128 bits, for which torch has no type, too.
        device: Where to put them.
        warned_types: Types that were warned of before; those that are warned of now join them.
    """
    left: set[type] = set()
    moved = _moved(data, torch.device(device), left)
    known = set() if warned_types is None else warned_types
    for kind in sorted(left - known, key=lambda kind: kind.__qualname__):
        logger.warning(
            "to_device was not able to move data of type %s to %s: it stays where it is.",
            kind.__name__,
            device,
        )
    known |= left
    return moved


def batch_to_device(batch: Any, device: torch.device) -> Any:
    """Does what ``to_device`` does, without warnings: texts and numbers are at home in a batch."""
    return _moved(batch, device, set())


def _moved(data: Any, device: torch.device, left: set[type]) -> Any:
    """Returns the data on the device, and adds the types that have no place there."""
    if isinstance(data, torch.Tensor):
        # From page-locked memory the copy runs beside the computation; elsewhere the flag is void.
        return data if data.device == device else data.to(device, non_blocking=True)
    if callable(getattr(data, "to", None)):
        return data.to(device)
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(_moved(value, device, left) for value in data))
    if isinstance(data, list | tuple):
        return type(data)([_moved(value, device, left) for value in data])
    if isinstance(data, np.ndarray) and _has_torch_type(data):
        return _as_tensor(data).to(device)
    if isinstance(data, Mapping):
        moved = {key: _moved(value, device, left) for key, value in data.items()}
        if type(data) is dict or not isinstance(data, dict):
            return moved
        container = copy.copy(data)  # an OrderedDict, a defaultdict, a class of the user's own
        container.update(moved)
        return container
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        # A copy, not a new object: that would run the class's own __post_init__ again.
        duplicate = copy.copy(data)
        for field in dataclasses.fields(data):
            value = _moved(getattr(data, field.name), device, left)
            object.__setattr__(duplicate, field.name, value)  # also where the class is frozen
        return duplicate
    left.add(type(data))
    return data


def _has_torch_type(array: np.ndarray[Any, Any]) -> bool:
    # Long doubles, of 16 bytes, are numbers too.
    return array.dtype.kind in "iub" or array.dtype.name in _TORCH_FLOATS


def _as_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    # Torch knows neither steps backwards, as a flip leaves them, nor foreign byte orders.
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(native if min(native.strides, default=0) >= 0 else native.copy())
