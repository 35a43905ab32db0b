"""The heart: stopped anywhere and resumed, a run ends with the same bits and the same metrics."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from support import Run, make_spec, run_session, run_with_stops

from trialrun.controller.engine.loop import Outcome

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "conv": ("conv.py", {}),
    "conv on 1 slot": ("conv.py", {"slots": 1}),
    # 10 batches are rounded up to 12; epochs of 4 batches.
    "conv, windows of 3": ("conv.py", {"aggregation_frequency": 3, "max_length": "10ba"}),
    "conv, all checkpoints": (
        "conv.py",
        {"validation_period": "2ba", "checkpoint_policy": "all", "step_zero_validation": True},
    ),
    "conv, best checkpoints": (
        "conv.py",
        {"validation_period": "1ba", "checkpoint_policy": "best", "checkpoint_period": "3ba"},
    ),
    "counting": ("counting.py", {}),
    "counting on 1 slot": ("counting.py", {"slots": 1}),
    "gan": ("gan.py", {}),
    "gan on 1 slot": ("gan.py", {"slots": 1}),
    "gan, windows of 2": ("gan.py", {"slots": 3, "aggregation_frequency": 2}),
    "reducing": ("reducing.py", {"slots": 3, "reporting_period": "5ba"}),
    "reducing on 1 slot": ("reducing.py", {"slots": 1, "reporting_period": "5ba"}),
}


@pytest.fixture(scope="module", params=CASES)
def straight(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Run]:
    trial_file, config = CASES[request.param]
    spec = make_spec(trial_file, **config)
    return spec, run_session(spec, tmp_path_factory.mktemp("straight"))


def test_a_straight_run_repeats_itself(straight: tuple[Any, Run], tmp_path: Path) -> None:
    spec, run = straight
    assert run.outcome is Outcome.COMPLETED
    assert run_session(spec, tmp_path).reported == run.reported
    # Every batch taught it something, and every report says something else.
    assert len({repr(report) for report in run.training}) == len(run.training) > 1


def test_stop_at_every_batch_equals_straight_run(straight: tuple[Any, Run], tmp_path: Path) -> None:
    """A stop upon each thing that happens: a batch, a report, a validation that it cuts off."""
    spec, run = straight
    stopped_at = set()
    for number, event in enumerate(run.events):
        folder = tmp_path / str(number)
        stopped = run_with_stops(spec, folder, [event])
        assert stopped.reported == run.reported, event
        assert stopped.outcome is Outcome.COMPLETED
        stopped_at |= {saved.batches for saved in stopped.checkpoints}
    window = spec.config.aggregation_frequency
    assert set(range(2 * window, run.batches + 1, window)) <= stopped_at


def test_stop_after_each_batch_in_a_row_equals_straight_run(
    straight: tuple[Any, Run], tmp_path: Path
) -> None:
    spec, run = straight
    stops = [event for event in run.events if event[0] == "progress"]
    stopped = run_with_stops(spec, tmp_path, stops)
    assert stopped.reported == run.reported


def test_another_seed_is_another_run(straight: tuple[Any, Run], tmp_path: Path) -> None:
    spec, run = straight
    other = dataclasses.replace(spec, seed=8)
    assert run_session(other, tmp_path).digest != run.digest
