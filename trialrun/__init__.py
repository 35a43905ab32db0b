"""trialrun trains PyTorch models so that an interrupted run ends with the same bits.

Names are handed on lazily (PEP 562): ``import trialrun`` does not import torch, so that commands
that train nothing answer at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trialrun import samplers
    from trialrun._batch_contents import data_length, to_device
    from trialrun._callback import Callback
    from trialrun._context import TrialContext
    from trialrun._data_loader import DataLoader
    from trialrun._errors import (
        BookkeepingError,
        CheckpointError,
        ConfigurationError,
        InvalidDataLoaderError,
        InvalidMetricError,
        InvalidTrialError,
        ReducerError,
        RunConflictError,
        TrialrunError,
    )
    from trialrun._lr_scheduler import LRScheduler, StepMode
    from trialrun._reducers import MetricReducer, Reducer
    from trialrun._trial import Trial
    from trialrun._units import Batch, Epoch, Time
    from trialrun.controller.inference.trained import load_trial
    from trialrun.controller.trainer import Trainer, init

__version__ = "0.1.0.dev0"

__all__ = [
    "Batch",
    "BookkeepingError",
    "Callback",
    "CheckpointError",
    "ConfigurationError",
    "DataLoader",
    "Epoch",
    "InvalidDataLoaderError",
    "InvalidMetricError",
    "InvalidTrialError",
    "LRScheduler",
    "MetricReducer",
    "Reducer",
    "ReducerError",
    "RunConflictError",
    "StepMode",
    "Time",
    "Trainer",
    "Trial",
    "TrialContext",
    "TrialrunError",
    "data_length",
    "init",
    "load_trial",
    "samplers",
    "to_device",
]

_HOMES = {
    "Batch": "_units",
    "BookkeepingError": "_errors",
    "Callback": "_callback",
    "CheckpointError": "_errors",
    "ConfigurationError": "_errors",
    "DataLoader": "_data_loader",
    "Epoch": "_units",
    "InvalidDataLoaderError": "_errors",
    "InvalidMetricError": "_errors",
    "InvalidTrialError": "_errors",
    "LRScheduler": "_lr_scheduler",
    "MetricReducer": "_reducers",
    "Reducer": "_reducers",
    "ReducerError": "_errors",
    "RunConflictError": "_errors",
    "StepMode": "_lr_scheduler",
    "Time": "_units",
    "Trainer": "controller.trainer",
    "Trial": "_trial",
    "TrialContext": "_context",
    "TrialrunError": "_errors",
    "data_length": "_batch_contents",
    "init": "controller.trainer",
    "load_trial": "controller.inference.trained",
    "to_device": "_batch_contents",
}


def __getattr__(name: str) -> object:
    if name == "samplers":
        return importlib.import_module("trialrun.samplers")
    if name not in _HOMES:
        raise AttributeError(f"module 'trialrun' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"trialrun.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
