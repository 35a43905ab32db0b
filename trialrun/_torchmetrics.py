"""Metrics of torchmetrics as metric reducers: a state for each slot, merged in slot order.

Only a trial that uses torchmetrics imports this module. Nothing is synchronized through
``torch.distributed``, as torchmetrics would do by itself: the states travel with the other metrics.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from trialrun._adapted_reducers import AdaptedReducer
from trialrun._errors import CheckpointError

# What all slots share: what belongs to the object rather than to what it has collected.
_SHARED = {*vars(torch.nn.Module()), "update", "compute", "_update_signature"}
_SHARED |= {"_defaults", "_persistent", "_reductions", "distributed_available_fn", "dist_sync_fn"}
_PLAIN = (bool, int, float, str, torch.Tensor, type(None))

_Contents = list[dict[str, Any]]
"""The attributes of each part: of the metric itself, and of metrics within it."""


class TorchmetricsReducer(AdaptedReducer):
    """A ``torchmetrics.Metric`` or ``MetricCollection`` that collects for each slot apart.

    The trial holds the metric itself and it stays that object: entering a slot exchanges its
    attributes. A collection no longer guesses which of its metrics may share a state, from their
    states after the first batch: metrics that are equal there by chance would stay so for ever. The
    groups that ``compute_groups=[[...]]`` names are kept.

    Args:
        metric: The metric, on the device where it computes.
    """

    metric: Metric | MetricCollection
    """What the trial updates."""

    def __init__(self, metric: Metric | MetricCollection) -> None:
        self.metric = metric
        self._parts = [m for m in metric.modules() if isinstance(m, Metric | MetricCollection)]
        for part in self._parts:
            if isinstance(part, Metric):
                part.distributed_available_fn = _never
            elif part._enable_compute_groups is True:
                part._enable_compute_groups = False
        self._pristine: _Contents | None = None

    @property
    def label(self) -> str:
        """The metric's class."""
        return type(self.metric).__name__

    def are_empty(self, per_slot_metrics: list[Any]) -> bool:
        """Returns whether no metric was updated."""
        return not any(part["updates"] for results in per_slot_metrics for part in results)

    def reset(self) -> None:
        """Resets the metric."""
        self.metric.reset()

    def per_slot_reduce(self) -> list[dict[str, Any]]:
        """Returns the slot's state of each metric, and how often it was updated."""
        return [
            {
                "updates": part.update_count,
                "state": {
                    # Many tensors to be put together anyhow become one before they travel.
                    name: [dim_zero_cat(value)]
                    if part._reductions[name] is dim_zero_cat and isinstance(value, list) and value
                    else value
                    for name, value in part.metric_state.items()
                },
            }
            for part in self._metrics()
        ]

    def cross_slot_reduce(self, per_slot_metrics: list[Any]) -> Any:
        """Merges the states by the metric's own reductions, and computes the metric.

        Slots that were never updated are left out: a mean over slots is one over those with data.
        """
        installed = [vars(part) for part in self._parts]
        # Apart from every slot's: what computing leaves behind belongs to none of them.
        self.install(self._copies({}))
        try:
            for index, part in enumerate(self._metrics()):
                _load_merged(part, [results[index] for results in per_slot_metrics])
            return self.metric.compute()
        finally:
            self.install(installed)

    def state_dict(self) -> dict[str, Any]:
        """Returns what a slot has collected: the attributes that have changed since a reset."""
        self._metrics()
        assert self._pristine is not None, "contents are made before anything is collected"
        return {
            "types": [type(part).__name__ for part in self._parts],
            "parts": [
                {
                    name: value
                    for name, value in vars(part).items()
                    if name not in _SHARED
                    and _is_plain(value)
                    and not (name in before and _equal(value, before[name]))
                }
                for part, before in zip(self._parts, self._pristine, strict=True)
            ],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up what ``state_dict`` returned."""
        types = [type(part).__name__ for part in self._parts]
        if types != state_dict["types"]:
            raise CheckpointError(
                f"The torchmetrics are {types} in the trial and {state_dict['types']} in the "
                "checkpoint. Restore the trial's code, or submit a new experiment."
            )
        for part, attributes in zip(self._parts, state_dict["parts"], strict=True):
            device = part.device if isinstance(part, Metric) else torch.device("cpu")
            vars(part).update(_on_device(attributes, device))

    def new_contents(self, shared: Mapping[int, object]) -> _Contents:
        """Returns a copy of the attributes of each part, as they were before anything happened."""
        if self._pristine is None:
            self.metric.reset()
            self._pristine = [vars(part) for part in self._parts]
            self._pristine = self._copies(shared)
        return self._copies(shared)

    def _copies(self, shared: Mapping[int, object]) -> _Contents:
        assert self._pristine is not None, "contents are made before they are merged"
        memo = dict(shared) | {id(module): module for module in self.metric.modules()}
        return [
            {
                name: value if name in _SHARED else copy.deepcopy(value, memo)
                for name, value in attributes.items()
            }
            for attributes in self._pristine
        ]

    def install(self, contents: _Contents) -> None:
        """Gives each part these attributes; its bound methods and sub-modules stay."""
        for part, attributes in zip(self._parts, contents, strict=True):
            object.__setattr__(part, "__dict__", attributes)

    def _metrics(self) -> list[Metric]:
        # To look at its metrics makes a collection hand the state of each group to all in it.
        for part in self._parts:
            if isinstance(part, MetricCollection):
                part.values(copy_state=False)
        return [part for part in self._parts if isinstance(part, Metric)]


def _load_merged(metric: Metric, per_slot: list[dict[str, Any]]) -> None:
    """Puts the slots' states into one metric, in slot order."""
    updated = [results for results in per_slot if results["updates"] > 0]
    if not updated:
        return
    metric._update_count = sum(results["updates"] for results in updated)
    metric._computed = None
    for name, reduction in metric._reductions.items():
        values = _on_device([results["state"][name] for results in updated], metric.device)
        if len(values) == 1:
            setattr(metric, name, values[0])
            continue
        if isinstance(values[0], list):
            merged: Any = [item for value in values for item in value]
            if callable(reduction) and merged:
                merged = reduction(merged)
        elif reduction is dim_zero_cat:
            merged = dim_zero_cat(values)
        else:
            merged = torch.stack(values)
            if callable(reduction):
                merged = reduction(merged)
        setattr(metric, name, merged)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return (
            isinstance(one, torch.Tensor)
            and isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and torch.equal(one, other)
        )
    if isinstance(one, list | tuple | dict):
        return not one and one == other
    return type(one) is type(other) and one == other


def _on_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _on_device(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_on_device(item, device) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def _never() -> bool:
    """Answers torchmetrics whether there are other processes to synchronize with."""
    return False
