"""Puts the weights of a checkpoint into a trial's models: all of them, or what fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trialrun._errors import CheckpointError
from trialrun._wording import count
from trialrun.controller import plain
from trialrun.controller.checkpoints.weights import Weights

_CODE_CHANGED = "The trial's code has changed since; restore it, or submit a new experiment."
_WARM_START = (
    "A warm start takes all weights or none; with --partial (from_checkpoint_partial: true) it "
    "takes those that fit."
)
_SHOWN = 3


def load_weights(models: Sequence[torch.nn.Module], weights: Weights) -> None:
    """Restores all models, strictly: for evaluation, or to look at them.

    Raises:
        CheckpointError: Names, counts, shapes or types differ; the message says which.
    """
    require_same_count("model", models, weights.models)
    for index, model in enumerate(models):
        load_model(index, model, weights.models[index], weights.buffers[index])


def load_model(
    index: int,
    model: torch.nn.Module,
    saved: Mapping[str, Any],
    saved_buffers: Mapping[str, torch.Tensor],
) -> None:
    """Restores one model, strictly.

    Args:
        index: Its place among the trial's models.
        model: The model.
        saved: Its ``state_dict``.
        saved_buffers: The buffers that this leaves out.

    Raises:
        CheckpointError: Names, shapes or types differ; the message says which.
    """
    _require_same_tensors(index, model.state_dict(), saved, _CODE_CHANGED)
    model.load_state_dict({key: plain.restore(value) for key, value in saved.items()})
    for name, buffer in non_persistent_buffers(model).items():
        # A cache that the module makes, or makes larger, as it computes is made again.
        if name in saved_buffers and saved_buffers[name].shape == buffer.shape:
            buffer.copy_(saved_buffers[name])


def warm_start(
    models: Sequence[torch.nn.Module], weights: Weights, is_partial: bool = False
) -> list[str]:
    """Gives new models the weights of a checkpoint, and nothing else of it.

    Args:
        models: The trial's models, as its constructor made them.
        weights: Where the weights come from.
        is_partial: Whether what does not fit is left as the constructor made it.

    Returns:
        What was left, one sentence for each tensor: empty unless ``is_partial``.

    Raises:
        CheckpointError: Something does not fit; or, if ``is_partial``, nothing fits. The message
            names the first differences with both sides.
    """
    if not is_partial:
        require_same_count("model", models, weights.models, _WARM_START)
    left, taken = [], 0
    for index, (model, saved) in enumerate(zip(models, weights.models, strict=False)):
        state = model.state_dict()
        if not is_partial:
            _require_same_tensors(index, state, saved, _WARM_START)
        fitting = {
            name: plain.restore(value)
            for name, value in saved.items()
            if name in state and _difference(name, state[name], value) is None
        }
        left += [f"model {index}: {problem}" for problem in _differences(state, saved)]
        taken += len(fitting)
        model.load_state_dict(fitting, strict=not is_partial)
    if len(models) != len(weights.models):
        left.append(
            f"the trial has {count(len(models), 'model')} and the checkpoint has "
            f"{len(weights.models)}"
        )
    if taken == 0:
        raise CheckpointError(
            f"Nothing of the checkpoint fits the trial: {_shown(left)}. Give another checkpoint, "
            "or leave --from-checkpoint out."
        )
    return left


def non_persistent_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns the buffers that the model's own state leaves out; training may change them too."""
    persistent = model.state_dict().keys()
    return {name: value for name, value in model.named_buffers() if name not in persistent}


def require_same_count(
    noun: str,
    wrapped: Sequence[Any],
    saved: Sequence[Any],
    advice: str = "Restore the trial's code, or submit a new experiment.",
) -> None:
    """Compares how many of one kind a trial and a checkpoint have.

    Raises:
        CheckpointError: The counts differ.
    """
    if len(wrapped) != len(saved):
        raise CheckpointError(
            f"The trial has {count(len(wrapped), noun)}, but the checkpoint has "
            f"{len(saved)}. {advice}"
        )


def _require_same_tensors(
    index: int, expected: Mapping[str, Any], found: Mapping[str, Any], advice: str
) -> None:
    problems = _differences(expected, found)
    if problems:
        raise CheckpointError(
            f"The checkpoint does not fit model {index}: {_shown(problems)}. {advice}"
        )


def _differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Compares the state of a model with that of a checkpoint by name, shape and type.

    Args:
        expected: The trial's own state.
        found: The checkpoint's.

    Returns:
        A sentence for each difference, in the order of names.
    """
    problems = [f"{key} is missing in the checkpoint" for key in expected.keys() - found.keys()]
    problems += [f"{key} is unknown to the trial" for key in found.keys() - expected.keys()]
    for key in expected.keys() & found.keys():
        difference = _difference(key, expected[key], found[key])
        if difference is not None:
            problems.append(difference)
    return sorted(problems)


def _difference(key: str, ours: Any, theirs: Any) -> str | None:
    if not hasattr(ours, "shape") or not hasattr(theirs, "shape"):
        return None
    if ours.shape == theirs.shape and ours.dtype == theirs.dtype:
        return None
    return (
        f"{key} is {tuple(ours.shape)} {ours.dtype} in the trial and "
        f"{tuple(theirs.shape)} {theirs.dtype} in the checkpoint"
    )


def _shown(problems: Sequence[str]) -> str:
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return f"{'; '.join(problems[:_SHOWN])}{more}"
