"""The parameters of a trial: their names, and what must hold of them before training begins."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch

from trialrun._errors import InvalidTrialError
from trialrun._wrapped import WrappedOptimizer

Names = Mapping[torch.nn.Parameter, str]
"""What parameters are called in an error, such as ``0.weight of model 1``."""


def parameter_names(models: Sequence[torch.nn.Module]) -> dict[torch.nn.Parameter, str]:
    """Returns the name of each parameter; one that several models have is called by the last."""
    return {
        parameter: f"{name} of model {index}"
        for index, model in enumerate(models)
        for name, parameter in model.named_parameters()
    }


def require_initialized(models: Sequence[torch.nn.Module]) -> None:
    """Refuses lazy modules that have seen no batch.

    Raises:
        InvalidTrialError: A parameter has no shape yet; the message names it.
    """
    for parameter, name in parameter_names(models).items():
        if torch.nn.parameter.is_lazy(parameter):
            raise InvalidTrialError(
                f"Parameter {name} has no shape yet: its lazy module has seen no batch. Call the "
                "model once in the trial's __init__, on an example of the right shape, before the "
                "optimizer is made."
            )


def require_dense(models: Sequence[torch.nn.Module]) -> None:
    """Refuses parameters and buffers that are sparse tensors.

    Raises:
        InvalidTrialError: The message names one, and how to have it all the same.
    """
    for index, model in enumerate(models):
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
            if tensor.layout is not torch.strided:
                kind = "Parameter" if isinstance(tensor, torch.nn.Parameter) else "Buffer"
                raise InvalidTrialError(
                    f"{kind} {name} of model {index} is a sparse tensor ({tensor.layout}), which "
                    "is neither shared between processes nor kept in checkpoints. Register its "
                    "indices and its values, and make the sparse tensor of them in forward."
                )


def require_unshared(optimizers: Sequence[WrappedOptimizer], names: Names) -> None:
    """Refuses parameters that two optimizers would move, unless one of the two allows it.

    Raises:
        InvalidTrialError: The message names both optimizers and the parameters.
    """
    for index, wrapped in enumerate(optimizers):
        own = set(_parameters(wrapped.optimizer))
        for earlier_index, earlier in enumerate(optimizers[:index]):
            shared = [p for p in _parameters(earlier.optimizer) if p in own]
            if not shared or wrapped.allow_shared_parameters or earlier.allow_shared_parameters:
                continue
            named = ", ".join(names[parameter] for parameter in shared[:3])
            more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
            raise InvalidTrialError(
                f"Optimizers {earlier_index} ({type(earlier.optimizer).__name__}) and {index} "
                f"({type(wrapped.optimizer).__name__}) share the parameters {named}{more}: the "
                "step of either would move them, and clear the gradients that the other needs. "
                "Give each optimizer its own parameters, or say wrap_optimizer(..., "
                "allow_shared_parameters=True)."
            )


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
