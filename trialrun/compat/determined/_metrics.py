"""Metrics of several numbers, which trials for Determined return beside those that are plotted."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from trialrun._errors import InvalidMetricError
from trialrun._reducers import Reducer
from trialrun.controller.engine.reports.metrics import check_scalars, describe

__all__ = ["as_numbers", "without_others"]

logger = logging.getLogger(__name__)

_REDUCTIONS: dict[Reducer, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    Reducer.AVG: ("mean", torch.mean),
    Reducer.SUM: ("sum", torch.sum),
    Reducer.MAX: ("maximum", torch.amax),
    Reducer.MIN: ("minimum", torch.amin),
}


def as_numbers(
    metrics: Mapping[Any, Any], source: str, reducer_of: Callable[[str], Any], *, warns: bool
) -> dict[Any, Any]:
    """Returns the metrics with one number in the place of several.

    Within a batch they are reduced as the batches are: a maximum of maxima is that of all numbers.
    What holds no numbers stays, for whoever checks.

    Args:
        metrics: What ``train_batch`` or ``evaluate_batch`` returned.
        source: Which of them.
        reducer_of: Gives the reducer of a metric, by name.
        warns: Whether to say so, once for each metric.
    """
    reported = dict(metrics)
    for name, value in metrics.items():
        numbers = _several_numbers(value)
        if numbers is None or (reduction := _REDUCTIONS.get(reducer_of(name))) is None:
            continue
        word, reduce = reduction
        reported[name] = reduce(numbers)
        if warns:
            _warn_once(name, source, f"is {_shape(value)}; its {word} is reported")
    return reported


def without_others(metrics: Mapping[Any, Any], *, warns: bool) -> dict[Any, Any]:
    """Returns what ``evaluate_full_dataset`` returned without what is no number.

    None stays, which Determined refuses there too.

    Args:
        metrics: The metrics, and what was returned beside them, such as predictions.
        warns: Whether to name what is left out, once for each metric.
    """
    source = "evaluate_full_dataset"
    reported = {}
    for name, value in metrics.items():
        try:
            check_scalars({name: value}, source)
        except InvalidMetricError:
            if isinstance(name, str) and value is not None:
                if warns:
                    _warn_once(name, source, f"is {_shape(value)}, no number; it is not reported")
                continue
        reported[name] = value
    return reported


def _several_numbers(value: Any) -> torch.Tensor | None:
    """Returns the numbers that a value holds, in float64; None where it is one, or holds none."""
    if isinstance(value, torch.Tensor):
        if value.numel() < 2 or value.is_complex():
            return None
        return value.detach().to(torch.float64)
    if isinstance(value, list | tuple):
        try:
            value = np.asarray(value)
        except (RuntimeError, TypeError, ValueError):  # tensors with a graph or on a GPU; ragged
            return None
    if not isinstance(value, np.ndarray) or value.size < 2 or value.dtype.kind not in "buif":
        return None
    return torch.from_numpy(value.astype(np.float64))


def _shape(value: Any) -> str:
    sized = isinstance(value, list | tuple)
    return f"a {type(value).__name__} of {len(value)} items" if sized else describe(value)


# Every batch would say it again.
@functools.cache
def _warn_once(name: str, source: str, what: str) -> None:
    logger.warning(
        "Metric %r returned by %s %s. Return one number for each metric.", name, source, what
    )
