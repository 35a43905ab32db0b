"""From what slots return for each batch to the numbers that are reported.

Values stay tensors, on their device, until a report is due: one transfer then, none per batch. Sums
are ``math.fsum``, which rounds once, so that the order of addition and the number of processes do
not change the last digit.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from trialrun._errors import InvalidMetricError, InvalidTrialError, nearest_name
from trialrun._reducers import Reducer
from trialrun._wording import type_of, with_type
from trialrun.controller.engine.parallel.collectives import Collectives

Scalars = dict[str, Any]
"""Metric names with numbers or one-element tensors."""


_ADVICE = "Return one number for each metric; use a MetricReducer for anything larger."


def check_scalars(returned: Any, source: str, advice: str = _ADVICE) -> Scalars:
    """Returns what ``train_batch`` or ``evaluate_batch`` returned as names and scalars.

    Args:
        returned: A dictionary of scalars, or one scalar tensor.
        source: The method's name, for errors.
        advice: What to do where a value is no scalar.

    Raises:
        InvalidMetricError: It is not that; the message names the metric and its type.
    """
    if isinstance(returned, torch.Tensor):
        returned = {"loss": returned}
    if not isinstance(returned, Mapping):
        raise InvalidMetricError(
            f"{source} returned {type_of(returned)}. Return a dictionary of metric names and "
            "numbers, or one scalar tensor, the loss."
        )
    scalars: Scalars = {}
    for name, value in returned.items():
        if isinstance(value, list | tuple) and len(value) == 1:
            (value,) = value  # such as a scheduler's get_last_lr()
        if not isinstance(name, str):
            raise InvalidMetricError(
                f"{source} returned a metric named {with_type(name)}. Metric names are strings."
            )
        if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
            # A copy: the trial may return a parameter, or a sum that it goes on adding to. On the
            # CPU a float is one at a fifth of the cost; elsewhere it would wait for the device.
            scalars[name] = float(value.item()) if value.is_cpu else value.detach().clone()
        elif isinstance(value, bool | int | float | np.integer | np.floating | np.bool_):
            scalars[name] = float(value)
        elif isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "buif":
            scalars[name] = float(value.item())
        else:
            raise InvalidMetricError(
                f"Metric {name!r} returned by {source} is {describe(value)}, not a number. {advice}"
            )
    return scalars


def describe(value: Any) -> str:
    """Returns in words what a value is that should have been something else."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{type_of(value)} of shape {tuple(value.shape)} and type {value.dtype}"
    return type_of(value) if value is None else f"{type_of(value)} ({value!r})"


def check_batch_length(length: Any) -> int:
    """Returns what ``get_batch_length`` returned, a number of records.

    Raises:
        InvalidTrialError: It is no whole number, or negative.
    """
    try:
        number = operator.index(length)  # also numpy's and torch's whole numbers
    except TypeError:
        number = -1
    if number < 0:
        raise InvalidTrialError(
            f"get_batch_length returned {describe(length)}. Return the number of records in the "
            "batch."
        )
    return number


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
    """Over the records of all batches and slots."""
    batches: list[dict[str, float]]
    """For each batch the means over slots, where they were asked for."""


_Row = tuple[int, Scalars]
"""One batch of one slot: its records, and its metrics."""


class TrainingWindow:
    """The metrics of the batches since the last report, for the slots of this process.

    Args:
        slots: The slots of this process.
        collectives: The processes.
    """

    def __init__(self, slots: range, collectives: Collectives) -> None:
        self._slots = slots
        self._collectives = collectives
        self._rows: dict[int, list[_Row]] = {slot: [] for slot in slots}

    def __len__(self) -> int:
        return len(self._rows[self._slots.start])

    def add(self, slot: int, metrics: Scalars, records: int = 1) -> None:
        """Keeps one slot's metrics of one batch.

        Args:
            slot: The slot.
            metrics: Names and scalars.
            records: What the batch weighs: its records, or 1 where all batches are alike.
        """
        self._rows[slot].append((records, metrics))

    def reduce(self, *, with_batches: bool = False) -> Reduced:
        """Returns each metric's mean over the records, on every process, and starts anew.

        Args:
            with_batches: Whether the means of each batch are wanted too.

        Raises:
            InvalidMetricError: The names differ between batches or slots, or there are no records.
        """
        gathered = self._collectives.gather(self._take(), "training metrics")
        means = None
        if gathered is not None:
            all_tables = [table for tables in gathered for table in tables]
            means = (_means(all_tables), _batch_means(all_tables) if with_batches else [])
        return Reduced(*self._collectives.broadcast(means, "training metrics"))

    def slot_state(self, slot: int) -> list[tuple[int, dict[str, float]]]:
        """Returns the slot's part of the window, for a checkpoint within it."""
        rows = _with_floats(self._rows[slot])
        self._rows[slot] = list(rows)
        return rows

    def load_slot_state(self, slot: int, rows: list[tuple[int, dict[str, float]]]) -> None:
        """Takes up what ``slot_state`` returned."""
        self._rows[slot] = list(rows)

    def _take(self) -> list[_Table]:
        taken = [_as_table(_with_floats(self._rows[slot])) for slot in self._slots]
        self._rows = {slot: [] for slot in self._slots}
        return taken


