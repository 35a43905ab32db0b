"""Plain data: what may enter a checkpoint or travel between processes, without pickled code.

Plain are None, booleans, numbers, strings, tensors, numpy arrays and numbers, and lists, tuples and
dictionaries of them. ``torch.load(weights_only=True)`` reads all of it back.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from trialrun._errors import TrialrunError

_NUMPY = "__numpy__"


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
    if value is None or isinstance(value, bool | str):
        return value
    # A numpy number is also a Python float or complex; it goes with the arrays below.
    if isinstance(value, int | float | complex) and not isinstance(value, np.generic):
        return value
    if isinstance(value, torch.Tensor):
        source = value.detach()
        return source.to("cpu", copy=True).contiguous() if not source.is_sparse else source.cpu()
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind in "biufc":
            return {_NUMPY: torch.from_numpy(array.copy()), "scalar": isinstance(value, np.generic)}
    if isinstance(value, Mapping):
        items = {key: snapshot(item, f"{name}[{key!r}]") for key, item in value.items()}
        # Schedulers keep their milestones in a Counter, which torch reads back as one.
        return Counter(items) if isinstance(value, Counter) else items
    if isinstance(value, list | tuple):
        elements = [snapshot(item, f"{name}[{index}]") for index, item in enumerate(value)]
        return elements if isinstance(value, list) else tuple(elements)
    raise TrialrunError(
        f"{name} is a {type(value).__name__}, which is not plain data, so it can be neither kept "
        "in a checkpoint nor sent to another process. Use numbers, strings, tensors, numpy arrays, "
        "and lists, tuples and dictionaries of them."
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
