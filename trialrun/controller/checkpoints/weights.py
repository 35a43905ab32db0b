"""What was learned, without what training needs to go on: read from a checkpoint or an export.

Both hold ``metadata.json`` and ``model.safetensors`` (``model-0``, ``model-1``, ... for several).
What a module keeps besides tensors, tensors of types that safetensors does not know, and buffers
that its own state leaves out, lie in the checkpoint's ``state.pt``, or in the export's
``extra_state.pt`` where there are any.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from trialrun._errors import CheckpointError
from trialrun.controller import plain
from trialrun.controller.checkpoints.contents import METADATA_FILE, STATE_FILE, model_file_names
from trialrun.controller.checkpoints.manifest import verify

EXTRA_STATE_FILE = "extra_state.pt"
FILES = "files"
"""Where the metadata of an export has the manifest of its other files."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """The models of a checkpoint, and what describes it.

    Args:
        models: The ``state_dict`` of each model.
        buffers: For each model the buffers that its ``state_dict`` leaves out.
        trial_state: What the trial keeps of its own.
        callback_states: The state of each callback; None in an export, which has none.
        metadata: What ``metadata.json`` says.
    """

    models: list[dict[str, Any]]
    buffers: list[dict[str, torch.Tensor]]
    trial_state: dict[str, Any]
    callback_states: dict[str, Any] | None
    metadata: dict[str, Any]


def read_weights(folder: Path) -> Weights:
    """Reads the models of a checkpoint or an export; of optimizers nothing stays in memory.

    Raises:
        CheckpointError: It is neither, or a file is missing or cannot be read; the message names
            it.
    """
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}. Give the folder of a checkpoint.")
    names = find_model_files(folder)
    try:
        metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
        verify(folder, metadata.get(FILES) or {})
        tensors = [load_file(folder / name) for name in names]
        extra = _read_extra_state(folder)
        nothing: list[Any] = [{} for _ in names]
        extra_states = extra.get("model_extra_states", nothing)
        # Copied out of the mapped file.
        buffers = plain.snapshot(extra.get("non_persistent_buffers", nothing), "buffers")
        trial_state = plain.snapshot(extra.get("trial", {}), "state of the trial")
        callback_states = plain.snapshot(extra.get("callbacks"), "states of the callbacks")
        models = [{**model, **state} for model, state in zip(tensors, extra_states, strict=True)]
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise _no_checkpoint(folder, Path(error.filename or METADATA_FILE).name) from error
    except Exception as error:
        raise CheckpointError(
            f"Checkpoint {folder.name} in {folder.parent} cannot be read: {error}"
        ) from error
    return Weights(
        models=models,
        buffers=buffers,
        trial_state=trial_state,
        callback_states=callback_states,
        metadata=metadata,
    )


def find_model_files(folder: Path) -> list[str]:
    """Returns the names of the files that hold the models, model 0 first.

    Raises:
        CheckpointError: There is none, or one in the middle is missing.
    """
    (single,) = model_file_names(1)
    if (folder / single).is_file():
        return [single]
    numbers = [
        int(path.stem.removeprefix("model-"))
        for path in folder.glob("model-*.safetensors")
        if path.stem.removeprefix("model-").isdigit()
    ]
    names = model_file_names(max(numbers) + 1) if numbers else [single]
    for name in names:
        if not (folder / name).is_file():
            raise _no_checkpoint(folder, name)
    return names


def _read_extra_state(folder: Path) -> dict[str, Any]:
    for name in (STATE_FILE, EXTRA_STATE_FILE):
        path = folder / name
        if path.is_file():
            # Mapped into memory: what is not asked for, as the optimizers, is not read.
            state: dict[str, Any] = torch.load(
                path, map_location="cpu", weights_only=True, mmap=True
            )
            return state
    return {}


def _no_checkpoint(folder: Path, missing: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} is no whole checkpoint: {missing} is missing. Give the folder of a checkpoint, "
        "as trialrun checkpoint list --json tells it, or of an export."
    )