def _with_floats(rows: Sequence[_Row]) -> list[tuple[int, dict[str, float]]]:
    floats = to_floats([metrics for _, metrics in rows])
    return [(records, row) for (records, _), row in zip(rows, floats, strict=True)]


_Table = tuple[list[str], torch.Tensor]
"""One slot's metrics: names as the trial gave them, and float64 values of shape (batches, 1 +
names): the records, and then the columns in the order of sorted names."""


def _as_table(rows: Sequence[tuple[int, dict[str, float]]]) -> _Table:
    _require_same_names([row.keys() for _, row in rows], "train_batch")
    values = [[records, *(row[name] for name in sorted(row))] for records, row in rows]
    return list(rows[0][1]), torch.tensor(values, dtype=torch.float64)


def _means(tables: Sequence[_Table]) -> dict[str, float]:
    """Returns the means over all slots."""
    _require_same_names([names for names, _ in tables], "train_batch")
    weights, *columns = torch.cat([values for _, values in tables]).T.tolist()
    names = tables[0][0]
    by_name = dict(zip(sorted(names), columns, strict=True))
    return {name: _mean(by_name[name], weights, "training") for name in names}


def _mean(values: Sequence[float], weights: Sequence[float], kind: str) -> float:
    """Returns the mean over records of one value for each batch."""
    total = sum(weights)
    if total == 0:
        raise InvalidMetricError(
            f"The {kind} batches hold no records, as get_batch_length counts them, so there is no "
            "mean over records. Let it return how many records a batch holds."
        )
    if all(weight == weights[0] for weight in weights):
        return _sum(values) / len(values)
    return _sum(weight * value for weight, value in zip(weights, values, strict=True)) / total


def _batch_means(tables: Sequence[_Table]) -> list[dict[str, float]]:
    """Returns for each batch the means over all slots."""
    names = tables[0][0]
    # Shape (batches, 1 + names, slots).
    cube = torch.stack([values for _, values in tables], dim=2).tolist()
    batches = []
    for weights, *columns in cube:
        by_name = dict(zip(sorted(names), columns, strict=True))
        # Where no slot has a record of this batch, there is no mean of it.
        batches.append(
            {
                name: _mean(by_name[name], weights, "training") if any(weights) else math.nan
                for name in names
            }
        )
    return batches


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
        reducers: One reducer for all metrics, or one for each name: what the trial returned.

    Returns:
        One number for each metric.

    Raises:
        InvalidMetricError: There are no batches; the names differ between them, or from those of
            the reducers; or a reducer is none.
    """
    if not batches:
        raise InvalidMetricError(
            "The validation data gave no batch, so there is nothing to reduce. Check what "
            "build_validation_data_loader returns: an iterator, which can be gone through once "
            "only, is no loader."
        )
    ordered = sorted(batches, key=lambda batch: batch[0])
    _require_same_names([metrics.keys() for _, _, metrics in ordered], "evaluate_batch")
    names = ordered[0][2].keys()
    by_name = _reducers_by_name(reducers, names)
    weights = [records for _, records, _ in ordered]
    result = {}
    for name in names:
        values = [metrics[name] for _, _, metrics in ordered]
        if by_name[name] is Reducer.AVG:
            result[name] = _mean(values, weights, "validation")
        else:
            result[name] = _REDUCTIONS[by_name[name]](values)
    return result


def _reducers_by_name(returned: Any, names: Iterable[str]) -> dict[str, Reducer]:
    names = list(names)
    if not isinstance(returned, Mapping):
        returned = dict.fromkeys(names, _require_reducer(returned, "evaluation_reducer() returned"))
    for name, reducer in returned.items():
        _require_reducer(reducer, f"evaluation_reducer() gives for {name!r}")
    if returned.keys() != set(names):
        wrong = sorted(map(str, returned.keys() ^ set(names)))
        raise InvalidMetricError(
            f"evaluation_reducer() names {sorted(map(str, returned))} but evaluate_batch returned "
            f"{sorted(names)}. Name every metric exactly once." + nearest_name(wrong[0], names)
        )
    return dict(returned)


def _require_reducer(reducer: Any, source: str) -> Reducer:
    if not isinstance(reducer, Reducer):
        legal = ", ".join(f"Reducer.{member.name}" for member in Reducer)
        raise InvalidMetricError(
            f"{source} {describe(reducer)}. Use one of {legal}, or a dictionary that has one of "
            "them for each metric."
        )
    return reducer


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
