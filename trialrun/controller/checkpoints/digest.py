"""One hash over everything that was learned: two runs are equal exactly when their digests are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from blake3 import blake3


def digest(models: list[dict[str, torch.Tensor]], optimizers: list[dict[str, Any]]) -> str:
    """Hashes name, type, shape and bytes of every parameter, buffer and optimizer tensor.

    Args:
        models: The state of each model, on the CPU.
        optimizers: The state of each optimizer, on the CPU.

    Returns:
        The BLAKE3 hash in hexadecimal, 64 characters.
    """
    hasher = blake3()
    for name, tensor in named_tensors(models, optimizers):
        header = f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0"
        hasher.update(header.encode())
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        hasher.update(data.numpy().data)
    return hasher.hexdigest()


def named_tensors(
    models: list[dict[str, torch.Tensor]], optimizers: list[dict[str, Any]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Iterates over all tensors of a checkpoint by their full names, in the order of names."""
    for index, model in enumerate(models):
        for name in sorted(model):
            if isinstance(model[name], torch.Tensor):
                yield f"model.{index}.{name}", model[name]
    for index, optimizer in enumerate(optimizers):
        yield from _walk(f"optimizer.{index}", optimizer)


def _walk(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _walk(f"{name}.{key}", value[key])
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from _walk(f"{name}.{position}", item)
