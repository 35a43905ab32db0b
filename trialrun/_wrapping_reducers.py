"""What ``wrap_reducer`` takes, and what becomes of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch

from trialrun._adapted_reducers import FunctionReducer
from trialrun._errors import InvalidTrialError
from trialrun._plugins import find_reducer_plugin
from trialrun._reducers import MetricReducer
from trialrun._wording import type_of, with_type
from trialrun._wrapped import WrappedReducer

_TAKES = (
    "It takes a trialrun.MetricReducer, a function of a list of values, a torchmetrics metric, or "
    "the name of a reducer that an installed package brings."
)


def make_wrapped_reducer(
    reducer: Any,
    *,
    name: str | None,
    for_training: bool,
    for_validation: bool,
    options: Mapping[str, Any] | None,
    device: torch.device,
) -> WrappedReducer:
    """Makes a metric reducer of whatever the trial gave.

    Args:
        reducer: A ``MetricReducer``, a function, a torchmetrics metric, or a plugin's name.
        name: The metric's name, if any.
        for_training: Whether it is reported with the training metrics.
        for_validation: Whether it is reported with the validation metrics.
        options: Keyword arguments for a plugin.
        device: Where a torchmetrics metric collects.

    Raises:
        InvalidTrialError: It is none of these, or the arguments do not go together.
    """
    if name is not None and (not isinstance(name, str) or not name):
        raise InvalidTrialError(
            f"wrap_reducer got the name {with_type(name)}. Give the metric's name "
            "as a text, or none for a reducer that returns a dictionary of metrics."
        )
    for flag, value in (("for_training", for_training), ("for_validation", for_validation)):
        if not isinstance(value, bool):
            raise InvalidTrialError(
                f"wrap_reducer got {flag}={with_type(value)}. It is True or False."
            )
    if isinstance(reducer, str):
        given = _from_plugin(reducer, options or {})
    elif options is not None:
        raise InvalidTrialError(
            f"wrap_reducer got options for {type_of(reducer)}. Options are for a reducer "
            "that is given by the name under which a package brings it; make any other with "
            "arguments of its own."
        )
    else:
        given = reducer
    if _is_torchmetric(given):
        from trialrun._torchmetrics import TorchmetricsReducer

        given.to(device)
        adapted: MetricReducer = TorchmetricsReducer(given)
        if isinstance(given, torch.nn.ModuleDict) and name is not None:
            raise InvalidTrialError(
                f"wrap_reducer got {type_of(given)} and the name {name!r}. It computes a "
                "dictionary of metrics: wrap it without a name, and give the collection a prefix."
            )
    elif isinstance(given, MetricReducer):
        adapted = given
    else:
        _require_function(given)
        given = adapted = FunctionReducer(given)
    return WrappedReducer(
        given=given,
        reducer=adapted,
        name=name,
        for_training=for_training,
        for_validation=for_validation,
    )


def _from_plugin(plugin_name: str, options: Mapping[str, Any]) -> Any:
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        raise InvalidTrialError(
            f"wrap_reducer got options={options!r} for the reducer {plugin_name!r}. Give a "
            "dictionary of keyword arguments, such as {'threshold': 0.5}."
        )
    plugin = find_reducer_plugin(plugin_name)
    made = plugin.make(options)
    if not isinstance(made, MetricReducer) and not _is_torchmetric(made):
        raise InvalidTrialError(
            f"The reducer {plugin.name!r} of the package {plugin.owner} made "
            f"{type_of(made)} with {plugin.reference}. It must make a trialrun.MetricReducer "
            "or a torchmetrics metric."
        )
    return made


def _is_torchmetric(given: Any) -> bool:
    # A metric cannot exist before its library was imported; a trial without one never imports it.
    torchmetrics = sys.modules.get("torchmetrics")
    if torchmetrics is None or isinstance(given, type):
        return False
    return isinstance(given, torchmetrics.Metric | torchmetrics.MetricCollection)


def _require_function(given: Any) -> None:
    if isinstance(given, type):
        raise InvalidTrialError(
            f"wrap_reducer got the class {given.__name__}. Give an object: {given.__name__}(...)."
        )
    if isinstance(given, torch.nn.Module) or not callable(given):
        raise InvalidTrialError(f"wrap_reducer got {type_of(given)}. {_TAKES}")
