from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialrun import Batch, Epoch, Time
from trialrun.controller.config import CheckpointPolicy
from trialrun.controller.engine import schedule
from trialrun.controller.engine.schedule import (
    BoundaryWishes,
    Event,
    Plan,
    Stopwatch,
    Stretch,
)
from trialrun.controller.engine.stopping import StopRequest


def new_plan(**values: Any) -> Plan:
    defaults = {
        "global_batch_size": 8,
        "epoch_length": 5,
        "window": 1,
        "max_length": Batch(20),
        "reporting_period": Batch(4),
        "validation_period": Epoch(1),
        "checkpoint_period": None,
        "checkpoint_policy": CheckpointPolicy.NONE,
        "step_zero_validation": False,
    }
    return Plan(**{**defaults, **values})


def due_batches(plan: Plan, unit: Any, stop: int, span: int = 1) -> list[int]:
    return [batch for batch in range(stop) if plan.is_due(unit, batch, span)]


def test_a_period_is_due_at_its_multiples_and_not_at_the_start() -> None:
    plan = new_plan()
    assert due_batches(plan, Batch(4), 14) == [4, 8, 12]
    assert due_batches(plan, Epoch(2), 21) == [10, 20]
    assert due_batches(plan, None, 20) == []
    assert due_batches(plan, Time(1), 20) == []


def test_what_falls_due_within_a_window_is_due_at_its_end() -> None:
    plan = new_plan(window=3)
    ends = [batch for batch in range(0, 31, 3) if plan.is_due(Batch(5), batch, span=3)]
    # Multiples 5, 10, 15, 20, 25, 30 lie in the windows that end there.
    assert ends == [6, 12, 15, 21, 27, 30]


@pytest.mark.parametrize(
    ("length", "window", "batches"),
    [
        (Batch(20), 1, 20),
        (Batch(20), 3, 21),
        (Batch(1), 4, 4),
        (Epoch(2), 1, 10),
        (Epoch(2), 4, 12),
        (Time(60), 3, None),
    ],
)
def test_a_length_is_rounded_up_to_whole_windows(
    length: Any, window: int, batches: int | None
) -> None:
    assert new_plan(max_length=length, window=window).total_batches == batches


periods = st.one_of(st.none(), st.builds(Batch, st.integers(1, 9)), st.builds(Epoch, st.just(1)))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    window=st.integers(1, 5),
    total=st.integers(1, 25),
    reporting=st.one_of(st.builds(Batch, st.integers(1, 9)), st.just(Time(1))),
    validation=periods,
    checkpoint=periods,
)
def test_the_next_boundary_is_the_first_batch_at_which_anything_is_due(
    window: int, total: int, reporting: Any, validation: Any, checkpoint: Any
) -> None:
    plan = new_plan(
        window=window,
        max_length=Batch(total),
        reporting_period=reporting,
        validation_period=validation,
        checkpoint_period=checkpoint,
    )
    end = plan.total_batches
    assert end is not None

    def is_boundary(batch: int) -> bool:
        at_window_end = batch % window == 0
        return (
            batch == end
            or plan.is_due(reporting, batch)
            or (at_window_end and plan.is_due(validation, batch, window))
            or (at_window_end and plan.is_due(checkpoint, batch, window))
        )

    for completed in range(end):
        following = next(b for b in range(completed + 1, end + 1) if is_boundary(b))
        assert plan.next_boundary(completed) == following


@settings(deadline=None, max_examples=100, derandomize=True)
@given(window=st.integers(1, 5), total=st.integers(1, 25), period=st.integers(1, 9))
def test_the_count_is_what_the_loop_does(window: int, total: int, period: int) -> None:
    plan = new_plan(window=window, max_length=Batch(total), validation_period=Batch(period))
    end = plan.total_batches
    assert end is not None
    done = {b for b in range(window, end + 1, window) if plan.is_due(Batch(period), b, window)}
    assert plan.count(plan.validation_period) == len(done | {end})


