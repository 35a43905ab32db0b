"""From what slots return for each batch to the numbers that are reported.

Values stay tensors, on their device, until a report is due: one transfer then, none per batch. Sums
are ``math.fsum``, which rounds once, so that the order of addition and the number of processes do
not change the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from trialrun._errors import InvalidMetricError, nearest_name
from trialrun._reducers import Reducer
from trialrun._wrapped import WrappedReducer
from trialrun.controller.engine.collectives import Collectives

Scalars = dict[str, Any]
"""Metric names with numbers or one-element tensors."""


def check_scalars(returned: Any, source: str) -> Scalars:
    """Returns what ``train_batch`` or ``evaluate_batch`` returned as names and scalars.

    Args:
        returned: A dictionary of scalars; from ``train_batch`` also one scalar tensor.
        source: The method's name, for errors.

    Raises:
        InvalidMetricError: It is not that; the message names the metric and its type.
    """
    if isinstance(returned, torch.Tensor) and source == "train_batch":
        returned = {"loss": returned}
    if not isinstance(returned, Mapping):
        raise InvalidMetricError(
            f"{source} returned a {type(returned).__name__}. Return a dictionary of metric names "
            "and numbers."
        )
    scalars: Scalars = {}
    for name, value in returned.items():
        if not isinstance(name, str):
            raise InvalidMetricError(
                f"{source} returned a metric named {name!r}, a {type(name).__name__}. Metric names "
                "are strings."
            )
        if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
            # A copy: the trial may return a parameter, or a sum that it goes on adding to. On the
            # CPU a float is one at a fifth of the cost; elsewhere it would wait for the device.
            scalars[name] = float(value.item()) if value.is_cpu else value.detach().clone()
        elif isinstance(value, bool | int | float | np.integer | np.floating | np.bool_):
            scalars[name] = float(value)
        else:
            raise InvalidMetricError(
                f"Metric {name!r} returned by {source} is {_describe(value)}, not a number. Return "
                "one number for each metric; use a MetricReducer for anything larger."
            )
    return scalars


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"a {type(value).__name__} of shape {tuple(value.shape)} and type {value.dtype}"
    return f"a {type(value).__name__} ({value!r})"


def to_floats(rows: Sequence[Scalars]) -> list[dict[str, float]]:
    """Returns the scalars as Python floats, with one transfer from each device and type."""
    tensors: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for row in rows:
        for value in row.values():
            if isinstance(value, torch.Tensor):
                tensors.setdefault((value.device, value.dtype), []).append(value.reshape(()))
    floats = {
        kind: iter(torch.stack(group).to(torch.float64).tolist()) for kind, group in tensors.items()
    }
    return [
        {
            name: next(floats[value.device, value.dtype])
            if isinstance(value, torch.Tensor)
            else value
            for name, value in row.items()
        }
        for row in rows
    ]


class Reduced(NamedTuple):
    """The training metrics of a reporting period."""

    means: dict[str, float]
    """Over batches and slots."""
    batches: list[dict[str, float]]
    """For each batch the means over slots, where they were asked for."""


class TrainingWindow:
    """The metrics of the batches since the last report, for the slots of this process.

    Args:
        slots: The slots of this process.
        collectives: The processes.
    """

    def __init__(self, slots: range, collectives: Collectives) -> None:
        self._slots = slots
        self._collectives = collectives
        self._rows: dict[int, list[Scalars]] = {slot: [] for slot in slots}

    def __len__(self) -> int:
        return len(self._rows[self._slots.start])

    def add(self, slot: int, metrics: Scalars) -> None:
        """Keeps one slot's metrics of one batch."""
        self._rows[slot].append(metrics)

    def reduce(self, *, with_batches: bool = False) -> Reduced:
        """Returns each metric's mean over batches and slots, on every process, and starts anew.

        Args:
            with_batches: Whether the means of each batch are wanted too.

        Raises:
            InvalidMetricError: The names differ between batches or slots.
        """
        gathered = self._collectives.gather(self._take(), "training metrics")
        means = None
        if gathered is not None:
            all_tables = [table for tables in gathered for table in tables]
            means = (_means(all_tables), _batch_means(all_tables) if with_batches else [])
        return Reduced(*self._collectives.broadcast(means, "training metrics"))

    def slot_state(self, slot: int) -> list[dict[str, float]]:
        """Returns the slot's part of the window, for a checkpoint within it."""
        self._rows[slot] = list(to_floats(self._rows[slot]))
        return list(self._rows[slot])

    def load_slot_state(self, slot: int, rows: list[dict[str, float]]) -> None:
        """Takes up what ``slot_state`` returned."""
        self._rows[slot] = list(rows)

    def _take(self) -> list[_Table]:
        taken = [_as_table(to_floats(self._rows[slot])) for slot in self._slots]
        self._rows = {slot: [] for slot in self._slots}
        return taken


_Table = tuple[list[str], torch.Tensor]
"""One slot's metrics: names as the trial gave them, and float64 values of shape (batches, names)
whose columns stand in the order of sorted names."""


def _as_table(rows: Sequence[dict[str, float]]) -> _Table:
    _require_same_names([row.keys() for row in rows], "train_batch")
    values = [[row[name] for name in sorted(row)] for row in rows]
    return list(rows[0]), torch.tensor(values, dtype=torch.float64)


