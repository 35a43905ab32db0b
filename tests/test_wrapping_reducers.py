"""What ``wrap_reducer`` takes, and what it says of anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric, MetricCollection

from trialrun import InvalidTrialError, MetricReducer
from trialrun._adapted_reducers import FunctionReducer
from trialrun._wrapped import Wrapped
from trialrun._wrapping_reducers import make_wrapped_reducer

TAKES = (
    "It takes a trialrun.MetricReducer, a function of a list of values, a torchmetrics metric, or "
    "the name of a reducer that an installed package brings."
)


class Sum(MetricReducer):
    def reset(self) -> None:
        self.total = 0.0

    def per_slot_reduce(self) -> float:
        return self.total

    def cross_slot_reduce(self, per_slot_metrics: list[float]) -> float:
        return sum(per_slot_metrics)


@pytest.fixture
def wrap() -> Callable[..., Any]:
    """Wraps as a context does, and returns what the trial gets."""
    wrapped = Wrapped()

    def call(reducer: Any, name: Any = None, **arguments: Any) -> Any:
        defaults: dict[str, Any] = {"for_training": True, "for_validation": True, "options": None}
        made = make_wrapped_reducer(
            reducer, name=name, device=torch.device("cpu"), **{**defaults, **arguments}
        )
        wrapped.add_reducer(made)
        return made.given

    return call


def message(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidTrialError) as caught:
        call()
    return str(caught.value)


def test_reducers_and_metrics_are_returned_themselves(wrap: Callable[..., Any]) -> None:
    for reducer in (Sum(), MeanMetric()):
        assert wrap(reducer, type(reducer).__name__) is reducer


def test_a_function_is_given_an_update(wrap: Callable[..., Any]) -> None:
    first, second = wrap(max, "largest"), wrap(max, "largest again")
    assert isinstance(first, FunctionReducer) and first is not second
    first.update(3.0)
    first.update(np.float64(5.0))
    assert first.cross_slot_reduce([first.per_slot_reduce()]) == 5.0
    assert (first.label, wrap(lambda values: {}).label) == ("max", "<lambda>")


@pytest.mark.parametrize(
    ("reducer", "kind"),
    [(3.0, "a float"), (None, "None"), ([sum], "a list"), (nn.ReLU(), "a ReLU")],
)
def test_anything_else_is_refused(wrap: Callable[..., Any], reducer: Any, kind: str) -> None:
    assert message(lambda: wrap(reducer, "name")) == f"wrap_reducer got {kind}. {TAKES}"


@pytest.mark.parametrize("kind", [Sum, MeanMetric])
def test_a_class_instead_of_an_object_is_told(wrap: Callable[..., Any], kind: type) -> None:
    name = kind.__name__
    assert message(lambda: wrap(kind, "name")) == (
        f"wrap_reducer got the class {name}. Give an object: {name}(...)."
    )


@pytest.mark.parametrize(("name", "kind"), [("", "a str"), (3, "an int"), (True, "a bool")])
def test_a_name_is_a_text(wrap: Callable[..., Any], name: Any, kind: str) -> None:
    assert message(lambda: wrap(Sum(), name)) == (
        f"wrap_reducer got the name {name!r}, {kind}. Give the metric's name as a text, or none "
        "for a reducer that returns a dictionary of metrics."
    )


def test_flags_are_true_or_false(wrap: Callable[..., Any]) -> None:
    assert message(lambda: wrap(Sum(), "sum", for_training="validation")) == (
        "wrap_reducer got for_training='validation', a str. It is True or False."
    )


def test_options_are_for_plugins(wrap: Callable[..., Any]) -> None:
    assert message(lambda: wrap(Sum(), "sum", options={"start": 1})) == (
        "wrap_reducer got options for a Sum. Options are for a reducer that is given by the name "
        "under which a package brings it; make any other with arguments of its own."
    )


@pytest.mark.parametrize("make", [Sum, MeanMetric, lambda: FunctionReducer(max)])
def test_an_object_is_wrapped_once(wrap: Callable[..., Any], make: Callable[[], Any]) -> None:
    reducer = wrap(make(), "first")
    kind = type(reducer).__name__
    assert message(lambda: wrap(reducer, "second")) == (
        f"wrap_reducer got the same {kind} twice, as 'first' and as 'second'. Wrap each object "
        "once."
    )


def test_two_metrics_do_not_collect_into_one(wrap: Callable[..., Any]) -> None:
    metric = MeanMetric()
    wrap(MetricCollection({"mean": metric}))
    wrap(MetricCollection({"mean": metric.clone()}, prefix="other_"))
    assert message(lambda: wrap(metric, "mean")) == (
        "The metrics of the reducers 'MetricCollection' and 'mean' have one in common, which "
        "cannot collect for both. Give one of them a copy of it, such as metric.clone()."
    )


def test_a_name_is_given_once_for_each_report(wrap: Callable[..., Any]) -> None:
    wrap(Sum(), "sum", for_validation=False)
    wrap(MeanMetric(), "sum", for_training=False)
    assert message(lambda: wrap(sum, "sum", for_training=False)) == (
        "Two reducers are called 'sum', a MeanMetric and a FunctionReducer. Give each metric a "
        "name of its own."
    )
