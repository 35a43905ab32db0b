"""Metrics that are reduced over all slots: what each slot collects, and how it becomes one."""

from __future__ import annotations

import abc
import enum
from typing import Any


class Reducer(enum.Enum):
    """How the values of one metric over all batches of a validation become one number."""

    AVG = "avg"
    """The mean over records: each batch's value weighs as many records as the batch holds."""
    SUM = "sum"
    """The sum over batches."""
    MAX = "max"
    """The largest value of a batch."""
    MIN = "min"
    """The smallest value of a batch."""


class MetricReducer(abc.ABC):
    """A metric that cannot be averaged batch by batch, such as a confusion matrix.

    Each slot has its own copy of the attributes. The trial feeds them from ``train_batch`` or
    ``evaluate_batch``; at the end of a reporting period or a validation trialrun calls
    ``per_slot_reduce`` for every slot, hands all results in slot order to ``cross_slot_reduce``
    once, and then ``reset`` for every slot. A slot may have been fed nothing: a validation can have
    fewer batches than there are slots.

    Results of ``per_slot_reduce`` travel between processes as plain data: numbers, strings,
    tensors, numpy arrays, and lists, tuples and dictionaries of them. Tensors arrive on the CPU;
    until then they may stay on their device, and cost one transfer for each report.

    What the two ``reduce`` methods draw at random belongs to the batch and the slot, as it does in
    ``train_batch``.
    """

    @abc.abstractmethod
    def reset(self) -> None:
        """Forgets everything collected: called before and after each period and validation."""

    @abc.abstractmethod
    def per_slot_reduce(self) -> Any:
        """Returns what this slot has collected, as plain data."""

    @abc.abstractmethod
    def cross_slot_reduce(self, per_slot_metrics: list[Any]) -> Any:
        """Reduces the results of all slots.

        Args:
            per_slot_metrics: One ``per_slot_reduce`` result for each slot, in slot order.

        Returns:
            A number, or a dictionary of metric names and numbers when the reducer was wrapped
            without a name.
        """

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of a period that is not over yet, as plain data.

        The default is all attributes. Override it, with ``load_state_dict``, where an attribute is
        not plain data.
        """
        return dict(vars(self))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up what ``state_dict`` returned."""
        vars(self).update(state_dict)
