from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_run import RecordedRun, train_recorded
from safetensors.torch import load_file
from trials.linear import Linear

from trialrun import CheckpointError, ConfigurationError
from trialrun.compat.determined import pytorch


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    return train_recorded(tmp_path_factory.mktemp("run"), "linear.py", slots=4, max_length="2ba")


def test_a_checkpoint_of_several_slots_is_loaded(run: RecordedRun) -> None:
    trial: Any = pytorch.load_trial_from_checkpoint_path(
        run.latest.path, torch_load_kwargs={"map_location": "cpu", "weights_only": False}
    )
    saved = load_file(Path(run.latest.path) / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in trial.model.state_dict().items())
    assert not trial.model.training


def test_a_class_may_take_more_than_the_context(run: RecordedRun) -> None:
    class Extended(Linear):  # type: ignore[misc]  # test trials are untyped
        def __init__(self, context: Any, note: str) -> None:
            super().__init__(context)
            self.note = note

    trial: Any = pytorch.load_trial_from_checkpoint_path(
        Path(run.latest.path), Extended, trial_kwargs={"note": "given"}
    )
    assert isinstance(trial, Extended)
    assert (trial.note, type(trial).__name__) == ("given", "Extended")


def test_wrong_arguments_are_refused(run: RecordedRun, tmp_path: Path) -> None:
    load = pytorch.load_trial_from_checkpoint_path
    with pytest.raises(
        ConfigurationError, match=r"^trial_kwargs=\{'note': 1\} was given without trial_class=\. G"
    ):
        load(run.latest.path, trial_kwargs={"note": 1})
    with pytest.raises(
        ConfigurationError, match=r"^map_location=\{'cuda:0': 'cpu'\} is of type dic"
    ):
        load(run.latest.path, torch_load_kwargs={"map_location": {"cuda:0": "cpu"}})
    with pytest.raises(
        CheckpointError, match=r"is no whole checkpoint: model\.safetensors is miss"
    ):
        load(tmp_path)  # such as one that Determined wrote
