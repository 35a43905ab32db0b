"""Opens an experiment's checkpoint on this machine and evaluates it; records nothing."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch

from trialrun.controller.bookkeeping import (
    CheckpointRow,
    Database,
    ExperimentRow,
    TrialRow,
)
from trialrun.controller.checkpoints.identity import RunIdentity
from trialrun.controller.config import read_config
from trialrun.controller.engine.devices import device_name, prepare_device
from trialrun.controller.engine.environment import Environment
from trialrun.controller.engine.inference import Inference
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.experiments import source_warnings
from trialrun.controller.inference.selection import select_checkpoint
from trialrun.controller.inference.trained import open_trained
from trialrun.controller.liveness import trial_of_experiment
from trialrun.controller.trial_source import trial_file_of, working_directory_of

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenedCheckpoint:
    """A checkpoint of an experiment, ready to be evaluated or asked for predictions.

    Args:
        experiment: The experiment.
        trial: Its trial.
        checkpoint: The checkpoint.
        inference: The trial, not restored yet.
        device: Where it computes.
    """

    experiment: ExperimentRow
    trial: TrialRow
    checkpoint: CheckpointRow
    inference: Inference
    device: torch.device


def open_checkpoint(
    database: Database,
    experiment_id: int,
    which: str,
    *,
    collectives: Collectives | None = None,
    device: torch.device | None = None,
) -> OpenedCheckpoint:
    """Builds the trial of an experiment for a checkpoint, as it was configured.

    Args:
        database: Where it is recorded.
        experiment_id: Which experiment.
        which: ``best``, ``latest``, or the first characters of a UUID.
        collectives: The processes that share the trial's slots; default: this one alone.
        device: Where this process computes, which is prepared; default: the first GPU or the CPU.

    Raises:
        BookkeepingError: There is no such experiment or checkpoint.
        CheckpointError: It is not whole.
        InvalidTrialError: The trial's file is gone.
        Exception: Whatever the user's code raises.
    """
    experiment, trial = trial_of_experiment(database, experiment_id)
    checkpoint = select_checkpoint(database, experiment, trial, which)
    if device is None:
        device = prepare_device(deterministic=read_config(experiment.config).deterministic)
    opened = open_trained(
        Path(checkpoint.path),
        device=device,
        trial_file=trial_file_of(experiment),
        working_directory=working_directory_of(experiment),
        collectives=collectives,
    )
    if opened.runtime.collectives.is_chief:
        for warning in (*source_warnings(experiment), *_differences(opened, device)):
            logger.warning(warning)
    return OpenedCheckpoint(
        experiment=experiment,
        trial=trial,
        checkpoint=checkpoint,
        inference=opened,
        device=device,
    )


def _differences(opened: Inference, device: torch.device) -> list[str]:
    """Returns a sentence for each difference that may change the last digits."""
    recorded: dict[str, Any] = opened.weights.metadata["identity"]
    here = dataclasses.replace(
        RunIdentity(**recorded),
        device_type=device.type,
        device_name=device_name(device),
        torch_version=torch.__version__,
    )
    environment = Environment.here(device)
    return here.differences(recorded) + environment.differences(
        opened.weights.metadata.get("environment")
    )
