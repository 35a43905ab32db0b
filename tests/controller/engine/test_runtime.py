"""What a trial is told of its run reaches it, in a run and in a rehearsal."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest
import torch
from support import make_spec, new_session

from trialrun.controller.engine.parallel.collectives import SingleProcess
from trialrun.controller.engine.rehearsal import rehearse


def test_a_trial_is_told_of_its_experiment(tmp_path: Path) -> None:
    spec = dataclasses.replace(
        make_spec("linear.py", name="told", hyperparameters={"num_records": 9}),
        metadata={"experiment": 12, "trial": 34},
        tensorboard=tmp_path,
    )
    session = new_session(spec)
    context = session._execution._context
    assert (context.get_experiment_id(), context.get_trial_id()) == (12, 34)
    assert context.get_experiment_config() == spec.config.to_json()
    assert context.get_experiment_config()["hyperparameters"] == {"num_records": 9}
    assert context.get_tensorboard_path() == tmp_path
    session._execution.close()


def test_a_rehearsal_leaves_no_events_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spec = make_spec("logged.py", hyperparameters={"writes": True})
    rehearse(spec, SingleProcess(), torch.device("cpu"))
    assert list(tmp_path.iterdir()) == []
