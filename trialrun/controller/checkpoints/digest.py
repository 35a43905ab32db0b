"""One hash over everything that was learned: two runs are equal exactly when their digests are.

Hashed are, one after the other and each under its full name:

    model.I.NAME                parameters and buffers of model I, non-persistent ones too
    optimizer.I.state.P.NAME    what optimizer I knows of its parameter P: tensors and numbers
    optimizer.I.param_groups.*  tensors among the settings of optimizer I, as a learning rate

The order is that of the names, in which numbers count as numbers: layer 2 before layer 10.
Version 1 knew neither non-persistent buffers nor numbers, and sorted names as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from blake3 import blake3

from trialrun._errors import CheckpointError
from trialrun.controller.checkpoints.digest_text import CURRENT_VERSION, version_of, written

Models = Sequence[Mapping[str, Any]]
Buffers = Sequence[Mapping[str, torch.Tensor]]
Optimizers = Sequence[Mapping[str, Any]]

_NUMBERS = (bool, int, float, complex)
_DIGITS = re.compile(r"([0-9]+)")


def digest(
    models: Models,
    optimizers: Optimizers,
    buffers: Buffers = (),
    version: int = CURRENT_VERSION,
) -> str:
    """Hashes name, type, shape and bytes of every parameter, buffer and optimizer state.

    Nothing is copied that is contiguous, and other threads run while bytes are hashed.

    Args:
        models: The state of each model, on the CPU.
        optimizers: The state of each optimizer, on the CPU.
        buffers: For each model the buffers that its state leaves out, on the CPU.
        version: How it is computed, to compare with a digest of an earlier version.

    Returns:
        The BLAKE3 hash with its version: ``v2-`` and 64 hexadecimal characters.

    Raises:
        CheckpointError: The version is unknown.
    """
    if not 1 <= version <= CURRENT_VERSION:
        raise CheckpointError(
            f"The digest has version {version}, and this trialrun computes versions 1 to "
            f"{CURRENT_VERSION}. Use the trialrun that wrote the checkpoint."
        )
    hasher = blake3()
    for name, value in _hashed(version, models, optimizers, buffers):
        if not isinstance(value, torch.Tensor):
            hasher.update(f"{name}\0{type(value).__name__}\0{value!r}\0".encode())
            continue
        hasher.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        data = value.detach().contiguous().reshape(-1).view(torch.uint8)
        hasher.update(data.numpy().data)
    return written(version, hasher.hexdigest())


def digest_like(
    recorded: str, models: Models, optimizers: Optimizers, buffers: Buffers = ()
) -> str:
    """Hashes as a recorded digest was: so that old checkpoints still compare.

    Args:
        recorded: The digest to compare with.
        models: As for ``digest``.
        optimizers: As for ``digest``.
        buffers: As for ``digest``.

    Raises:
        CheckpointError: It is no digest, or one of an unknown version.
    """
    version = version_of(recorded)
    if version is None:
        raise CheckpointError(
            f"{recorded!r} is no digest: trialrun checkpoint list shows what one looks like."
        )
    return digest(models, optimizers, buffers, version)


def named_values(
    models: Models, optimizers: Optimizers, buffers: Buffers = ()
) -> Iterator[tuple[str, Any]]:
    """Iterates over the tensors and numbers that were learned, by full name, in the digest's order.

    Args:
        models: As for ``digest``.
        optimizers: As for ``digest``.
        buffers: As for ``digest``.
    """
    return _hashed(CURRENT_VERSION, models, optimizers, buffers)


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Returns by what names are sorted so that ``layers.2`` comes before ``layers.10``."""
    # Every second part is a number: ["layers.", 2, ".weight"].
    parts = _DIGITS.split(name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _hashed(
    version: int, models: Models, optimizers: Optimizers, buffers: Buffers
) -> Iterator[tuple[str, Any]]:
    if version == 1:
        return _named(models, optimizers, (), has_numbers=False)
    named = _named(models, optimizers, buffers, has_numbers=True)
    return iter(sorted(named, key=lambda item: natural_order(item[0])))


def _named(
    models: Models, optimizers: Optimizers, buffers: Buffers, has_numbers: bool
) -> Iterator[tuple[str, Any]]:
    """Iterates in the order of version 1, the names as text."""
    for index, model in enumerate(models):
        known = {**model, **(buffers[index] if buffers else {})}
        for name in sorted(known):
            if isinstance(known[name], torch.Tensor):
                yield f"model.{index}.{name}", known[name]
    for index, optimizer in enumerate(optimizers):
        for key in sorted(optimizer, key=str):
            yield from _walk(
                f"optimizer.{index}.{key}", optimizer[key], has_numbers and key == "state"
            )


def _walk(name: str, value: Any, has_numbers: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor) or (has_numbers and isinstance(value, _NUMBERS)):
        yield name, value
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _walk(f"{name}.{key}", value[key], has_numbers)
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from _walk(f"{name}.{position}", item, has_numbers)
