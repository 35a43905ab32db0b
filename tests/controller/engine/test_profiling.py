"""One profiler for the attempt: stepped after every batch, with the operations of all slots."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import make_spec, new_session, run_session, write_trial

from trialrun import InvalidTrialError

PROFILED = """
import torch
from trials.linear import Linear


class Profiled(Linear):
    def set_up(self):
        self.context.set_profiler(
            activities=[torch.profiler.ProfilerActivity.CPU],
            schedule=torch.profiler.schedule(wait=1, warmup=1, active=2, repeat=2),
        )
"""


def traces(folder: Path) -> list[list[dict[str, Any]]]:
    """Returns the events of each trace file, the earliest trace first."""
    events = [
        json.loads(path.read_text())["traceEvents"] for path in folder.glob("*.pt.trace.json")
    ]
    return sorted(events, key=lambda trace: min(event["ts"] for event in trace if "ts" in event))


@pytest.mark.parametrize("slots", [1, 3])
def test_all_slots_are_in_the_trace_of_the_batches_that_were_asked_for(
    slots: int, tmp_path: Path
) -> None:
    spec = make_spec(write_trial(tmp_path, PROFILED), slots=slots, validation_period=None)
    spec = dataclasses.replace(spec, tensorboard=tmp_path / "events")
    run_session(spec, tmp_path / "run")
    found = traces(tmp_path / "events")
    assert len(found) == 2
    for trace, batches in zip(found, ((2, 3), (6, 7)), strict=True):
        names = {event["name"] for event in trace if event["name"].startswith("ProfilerStep#")}
        assert names == {f"ProfilerStep#{batch}" for batch in batches}
        losses = [event["tid"] for event in trace if event["name"] == "aten::mse_loss"]
        # One in each batch and slot, which has a thread of its own.
        assert len(losses) == 2 * slots
        assert len(set(losses)) == slots


def test_after_training_began_no_profiler_is_set() -> None:
    session = new_session(make_spec("linear.py"))
    context = session._execution._context
    with pytest.raises(InvalidTrialError) as caught:
        context.set_profiler()
    assert str(caught.value) == (
        "set_profiler was called after training began. Call it in the trial's __init__."
    )
    session._execution.close()


def test_an_unknown_argument_is_refused_where_it_is_given(tmp_path: Path) -> None:
    source = PROFILED.replace("activities=", "activity=")
    spec = make_spec(write_trial(tmp_path, source))
    with pytest.raises(TypeError, match="activity"):
        new_session(dataclasses.replace(spec, tensorboard=tmp_path))


def test_the_profiler_may_bring_its_own_handler(tmp_path: Path) -> None:
    source = PROFILED.replace(
        "schedule=", "on_trace_ready=lambda made: self.seen.append(made.step_num), schedule="
    ).replace("def set_up(self):", "def set_up(self):\n        self.seen = []")
    spec = make_spec(write_trial(tmp_path, source), validation_period=None)
    session = new_session(dataclasses.replace(spec, tensorboard=tmp_path / "events"))
    session.run()
    assert session._execution._trial.seen == [4, 8]
    assert not (tmp_path / "events").exists()
    assert torch.profiler.profile is type(session._execution._context.profiler)