def _means(tables: Sequence[_Table]) -> dict[str, float]:
    """Returns the means over all slots, which have equally many batches."""
    _require_same_names([names for names, _ in tables], "train_batch")
    columns = torch.cat([values for _, values in tables]).T.tolist()
    names = tables[0][0]
    by_name = dict(zip(sorted(names), columns, strict=True))
    return {name: _sum(by_name[name]) / len(by_name[name]) for name in names}


def _batch_means(tables: Sequence[_Table]) -> list[dict[str, float]]:
    """Returns for each batch the means over all slots."""
    names = tables[0][0]
    columns = {name: column for column, name in enumerate(sorted(names))}
    # Shape (batches, names, slots).
    cube = torch.stack([values for _, values in tables], dim=2).tolist()
    return [{name: _sum(row[columns[name]]) / len(tables) for name in names} for row in cube]


def _require_same_names(named: Sequence[Iterable[str]], source: str) -> None:
    first = sorted(named[0])
    for names in named:
        if names != named[0] and sorted(names) != first:
            raise InvalidMetricError(
                f"{source} returned the metrics {first} for one batch and {sorted(names)} "
                "for another. Return the same names for every batch and slot."
            )


EvaluatedBatch = tuple[int, int, dict[str, float]]
"""(batch number, records, metrics)."""


def reduce_evaluated(
    batches: Sequence[EvaluatedBatch], reducers: Reducer | dict[str, Reducer]
) -> dict[str, float]:
    """Reduces the metrics of all validation batches.

    Args:
        batches: All batches of the validation data, in any order.
        reducers: One reducer for all metrics, or one for each name.

    Returns:
        One number for each metric.

    Raises:
        InvalidMetricError: The names differ between batches, or from those of the reducers.
    """
    ordered = sorted(batches)
    _require_same_names([metrics.keys() for _, _, metrics in ordered], "evaluate_batch")
    names = ordered[0][2].keys()
    if isinstance(reducers, dict) and reducers.keys() != names:
        wrong = sorted(reducers.keys() ^ names)
        raise InvalidMetricError(
            f"evaluation_reducer() names {sorted(reducers)} but evaluate_batch returned "
            f"{sorted(names)}. Name every metric exactly once." + nearest_name(wrong[0], names)
        )
    result = {}
    for name in names:
        reducer = reducers[name] if isinstance(reducers, dict) else reducers
        values = [metrics[name] for _, _, metrics in ordered]
        if reducer is Reducer.AVG:
            weights = [records for _, records, _ in ordered]
            weighted = (weight * value for weight, value in zip(weights, values, strict=True))
            result[name] = _sum(weighted) / sum(weights)
        else:
            result[name] = _REDUCTIONS[reducer](values)
    return result


def _sum(values: Iterable[float]) -> float:
    """Adds exactly and rounds once; infinities and NaN give what IEEE 754 addition gives."""
    numbers = list(values)
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # inf - inf, or a partial sum beyond the largest float
        return sum(numbers)


_REDUCTIONS: dict[Reducer, Callable[[list[float]], float]] = {
    Reducer.SUM: _sum,
    Reducer.MAX: max,
    Reducer.MIN: min,
}


def reduce_custom(
    reducers: Sequence[WrappedReducer],
    per_slot: Sequence[Sequence[Any]],
    metrics: dict[str, float],
) -> dict[str, float]:
    """Adds the results of the trial's own reducers to reduced metrics.

    Args:
        reducers: The reducers to apply.
        per_slot: For each slot, in order, the ``per_slot_reduce`` result of each reducer.
        metrics: The metrics so far.

    Returns:
        All metrics.

    Raises:
        InvalidMetricError: A reducer raised, returned something else than it promised, or a name
            that is taken.
    """
    result = dict(metrics)
    for index, wrapped in enumerate(reducers):
        collected = [slot_results[index] for slot_results in per_slot]
        try:
            value = wrapped.reducer.cross_slot_reduce(collected)
        except Exception as error:
            raise InvalidMetricError(
                f"cross_slot_reduce of reducer {wrapped.label!r} raised {type(error).__name__}: "
                f"{error}"
            ) from error
        for name, number in _named(wrapped, value).items():
            if name in result:
                raise InvalidMetricError(
                    f"Reducer {wrapped.label!r} returned the metric {name!r}, which exists already."
                    " Choose another name."
                )
            result[name] = number
    return result


def _named(wrapped: WrappedReducer, value: Any) -> dict[str, float]:
    if wrapped.name is None and not isinstance(value, Mapping):
        raise InvalidMetricError(
            f"Reducer {wrapped.label!r} was wrapped without a name, so cross_slot_reduce must "
            f"return a dictionary of metrics; it returned {_describe(value)}."
        )
    if wrapped.name is not None and isinstance(value, Mapping):
        raise InvalidMetricError(
            f"Reducer {wrapped.label!r} was wrapped with a name, so cross_slot_reduce must return "
            "one number; it returned a dictionary. Wrap it without a name."
        )
    named = value if isinstance(value, Mapping) else {wrapped.name: value}
    source = f"reducer {wrapped.label!r}"
    (row,) = to_floats([check_scalars(named, source)])
    return row
