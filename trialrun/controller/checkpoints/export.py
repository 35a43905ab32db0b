"""Writes the weights of a checkpoint into a folder that needs no trialrun to be read.

model.safetensors      one for each model: model-0, model-1, ... for several
metadata.json          hyperparameters, metrics, batches, digest, versions, and the files' hashes
optimizer.pt           on request, one for each optimizer: its state_dict
extra_state.pt         where modules keep more than tensors, or tensors of types that safetensors
                       does not know, or buffers outside of their state, or the trial has a state of
                       its own
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from trialrun._errors import CheckpointError
from trialrun.controller.checkpoints.contents import (
    METADATA_FILE,
    STATE_FILE,
    fits_safetensors,
)
from trialrun.controller.checkpoints.digest import digest, digest_like
from trialrun.controller.checkpoints.digest_text import short
from trialrun.controller.checkpoints.manifest import make_manifest
from trialrun.controller.checkpoints.weights import (
    EXTRA_STATE_FILE,
    FILES,
    Weights,
    find_model_files,
    read_weights,
)
from trialrun.controller.finite import with_words
from trialrun.controller.whole_folder import written_whole


def export_checkpoint(source: Path, folder: Path, with_optimizers: bool = False) -> list[str]:
    """Writes a checkpoint's weights, reads them back, and compares them with its digest.

    Args:
        source: The folder of a checkpoint.
        folder: Where the export goes: nothing is there, or an empty folder.
        with_optimizers: Whether the optimizers' states are written too.

    Returns:
        The names of the files.

    Raises:
        CheckpointError: The checkpoint cannot be read, or its tensors are not those of its digest.
        ConfigurationError: The folder is not empty.
        TrialrunError: It cannot be written.
    """
    weights = read_weights(source)
    optimizers = _read_optimizers(source)
    with written_whole(folder) as aside:
        files = _optimizer_files(len(optimizers)) if with_optimizers else []
        for name, state in zip(files, optimizers, strict=False):
            _save(state, aside / name)
        names = _write_weights(source, weights, aside)
        if with_optimizers:
            optimizers = [torch.load(aside / name, weights_only=True) for name in files]
        copy, recorded = read_weights(aside), weights.metadata["digest"]
        found = digest_like(recorded, copy.models, optimizers, copy.buffers)
        if found != recorded:
            raise CheckpointError(
                f"Checkpoint {source.name} has the digest {short(found)}…, but "
                f"{short(recorded)}… was recorded: its tensors have changed. "
                "Nothing was exported; trialrun checkpoint verify says more."
            )
    return names


def copy_weights(source: Path, folder: Path) -> None:
    """Copies the weights of a checkpoint or an export, for a run that starts from them.

    Raises:
        CheckpointError: They cannot be read, or the copy is not equal.
        TrialrunError: They cannot be written.
    """
    weights = read_weights(source)
    with written_whole(folder) as aside:
        _write_weights(source, weights, aside)
        if digest(read_weights(aside).models, []) != digest(weights.models, []):
            raise CheckpointError(f"{source} has changed while it was copied. Try again.")


def _write_weights(source: Path, weights: Weights, folder: Path) -> list[str]:
    """Writes all but optimizers, the metadata last; returns the names of all files."""
    for name in find_model_files(source):
        shutil.copyfile(source / name, folder / name)
    extra_states = [
        {key: value for key, value in model.items() if not fits_safetensors(value)}
        for model in weights.models
    ]
    if any(extra_states) or any(weights.buffers) or weights.trial_state:
        state = {
            "model_extra_states": extra_states,
            "non_persistent_buffers": weights.buffers,
            "trial": weights.trial_state,
        }
        _save(state, folder / EXTRA_STATE_FILE)
    files = make_manifest(folder)
    metadata = {**weights.metadata, FILES: files}
    text = json.dumps(with_words(metadata), indent=2, allow_nan=False)
    (folder / METADATA_FILE).write_text(text + "\n", encoding="utf-8")
    return [*files, METADATA_FILE]


def _read_optimizers(source: Path) -> list[Any]:
    try:
        state = torch.load(source / STATE_FILE, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise CheckpointError(
            f"{source} has no {STATE_FILE}: it is an export already. Copy it as it is."
        ) from None
    optimizers: list[Any] = state["optimizers"]
    return optimizers


def _optimizer_files(count: int) -> list[str]:
    return ["optimizer.pt"] if count == 1 else [f"optimizer-{i}.pt" for i in range(count)]


def _save(state: Any, path: Path) -> None:
    with path.open("wb") as file:
        # To an open file: given a path, torch writes through its own stream, which hides errors.
        torch.save(state, file)
