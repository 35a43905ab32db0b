"""Plain data: what may enter a checkpoint or travel between processes, without pickled code.

Plain are None, booleans, numbers, strings, tensors, numpy arrays and numbers, and lists, tuples and
dictionaries of them. ``torch.load(weights_only=True)`` reads all of it back. What is only derived
from a number or string, such as a member of an ``IntEnum`` or a numpy string, goes as the number or
string that it equals; so does a numpy number that is a dictionary's key.
"""

from __future__ import annotations

import io
import math
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trialrun._errors import TrialrunError
from trialrun._wording import type_of

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


def check(value: Any, name: str) -> None:
    """Requires plain data; copies no tensor.

    Raises:
        TrialrunError: Something in it is not plain data; the message names where.
    """
    _take_out(value, name, [])


def snapshot(value: Any, name: str) -> Any:
    """Copies plain data into memory of its own, with tensors on the CPU.

    Tensors of one type on another device come in one transfer.

    Args:
        value: Plain data; tensors may be on any device.
        name: What it is called in an error, e.g. ``optimizer 0``.

    Returns:
        A copy that shares no memory with the value. Mappings become ``dict``, lists ``list``, numpy
        data dictionaries of one tensor, which ``restore`` undoes.

    Raises:
        TrialrunError: Something in it is not plain data; the message names where.
    """
    tensors: list[torch.Tensor] = []
    skeleton = _take_out(value, name, tensors)
    hosted = _on_host(tensors)
    for index, tensor in enumerate(hosted):
        if tensor is tensors[index]:
            hosted[index] = _clone(tensor)
    return _put_in(skeleton, hosted)


def _take_out(value: Any, name: str, tensors: list[torch.Tensor]) -> Any:
    """Takes the tensors out of plain data, into the list, as they are.

    Returns:
        The rest, in which ``torch.Size([index])`` stands for a tensor: plain data has no such type.
    """
    if value is None or type(value) in _SCALARS:
        return value
    if isinstance(value, torch.Tensor):
        if value.is_meta:
            raise TrialrunError(
                f"{name} is a tensor on the device 'meta', which has a shape and no numbers. Make "
                "it on the trial's device."
            )
        tensors.append(value.detach())
        return torch.Size((len(tensors) - 1,))
    # Before the numbers: a numpy number is also a Python float or complex.
    if isinstance(value, np.ndarray | np.generic) and value.dtype.newbyteorder("=") in _DTYPES:
        array = np.asarray(value, dtype=value.dtype.newbyteorder("="), order="C")
        tensors.append(torch.from_numpy(array if array.flags.writeable else array.copy()))
        return {_NUMPY: torch.Size((len(tensors) - 1,)), "scalar": isinstance(value, np.generic)}
    for kind, convert in _CONVERSIONS.items():
        if isinstance(value, kind):
            return convert(value)
    if isinstance(value, Mapping):
        items = {
            _snapshot_key(key, name): _take_out(item, f"{name}[{key!r}]", tensors)
            for key, item in value.items()
        }
        # Schedulers keep their milestones in a Counter, which torch reads back as one.
        return Counter(items) if isinstance(value, Counter) else items
    if isinstance(value, list | tuple):
        elements = [
            _take_out(item, f"{name}[{index}]", tensors) for index, item in enumerate(value)
        ]
        return elements if isinstance(value, list) else tuple(elements)
    raise TrialrunError(_not_plain(name, value))


