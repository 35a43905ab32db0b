"""Metric reducers around what is no ``MetricReducer``: how trialrun exchanges what they collect."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from trialrun._reducers import MetricReducer


class AdaptedReducer(MetricReducer):
    """A metric reducer around an object that is none.

    What a slot has collected is one value, its contents, instead of all attributes.
    """

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """How messages call it when it has no name."""

    @abc.abstractmethod
    def are_empty(self, per_slot_metrics: list[Any]) -> bool:
        """Returns whether no slot was given anything, from the slots' results."""

    @abc.abstractmethod
    def new_contents(self, shared: Mapping[int, object]) -> Any:
        """Returns contents for one more slot.

        Args:
            shared: Objects by their ``id`` that are referred to and not copied.
        """

    @abc.abstractmethod
    def install(self, contents: Any) -> None:
        """Lets the object collect into these contents from now on."""


class FunctionReducer(AdaptedReducer):
    """Collects values, and calls a function with all of them, over all slots and batches.

    The values come in the order of the batches, those of one batch in the order of the slots, those
    of one slot as they were given: in validation the order of the records in the dataset. It
    depends on no number of processes, nor, in validation, on the number of slots.

    Args:
        function: Gets a list of all values and returns a number, or a dictionary of metric names
            and numbers where the reducer has no name.
    """

    batch: int
    """The batch to which values belong: ``batch_idx``, which trialrun sets."""

    def __init__(self, function: Callable[[list[Any]], Any]) -> None:
        self._function = function
        self._values: list[tuple[int, Any]] = []
        self.batch = 0

    def update(self, value: Any) -> None:
        """Takes one value: plain data, such as a number, a tensor or a tuple of tensors.

        Tensors stay on their device until the report, without their graph; arrays are copied.
        """
        self._values.append((self.batch, _kept(value)))

    def reset(self) -> None:
        """Forgets all values."""
        self._values.clear()

    def per_slot_reduce(self) -> Any:
        """Returns the slot's values, each with its batch."""
        return self._values

    def cross_slot_reduce(self, per_slot_metrics: list[Any]) -> Any:
        """Calls the function with the values of all slots in their order."""
        pairs = [pair for values in per_slot_metrics for pair in values]
        # Sorting is stable: within a batch the slots stay in their order.
        return self._function([value for _, value in sorted(pairs, key=lambda pair: pair[0])])

    def state_dict(self) -> dict[str, Any]:
        """Returns the values, each with its batch."""
        return {"values": list(self._values)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up what ``state_dict`` returned."""
        self._values[:] = state_dict["values"]

    @property
    def label(self) -> str:
        """The function's name."""
        return getattr(self._function, "__name__", type(self._function).__name__)

    def are_empty(self, per_slot_metrics: list[Any]) -> bool:
        """Returns whether there are no values."""
        return not any(per_slot_metrics)

    def new_contents(self, shared: Mapping[int, object]) -> list[tuple[int, Any]]:
        """Returns a list for one more slot's values."""
        return []

    def install(self, contents: list[tuple[int, Any]]) -> None:
        """Collects into this list from now on."""
        self._values = contents


def _kept(value: Any) -> Any:
    """Returns the value in memory of its own: the trial may go on changing what it gave."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {key: _kept(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_kept(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value
