"""What a checkpoint holds, and how it lies in its folder.

    model.safetensors      the model's parameters and buffers (model-0, model-1, ... for several)
    state.pt               optimizers, schedulers and the unfinished reporting period; plain data;
                           tensors of types that safetensors does not know, as complex128
    metadata.json          what a person wants to know: clock, identity, metrics, versions, digest

Nothing in it is unpickled as code: safetensors, ``torch.load(weights_only=True)`` and JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from trialrun._errors import CheckpointError
from trialrun.controller.finite import with_words

STATE_FILE = "state.pt"
METADATA_FILE = "metadata.json"

# Types of torch that the format does not know.
_WITHOUT_SAFETENSORS = {torch.complex32, torch.complex128}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointContents:
    """A trial at a batch boundary, in memory of its own.

    Args:
        models: The ``state_dict`` of each model.
        state: Plain data: all else that goes on after a resume.
        metadata: JSON data: what describes the checkpoint.
    """

    models: list[dict[str, Any]]
    state: dict[str, Any]
    metadata: dict[str, Any]


def write_contents(contents: CheckpointContents, folder: Path) -> None:
    """Writes the files of a checkpoint into an existing, empty folder.

    Raises:
        OSError: The disk is full or not writable.
    """
    extra_states = []
    for name, model in zip(model_file_names(len(contents.models)), contents.models, strict=True):
        tensors = {key: value for key, value in model.items() if fits_safetensors(value)}
        _save_tensors(tensors, folder / name)
        # A module's get_extra_state may return any plain data, which is no weight.
        extra_states.append({key: model[key] for key in model.keys() - tensors.keys()})
    with (folder / STATE_FILE).open("wb") as file:
        # To an open file: given a path, torch writes through its own stream, which hides errors.
        torch.save({**contents.state, "model_extra_states": extra_states}, file)
    text = json.dumps(with_words(contents.metadata), indent=2, allow_nan=False)
    (folder / METADATA_FILE).write_text(text + "\n", encoding="utf-8")


def read_contents(folder: Path) -> CheckpointContents:
    """Reads a checkpoint.

    Raises:
        CheckpointError: A file is missing or cannot be read.
    """
    with _readable(folder):
        without_tensors = _read_state(folder, mmap=False)
        extra_states = without_tensors.models
        models = [
            {**load_file(folder / name), **extra}
            for name, extra in zip(model_file_names(len(extra_states)), extra_states, strict=True)
        ]
    return dataclasses.replace(without_tensors, models=models)


def fits_safetensors(value: Any) -> bool:
    """Returns whether an entry of a model's state can lie in its safetensors file."""
    return isinstance(value, torch.Tensor) and value.dtype not in _WITHOUT_SAFETENSORS


def read_state(folder: Path) -> CheckpointContents:
    """Reads a checkpoint without its tensors: they are read from the disk where they are looked at.

    Of the models only what is in no safetensors file is there.

    Raises:
        CheckpointError: A file is missing or cannot be read.
    """
    with _readable(folder):
        return _read_state(folder, mmap=True)


def _read_state(folder: Path, *, mmap: bool) -> CheckpointContents:
    metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
    path = folder / STATE_FILE
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    models = state.pop("model_extra_states")
    return CheckpointContents(models=models, state=state, metadata=metadata)


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"Checkpoint {folder.name} in {folder.parent} cannot be read: {error}"
        ) from error


def model_file_names(count: int) -> list[str]:
    """Returns the names of the files that hold so many models."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{index}.safetensors" for index in range(count)]


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except Exception as error:
        # safetensors reports a full disk as an error of its own class.
        raise OSError(f"{path} could not be written: {error}") from error
