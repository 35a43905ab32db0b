"""A new run that begins with the weights of another: which, and where they are kept; no torch.

The weights are copied into the experiment when it is submitted. So it does not matter what becomes
of the other run's checkpoints, and an attempt that begins again at batch 0 finds them.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from trialrun._errors import CheckpointError
from trialrun.controller.bookkeeping import ExperimentRow
from trialrun.controller.home import Home
from trialrun.controller.inference.selection import names_folder, require_whole, row_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """Where weights come from.

    Args:
        name: What is recorded: a UUID, or the absolute path of a folder.
        folder: A checkpoint or an export.
    """

    name: str
    folder: Path


def find_weights(checkpoint: str, home: Home) -> WeightsSource:
    """Finds the weights that a configuration names by ``from_checkpoint``.

    Args:
        checkpoint: A folder, or the first characters of a UUID.
        home: Where a UUID is looked up.

    Raises:
        CheckpointError: It is neither, or not whole.
        BookkeepingError: No checkpoint has this UUID, or several have its beginning.
    """
    if names_folder(checkpoint):
        folder = Path(checkpoint).expanduser().absolute()
        if not any(folder.glob("model*.safetensors")) or not (folder / "metadata.json").is_file():
            raise CheckpointError(
                f"{folder} holds no weights: a checkpoint, or an export, has model.safetensors and "
                "metadata.json. trialrun checkpoint list --json tells the paths of checkpoints."
            )
        return WeightsSource(name=str(folder), folder=folder)
    row = row_of(checkpoint, home)
    return WeightsSource(name=row.uuid, folder=require_whole(row))


def weights_folder(experiment: ExperimentRow) -> Path:
    """Returns where an experiment keeps the weights that it began with."""
    return Path(experiment.directory) / "from_checkpoint"


def describe_warm_start(experiment: ExperimentRow) -> str:
    """Says in one line what a run took from another, and what not.

    Raises:
        CheckpointError: The weights are gone.
    """
    path = weights_folder(experiment) / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path.parent}, the weights with which experiment {experiment.id} begins, cannot be "
            f"read: {error.strerror}. Submit it again."
        ) from error
    name = metadata.get("uuid", experiment.config["from_checkpoint"])
    return (
        f"weights of checkpoint {name}, at its batch {metadata['batches']}; not taken: its "
        "optimizer, clock, randomness, callbacks and own state"
    )