def test_a_plan_without_end_or_period_has_a_boundary_all_the_same() -> None:
    plan = new_plan(max_length=Time(5), reporting_period=Time(1), validation_period=None)
    assert plan.next_boundary(3) > 10**9


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"max_length": Epoch(4), "checkpoint_period": Epoch(2)},
            "4 epochs x 5 batches = 20 batches, 4 validations, 2 checkpoints",
        ),
        (
            {"max_length": Epoch(1), "epoch_length": 1, "checkpoint_period": Batch(1)},
            "1 epoch x 1 batch = 1 batch, 1 validation, 1 checkpoint",
        ),
        ({"max_length": Batch(3)}, "3 batches, epochs of 5, 1 validation, 1 checkpoint"),
        (
            {"max_length": Batch(7), "validation_period": None, "step_zero_validation": True},
            "7 batches, epochs of 5, 2 validations, 1 checkpoint",
        ),
        (
            {"max_length": Batch(10), "window": 4, "validation_period": Batch(1)},
            "12 batches, epochs of 5, 3 validations, 1 checkpoint",
        ),
        (
            {"max_length": Time(7200), "checkpoint_period": Time(600)},
            "2h of training, epochs of 5 batches, a validation every 1ep, a checkpoint every 10min",
        ),
        (
            {"max_length": Time(60), "validation_period": None},
            "1min of training, epochs of 5 batches, a validation at the end, a checkpoint at the "
            "end",
        ),
        (
            {"max_length": Batch(5), "checkpoint_period": Time(90)},
            "1 epoch x 5 batches = 5 batches, 1 validation, a checkpoint every 90s",
        ),
    ],
)
def test_a_plan_reads_as_people_speak(values: dict[str, Any], text: str) -> None:
    assert new_plan(**values).describe() == text


@pytest.mark.parametrize(
    ("policy", "values", "text"),
    [
        # Validations at 5, 10, 15, 20, checkpoints at 10, 20.
        ("none", {"checkpoint_period": Batch(10)}, "2 checkpoints"),
        ("best", {"checkpoint_period": Batch(10)}, "at least 2 checkpoints"),
        ("all", {"checkpoint_period": Batch(10)}, "4 checkpoints"),
        # Checkpoints at 4, 8, 12, 16, 20.
        ("all", {"checkpoint_period": Batch(4)}, "8 checkpoints"),
        ("best", {"checkpoint_period": Epoch(1)}, "4 checkpoints"),
        ("best", {"checkpoint_period": Batch(1)}, "20 checkpoints"),
        ("best", {}, "at least 1 checkpoint"),
        ("all", {}, "4 checkpoints"),
        ("best", {"validation_period": None}, "1 checkpoint"),
        ("all", {"validation_period": None, "step_zero_validation": True}, "2 checkpoints"),
        ("best", {"step_zero_validation": True}, "at least 1 checkpoint"),
        # Windows of 2 end at 2, 4, ..., 20: validations at 6, 10, 16, 20, checkpoints at 8, 14, 20.
        ("all", {"window": 2, "checkpoint_period": Batch(7)}, "at least 3 checkpoints"),
        ("all", {"window": 2, "checkpoint_period": Batch(1)}, "10 checkpoints"),
        ("best", {"checkpoint_period": Time(60)}, "at least a checkpoint every 1min"),
        ("all", {"validation_period": Time(60)}, "at least 1 checkpoint"),
    ],
)
def test_a_plan_promises_no_fewer_checkpoints_than_its_policy_takes(
    policy: str, values: dict[str, Any], text: str
) -> None:
    plan = new_plan(checkpoint_policy=CheckpointPolicy(policy), **values)
    assert plan.describe().rpartition(", ")[2] == text


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    length=st.integers(1, 40),
    window=st.integers(1, 4),
    periods=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    zeroth=st.booleans(),
)
def test_a_checkpoint_at_every_validation_is_counted_once(
    length: int, window: int, periods: tuple[int, int], zeroth: bool
) -> None:
    plan = new_plan(
        max_length=Batch(length),
        window=window,
        validation_period=Batch(periods[0]),
        checkpoint_period=Batch(periods[1]),
        checkpoint_policy=CheckpointPolicy.ALL,
        step_zero_validation=zeroth,
    )
    end = plan.total_batches
    assert end is not None
    taken = {end, *([0] if zeroth else [])}
    for batch in range(window, end, window):
        if any(plan.is_due(Batch(period), batch, window) for period in periods):
            taken.add(batch)
    *_, words = plan.describe().split(", ")
    number = int(words.removeprefix("at least ").split()[0])
    assert number <= len(taken) if words.startswith("at least") else number == len(taken)
    assert window > 1 or not words.startswith("at least")


