"""``load_trial_from_checkpoint_path`` as Determined's users call it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trialrun._errors import ConfigurationError
from trialrun._trial import Trial

__all__ = ["load_trial_from_checkpoint_path"]


def load_trial_from_checkpoint_path(
    path: str | os.PathLike[str],
    trial_class: type[Trial] | None = None,
    trial_kwargs: Mapping[str, Any] | None = None,
    torch_load_kwargs: Mapping[str, Any] | None = None,
) -> Trial:
    """Returns a trial with the weights of a checkpoint; ``trialrun.load_trial`` under another name.

    Args:
        path: The folder of a checkpoint that trialrun wrote.
        trial_class: The trial's class. Default: the one that was trained.
        trial_kwargs: What the class takes besides the context; it needs ``trial_class``.
        torch_load_kwargs: ``map_location`` says where the models go. The rest has no meaning:
            nothing is unpickled as code.

    Raises:
        CheckpointError: It is no checkpoint, or does not fit the trial.
        ConfigurationError: An argument is wrong.
    """
    # Handed on there lazily: this package knows nothing of how trials are run.
    from trialrun import load_trial

    if trial_kwargs:
        if trial_class is None:
            raise ConfigurationError(
                f"trial_kwargs={dict(trial_kwargs)!r} was given without trial_class=. Give the "
                "class that takes them."
            )
        trial_class = _with_arguments(trial_class, dict(trial_kwargs))
    device = (torch_load_kwargs or {}).get("map_location")
    if device is not None and not isinstance(device, str | torch.device):
        raise ConfigurationError(
            f"map_location={device!r} is of type {type(device).__name__}. Give a device, such as "
            "'cpu'."
        )
    return load_trial(Path(path), trial_class, device=device)


def _with_arguments(trial_class: type[Trial], arguments: dict[str, Any]) -> type[Trial]:
    """Returns a class that takes the context alone."""

    def __init__(self: Trial, context: Any) -> None:
        trial_class.__init__(self, context, **arguments)

    return type(trial_class.__name__, (trial_class,), {"__init__": __init__})