def _put_in(skeleton: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """Undoes ``_take_out``, with other tensors."""
    if isinstance(skeleton, torch.Size):
        return tensors[skeleton[0]]
    if isinstance(skeleton, dict):
        return type(skeleton)({key: _put_in(item, tensors) for key, item in skeleton.items()})
    if isinstance(skeleton, list | tuple):
        return type(skeleton)(_put_in(item, tensors) for item in skeleton)
    return skeleton


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided


def _clone(tensor: torch.Tensor) -> torch.Tensor:
    if _is_dense(tensor):
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor.clone()


# A larger tensor costs by its bytes; waiting for it alone makes no difference.
_SMALL_BYTES = 2**20


def _on_host(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Returns the tensors on the CPU: those that are there themselves, others copied.

    The small ones of a device and type come in one transfer: it is waited for once.
    """
    hosted = list(tensors)
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, tensor in enumerate(tensors):
        if tensor.is_cpu:
            continue
        if _is_dense(tensor) and tensor.numel() * tensor.element_size() < _SMALL_BYTES:
            groups.setdefault((tensor.device, tensor.dtype), []).append(index)
        else:
            hosted[index] = tensor.cpu()
    for indices in groups.values():
        flat = torch.cat([tensors[index].reshape(-1) for index in indices]).cpu()
        pieces = torch.split(flat, [tensors[index].numel() for index in indices])
        for index, piece in zip(indices, pieces, strict=True):
            hosted[index] = piece.clone().view(tensors[index].shape)
    return hosted


def _snapshot_key(key: Any, name: str) -> Any:
    if isinstance(key, tuple):
        return tuple(_snapshot_key(part, name) for part in key)
    # The Python number is equal and has the same hash, so that it is found as the numpy one was.
    plain = key.item() if isinstance(key, np.generic) else key
    if plain is not None and not isinstance(plain, _SCALARS):
        raise TrialrunError(_not_plain(f"The key {key!r} of {name}", key))
    return snapshot(plain, name)


def _not_plain(name: str, value: Any) -> str:
    kind = type_of(value)
    if isinstance(value, np.ndarray):
        kind += f" of type {value.dtype}"
    return (
        f"{name} is {kind}, which is not plain data, so it can be neither kept in a checkpoint "
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


# Every type of number begins at a multiple of its size.
_ALIGNMENT_BYTES = 16


def encode(value: Any, name: str) -> torch.Tensor:
    """Returns plain data as a one-dimensional tensor of bytes.

    Layout: the length of the header in 8 bytes, little-endian; the header, in torch's format: the
    data without their tensors, and the types and shapes of these; and the numbers of all tensors,
    each aligned to 16 bytes. They are copied once.
    """
    tensors: list[torch.Tensor] = []
    skeleton = _take_out(value, name, tensors)
    tensors = _on_host(tensors)
    file = io.BytesIO()
    torch.save(
        {
            "skeleton": skeleton,
            "types": [tensor.dtype for tensor in tensors],
            "shapes": [tuple(tensor.shape) for tensor in tensors],
            "sparse": {i: tensor for i, tensor in enumerate(tensors) if not _is_dense(tensor)},
        },
        file,
    )
    header = struct.pack("<Q", file.tell()) + file.getbuffer()
    offsets, end = [], len(header)
    for tensor in tensors:
        offsets.append(_aligned(end))
        if _is_dense(tensor):
            end = offsets[-1] + tensor.numel() * tensor.element_size()
    data = torch.empty(end, dtype=torch.uint8)
    data[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
    for offset, tensor in zip(offsets, tensors, strict=True):
        if _is_dense(tensor):
            _view(data, offset, tensor.dtype, tensor.shape).copy_(tensor)
    return data


def decode(data: torch.Tensor) -> Any:
    """Returns the plain data that ``encode`` turned into bytes; runs no code from them.

    Its tensors lie in the memory of the bytes.
    """
    end = 8 + struct.unpack("<Q", data[:8].numpy().tobytes())[0]
    header = torch.load(io.BytesIO(data[8:end].numpy().tobytes()), weights_only=True)
    tensors = []
    for index, (dtype, shape) in enumerate(zip(header["types"], header["shapes"], strict=True)):
        if index in header["sparse"]:
            tensors.append(header["sparse"][index])
        else:
            tensors.append(_view(data, _aligned(end), dtype, shape))
            end = _aligned(end) + tensors[-1].numel() * dtype.itemsize
    return restore(_put_in(header["skeleton"], tensors))


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _view(
    data: torch.Tensor, offset: int, dtype: torch.dtype, shape: Sequence[int]
) -> torch.Tensor:
    """Returns the bytes from an offset on as a tensor."""
    end = offset + math.prod(shape) * dtype.itemsize
    return data[offset:end].view(dtype).view(shape)
