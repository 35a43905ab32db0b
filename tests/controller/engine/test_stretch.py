"""A stretch of a trial trained again: checkpoints where they are asked for, then it stops."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support import make_spec, resume, run_session

from trialrun.controller.engine.loop import Outcome
from trialrun.controller.engine.schedule import Stretch


@pytest.mark.parametrize("window", [1, 2])
def test_its_checkpoints_are_those_of_a_run_with_other_periods(tmp_path: Path, window: int) -> None:
    spec = make_spec("conv.py", max_length="8ba", aggregation_frequency=window)
    often = make_spec(
        "conv.py", max_length="8ba", aggregation_frequency=window, checkpoint_period="1ba"
    )
    straight = {saved.batches: saved for saved in run_session(often, tmp_path / "a").checkpoints}
    asked = dataclasses.replace(spec, stretch=Stretch(checkpoints=(2, 6)))
    run = run_session(asked, tmp_path / "b")
    assert run.outcome is Outcome.PAUSED
    assert [saved.batches for saved in run.checkpoints] == [2, 6]
    assert [saved.digest for saved in run.checkpoints] == [straight[b].digest for b in (2, 6)]

    later = dataclasses.replace(resume(spec, run), stretch=Stretch(checkpoints=(8,)))
    rest = run_session(later, tmp_path / "c")
    assert rest.outcome is Outcome.COMPLETED
    assert [(s.batches, s.digest) for s in rest.checkpoints] == [(8, straight[8].digest)]
