"""The names of ``determined.pytorch``: ``from trialrun.compat.determined import pytorch``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch

from trialrun import samplers
from trialrun._batch_contents import data_length, to_device
from trialrun._context import TrialContext
from trialrun._experimental import Experimental
from trialrun._lr_scheduler import LRScheduler
from trialrun._reducers import MetricReducer, Reducer
from trialrun._trial import Trial
from trialrun._units import Batch, Epoch, Unit
from trialrun.compat.determined._callback import PyTorchCallback
from trialrun.compat.determined._data import DataLoader, adapt_batch_sampler
from trialrun.compat.determined._loading import load_trial_from_checkpoint_path

__all__ = [
    "Batch",
    "DataLoader",
    "Epoch",
    "LRScheduler",
    "MetricReducer",
    "PyTorchCallback",
    "PyTorchExperimentalContext",
    "PyTorchTrial",
    "PyTorchTrialContext",
    "Reducer",
    "TorchData",
    "TrainUnit",
    "adapt_batch_sampler",
    "data_length",
    "load_trial_from_checkpoint_path",
    "samplers",
    "to_device",
]

PyTorchTrialContext = TrialContext
PyTorchExperimentalContext = Experimental
TrainUnit: TypeAlias = Unit
TorchData: TypeAlias = dict[str, torch.Tensor] | Sequence[torch.Tensor] | torch.Tensor
"""What most batches are."""


class PyTorchTrial(Trial):
    """A trial; ``trialrun.Trial`` under the name that Determined's users know."""
