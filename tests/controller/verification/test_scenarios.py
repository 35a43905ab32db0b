from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialrun.controller.verification.scenarios import (
    STRAIGHT,
    Ground,
    Moment,
    Scenario,
    plan_scenarios,
)

GROUND = Ground(
    processes=(1, 2, 4),
    total_batches=24,
    epoch_length=10,
    window=3,
    validation_period=6,
    validates=True,
    num_workers=0,
)


@st.composite
def grounds(draw: st.DrawFn) -> Ground:
    window = draw(st.integers(1, 5))
    total = window * draw(st.integers(4, 12))
    return Ground(
        processes=tuple(sorted({1, *draw(st.sets(st.sampled_from([2, 3, 4, 8])))})),
        total_batches=total,
        epoch_length=draw(st.none() | st.integers(1, 30)),
        window=window,
        validation_period=max(total // 4 // window, 1) * window,
        validates=draw(st.booleans()),
        num_workers=draw(st.none() | st.integers(0, 2)),
    )


def ends_at(scenario: Scenario, ground: Ground) -> int:
    """The batch at which the first attempt ends at the latest."""
    first = scenario.legs[0]
    assert first.stop is not None
    if first.stop.is_kill or first.stop.moment is Moment.VALIDATION:
        return first.stop.batch
    # On several processes a wish is heard one batch later.
    heard = first.stop.batch + (1 if first.processes == 1 else 2)
    return -(-heard // ground.window) * ground.window


@given(grounds())
def test_every_stop_comes_before_the_end(ground: Ground) -> None:
    stopped = [s for s in plan_scenarios(ground) if len(s.legs) > 1]
    assert stopped
    for scenario in stopped:
        assert ends_at(scenario, ground) < ground.total_batches, scenario
        assert scenario.legs[-1].stop is None


@given(grounds())
def test_a_stopped_run_goes_on_with_other_processes_wherever_there_are_any(ground: Ground) -> None:
    for scenario in plan_scenarios(ground):
        if len(scenario.legs) > 1 and len(ground.processes) > 1:
            first, second = scenario.processes
            assert first != second


@given(grounds())
def test_no_two_runs_are_the_same_and_each_number_of_processes_is_used(ground: Ground) -> None:
    scenarios = plan_scenarios(ground)
    assert len({(s.name, *s.processes) for s in scenarios}) == len(scenarios)
    assert {p for s in scenarios for p in s.processes} == set(ground.processes)


def test_a_run_is_stopped_wherever_state_may_be_lost() -> None:
    names = [scenario.name for scenario in plan_scenarios(GROUND)]
    assert names == [
        "once more",
        "on 2 processes",
        "on 4 processes",
        "num_workers=2",
        "other validation and checkpoint periods",
        "paused in an epoch, batch 11",
        "paused in an epoch, batch 11",
        "paused at an epoch's end, batch 9",
        "paused in an aggregation window, batch 12",
        "killed in an epoch, batch 12",
        "paused during a validation, batch 12",
        "killed during a validation, batch 12",
        "killed while a checkpoint is written, batch 15",
    ]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"validates": False}, "during a validation"),
        ({"epoch_length": None}, "at an epoch's end"),
        ({"epoch_length": 24}, "at an epoch's end"),
        ({"window": 1}, "in an aggregation window"),
        ({"num_workers": None}, "num_workers"),
    ],
)
def test_what_the_trial_has_not_is_not_tried(changes: dict[str, object], missing: str) -> None:
    names = [s.name for s in plan_scenarios(dataclasses.replace(GROUND, **changes))]  # type: ignore[arg-type]  # of several types
    assert not [name for name in names if missing in name]
    assert [s.name for s in plan_scenarios(GROUND) if missing in s.name]


def test_a_trial_with_workers_is_tried_without() -> None:
    scenarios = plan_scenarios(dataclasses.replace(GROUND, num_workers=3))
    assert [s.num_workers for s in scenarios if s.num_workers is not None] == [0]


def test_only_the_second_straight_run_is_a_repeat() -> None:
    assert [s.name for s in plan_scenarios(GROUND) if s.is_repeat] == ["once more"]
    assert STRAIGHT.is_repeat
