from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialrun.controller.verification.scenarios import (
    STRAIGHT,
    Ground,
    Scenario,
    plan_runs,
)

GROUND = Ground(
    processes=(1, 2, 4),
    total_batches=24,
    epoch_length=10,
    window=3,
    validation_period=6,
    validates=True,
    learns_from_validations=False,
    num_workers=0,
)


@st.composite
def grounds(draw: st.DrawFn) -> Ground:
    window = draw(st.integers(1, 5))
    total = window * draw(st.integers(4, 12))
    return Ground(
        processes=tuple(sorted({1, *draw(st.sets(st.sampled_from([2, 3, 4, 8, 16, 32, 64])))})),
        total_batches=total,
        epoch_length=draw(st.none() | st.integers(1, 30)),
        window=window,
        validation_period=max(total // 4 // window, 1) * window,
        validates=draw(st.booleans()),
        learns_from_validations=draw(st.booleans()),
        num_workers=draw(st.none() | st.integers(0, 2)),
    )


def stopped(ground: Ground) -> list[Scenario]:
    return [s for c in plan_runs(ground) for s in c.scenarios if s.is_stopped]


@given(grounds())
def test_every_stop_comes_before_the_end_and_after_the_one_before_it(ground: Ground) -> None:
    assert stopped(ground)
    for combination in plan_runs(ground):
        begins = 0
        *legs, last = combination.run.legs
        assert last.stop is None
        for leg in legs:
            assert leg.stop is not None
            assert begins <= leg.stop.batch, combination
            begins = leg.stop.latest_end(leg.processes, ground.window)
            # A killed attempt begins anew; one that pauses at the end would have no next one.
            assert begins < ground.total_batches + leg.stop.is_kill, combination


@given(grounds())
def test_a_stopped_run_goes_on_with_other_processes_wherever_there_are_any(ground: Ground) -> None:
    for combination in plan_runs(ground):
        for first, second in itertools.pairwise(combination.run.processes):
            assert first != second or len(ground.processes) == 1
        for scenario, leg in zip(combination.scenarios, combination.run.legs, strict=False):
            assert not scenario.is_stopped or scenario.legs[0] == leg


@given(grounds())
def test_no_two_ways_are_the_same_and_a_stopped_run_goes_on_on_each_number_of_processes(
    ground: Ground,
) -> None:
    scenarios = [s for c in plan_runs(ground) for s in c.scenarios]
    assert len({(s.name, *s.processes) for s in scenarios}) == len(scenarios)
    assert {s.legs[-1].processes for s in stopped(ground)} == set(ground.processes)


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("processes", [(1,), (1, 2), (1, 2, 4)])
def test_a_trial_that_ends_itself_early_is_stopped_where_it_can_be(
    total: int, processes: tuple[int, ...]
) -> None:
    ground = dataclasses.replace(
        GROUND, processes=processes, total_batches=total, window=1, validation_period=1
    )
    names = [s.name for s in stopped(ground)]
    middle = {1: 0, 2: 1, 3: 1}[total]
    assert f"killed in an epoch, batch {middle}" in names
    assert "killed during a validation, batch 1" in names
    assert any(name.startswith("paused") for name in names) == (total > 1)


def test_a_run_is_stopped_wherever_state_may_be_lost() -> None:
    names = [[s.name for s in combination.scenarios] for combination in plan_runs(GROUND)]
    assert names == [
        ["once more"],
        ["on 2 processes", "num_workers=2"],
        ["on 4 processes"],
        ["other validation and checkpoint periods"],
        [
            "paused in an epoch, batch 2",
            "paused at an epoch's end, batch 9",
            "killed in an epoch, batch 12",
            "killed while a checkpoint is written, batch 15",
            "paused during a validation, batch 18",
        ],
        ["killed during a validation, batch 12", "paused in an aggregation window, batch 12"],
        ["paused in an epoch, batch 20"],
    ]


def test_loader_workers_are_tried_together_with_processes_and_periods_alone() -> None:
    _, with_workers, _, with_periods, *_ = plan_runs(GROUND)
    assert (with_workers.run.processes, with_workers.run.num_workers) == ([2], 2)
    assert [s.processes for s in with_workers.as_run] == [[2], [2]]
    # Where that differs, each is tried alone: then it differs from the straight run in one thing.
    assert [s.processes for s in with_workers.scenarios] == [[2], [1]]
    run = with_periods.run
    assert (run.processes, run.validation_period, run.checkpoint_period) == ([1], 9, 6)


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
    def names(ground: Ground) -> list[str]:
        return [s.name for c in plan_runs(ground) for s in c.scenarios]

    assert not [n for n in names(dataclasses.replace(GROUND, **changes)) if missing in n]  # type: ignore[arg-type]  # of several types
    assert [name for name in names(GROUND) if missing in name]


def test_a_trial_with_workers_is_tried_without() -> None:
    runs = plan_runs(dataclasses.replace(GROUND, num_workers=3))
    assert [s.num_workers for c in runs for s in c.scenarios if s.num_workers is not None] == [0]


def test_only_the_second_straight_run_is_a_repeat() -> None:
    scenarios = [s for c in plan_runs(GROUND) for s in c.scenarios]
    assert [s.name for s in scenarios if s.is_repeat] == ["once more"]
    assert STRAIGHT.is_repeat


def test_a_trial_that_learns_from_validations_validates_at_the_same_batches() -> None:
    ground = dataclasses.replace(GROUND, learns_from_validations=True)
    for combination in plan_runs(ground):
        for scenario in (combination.run, *combination.scenarios):
            assert scenario.validation_period is None
    (periods,) = (
        s for c in plan_runs(ground) for s in c.scenarios if s.checkpoint_period is not None
    )
    assert periods.name == ("another checkpoint period (ReduceLROnPlateau learns from validations)")
