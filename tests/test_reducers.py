from __future__ import annotations

from typing import Any

import pytest

from trialrun import MetricReducer, Reducer


class Sum(MetricReducer):
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.values: list[float] = []

    def per_slot_reduce(self) -> Any:
        return sum(self.values)

    def cross_slot_reduce(self, per_slot_metrics: list[Any]) -> Any:
        return sum(per_slot_metrics)


def test_the_state_is_all_attributes_unless_it_is_overridden() -> None:
    first, second = Sum(), Sum()
    first.values += [1.0, 2.0]
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == {"values": [1.0, 2.0]}
    assert second.per_slot_reduce() == 3.0


def test_the_state_is_not_the_attributes_themselves() -> None:
    reducer = Sum()
    reducer.state_dict()["other"] = 1
    assert not hasattr(reducer, "other")


@pytest.mark.parametrize("method", ["reset", "per_slot_reduce", "cross_slot_reduce"])
def test_a_reducer_needs_its_three_methods(method: str) -> None:
    methods = {name: getattr(Sum, name) for name in MetricReducer.__abstractmethods__}
    del methods[method]
    incomplete = type("Incomplete", (MetricReducer,), methods)
    with pytest.raises(TypeError, match=method):
        incomplete()


def test_the_reductions_have_names() -> None:
    assert [reducer.value for reducer in Reducer] == ["avg", "sum", "max", "min"]