def test_a_plan_is_recorded_with_its_units() -> None:
    assert new_plan().to_json() == {
        "global_batch_size": 8,
        "epoch_length": 5,
        "total_batches": 20,
        "description": "4 epochs x 5 batches = 20 batches, 4 validations, 1 checkpoint",
        "max_length": "20ba",
        "reporting_period": "4ba",
        "validation_period": "1ep",
        "checkpoint_period": None,
    }


# Lengths and periods in time.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A watch that shows what the test says."""
    now = [1000.0]
    monkeypatch.setattr(schedule, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_time_is_added_up_over_attempts(clock: list[float]) -> None:
    watch = Stopwatch(new_plan(max_length=Time(10)))
    watch.load_state_dict({"elapsed_seconds": 7.0, "last": {}})
    assert (watch.elapsed_seconds, watch.is_due(Event.END)) == (7.0, False)
    clock[0] += 3
    assert (watch.elapsed_seconds, watch.is_due(Event.END)) == (10.0, True)


def test_a_period_in_time_starts_anew_when_it_happened(clock: list[float]) -> None:
    plan = new_plan(validation_period=Time(5), checkpoint_period=Time(8))
    watch = Stopwatch(plan)
    watch.load_state_dict({"elapsed_seconds": 3.0, "last": {}})
    assert watch.events == [Event.VALIDATION, Event.CHECKPOINT]
    clock[0] += 5
    assert watch.is_due(Event.VALIDATION)
    assert not watch.is_due(Event.CHECKPOINT)
    watch.happened(Event.VALIDATION)
    assert not watch.is_due(Event.VALIDATION)
    clock[0] += 5
    assert watch.is_due(Event.VALIDATION)
    assert watch.is_due(Event.CHECKPOINT)


def test_what_has_no_time_never_looks_at_the_watch(clock: list[float]) -> None:
    watch = Stopwatch(new_plan())
    clock[0] += 1e9
    watch.happened(Event.REPORT)
    assert watch.events == []
    assert not any(watch.is_due(event) for event in Event)


def test_a_process_wishes_what_it_was_asked_and_the_chief_what_is_due(clock: list[float]) -> None:
    stop = StopRequest()
    watch = Stopwatch(new_plan(max_length=Time(10), reporting_period=Time(4)))
    chief, other = BoundaryWishes(stop, watch), BoundaryWishes(stop, None)
    assert chief() == other() == [0, 0, 0, 0, 0, 0]
    clock[0] += 10
    assert chief() == [0, 1, 0, 1, 0, 0]
    stop.set()
    assert other() == [1, 0, 0, 0, 0, 0]
    assert other.from_outside() == [1, 0, 0, 0, 0, 0]


def test_the_trial_itself_wishes_its_end_which_does_not_come_from_outside() -> None:
    stop = StopRequest()
    wishes = BoundaryWishes(stop, None)
    stop.set_slot(2, True)
    assert wishes() == [0, 0, 1, 0, 0, 0]
    assert wishes.from_outside() == [0, 0, 0, 0, 0, 0]
    stop.set_slot(2, False)
    assert wishes() == [0, 0, 0, 0, 0, 0]


def test_a_period_in_time_goes_on_over_short_attempts(clock: list[float]) -> None:
    plan = new_plan(validation_period=Time(60))
    watch = Stopwatch(plan)
    clock[0] += 50
    assert not watch.is_due(Event.VALIDATION)
    later = Stopwatch(plan)
    later.load_state_dict(watch.state_dict())
    clock[0] += 9
    assert not later.is_due(Event.VALIDATION)
    clock[0] += 1
    assert later.is_due(Event.VALIDATION)
    later.happened(Event.VALIDATION)
    assert not later.is_due(Event.VALIDATION)


def test_a_stretch_has_boundaries_of_its_own_and_ends_at_the_last() -> None:
    plan = new_plan(stretch=Stretch(checkpoints=(7, 12, 13)))
    assert plan.stretch is not None and plan.stretch.end == 13
    unstretched = new_plan()
    for clock in range(13):
        own = next(batch for batch in (7, 12, 13) if batch > clock)
        assert plan.next_boundary(clock) == min(own, unstretched.next_boundary(clock))
    assert plan.next_boundary(13) == unstretched.next_boundary(13)
    assert plan.to_json() == unstretched.to_json()
