"""Trials and callbacks whose own state decides what an evaluation finds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recorded_run import RecordedRun, train_recorded
from safetensors.torch import load_file
from support import write_trial

import trialrun
from trialrun.controller.checkpoints.export import export_checkpoint
from trialrun.controller.engine.building import Split
from trialrun.controller.engine.parallel.slots import SlotError
from trialrun.controller.inference.evaluating import open_checkpoint

TRIAL = """
from pathlib import Path

import torch
from trials.linear import Linear
from trialrun import Callback

HEARD = Path(__file__).with_name("heard.txt")

def heard(event):
    with HEARD.open("a") as file:
        print(event, file=file)


class Averaging(Linear):
    def set_up(self):
        self.offset = 0.0

    def build_callbacks(self):
        return {"mean": Mean(self), "halves": Halves()}

    def build_training_data_loader(self):
        heard("build training data")
        return super().build_training_data_loader()

    def build_validation_data_loader(self):
        heard("build validation data")
        return super().build_validation_data_loader()

    def train_batch(self, batch, epoch_idx, batch_idx):
        self.offset += 0.125
        return super().train_batch(batch, epoch_idx, batch_idx)

    def evaluate_batch(self, batch, batch_idx):
        if HEARD.with_name("broken").exists():
            raise RuntimeError("broken on purpose")
        return {"loss": self.loss(batch) + self.offset}

    def predict_batch(self, batch, batch_idx):
        return self.model(batch[0])

    def state_dict(self):
        return {"offset": self.offset}

    def load_state_dict(self, state):
        self.offset = state["offset"]


class Mean(Callback):
    "The mean of all weights so far takes their place during a validation."

    def __init__(self, trial):
        self.weight = trial.model.weight
        self.total, self.count = torch.zeros_like(self.weight), 0

    def on_trial_startup(self, first_batch_idx, checkpoint_uuid):
        heard(f"startup at {first_batch_idx}: {checkpoint_uuid}")

    def on_training_batch_end(self, batch_idx):
        self.total += self.weight.detach()
        self.count += 1

    def on_validation_start(self):
        heard("validation start")
        self.kept = self.weight.detach().clone()
        self.weight.data.copy_(self.total / self.count)

    def on_validation_end(self, metrics):
        self.weight.data.copy_(self.kept)

    def on_exception(self, exception):
        heard(f"exception {exception}")

    def on_trial_shutdown(self):
        heard("shutdown")

    def state_dict(self):
        return {"total": self.total.detach(), "count": self.count}

    def load_state_dict(self, state):
        heard("load mean")
        self.total, self.count = state["total"], state["count"]


class Halves(Callback):
    "Checkpoints hold half of every weight."

    def on_checkpoint_save_start(self, checkpoint):
        for tensor in checkpoint["models_state_dict"][0].values():
            tensor /= 2

    def on_checkpoint_load_start(self, checkpoint):
        for tensor in checkpoint["models_state_dict"][0].values():
            tensor *= 2
"""


@pytest.fixture
def averaged(tmp_path: Path) -> RecordedRun:
    run = train_recorded(tmp_path, write_trial(tmp_path, TRIAL))
    (tmp_path / "heard.txt").unlink()
    return run


def test_an_evaluation_finds_what_training_found_and_calls_the_same(
    averaged: RecordedRun, tmp_path: Path
) -> None:
    opened = open_checkpoint(averaged.database, 1, "latest")
    assert opened.inference.evaluate(Split.VALIDATION).metrics == averaged.validation(8)
    assert (tmp_path / "heard.txt").read_text().splitlines() == [
        f"startup at 8: {averaged.latest.uuid}",
        "build training data",
        "build validation data",
        "load mean",
        "validation start",
        "shutdown",
    ]


def test_a_failed_evaluation_is_told_to_the_callbacks(
    averaged: RecordedRun, tmp_path: Path
) -> None:
    (tmp_path / "broken").touch()
    opened = open_checkpoint(averaged.database, 1, "latest")
    with pytest.raises(SlotError):
        opened.inference.evaluate(Split.VALIDATION)
    lines = (tmp_path / "heard.txt").read_text().splitlines()
    assert lines[-2:] == ["exception broken on purpose", "shutdown"]


def test_a_loaded_trial_has_its_own_state_and_what_callbacks_make_of_the_weights(
    averaged: RecordedRun, tmp_path: Path
) -> None:
    trial = trialrun.load_trial(averaged.latest.path)
    assert trial.offset == 16 * 0.125, "8 batches on 2 slots"  # type: ignore[attr-defined]
    saved = load_file(Path(averaged.latest.path) / "model.safetensors")
    assert torch.equal(trial.model.weight, 2 * saved["weight"])  # type: ignore[attr-defined]
    assert not (tmp_path / "heard.txt").exists(), "no event but the load"


def test_an_export_has_the_trials_state_and_the_weights_as_they_are(
    averaged: RecordedRun, tmp_path: Path
) -> None:
    export_checkpoint(Path(averaged.latest.path), tmp_path / "exported")
    trial = trialrun.load_trial(tmp_path / "exported")
    assert trial.offset == 2.0  # type: ignore[attr-defined]
    saved = load_file(tmp_path / "exported" / "model.safetensors")
    assert torch.equal(trial.model.weight, saved["weight"])  # type: ignore[attr-defined]


def test_all_of_the_data_at_once_is_evaluated_as_in_training(tmp_path: Path) -> None:
    source = """
import torch
from trials.linear import Linear

class Whole(Linear):
    evaluate_batch = __import__("trialrun").Trial.evaluate_batch

    def evaluate_full_dataset(self, data_loader):
        losses = [self.loss(batch) for batch in data_loader]
        return {"loss": torch.stack(losses).median(), "noise": torch.rand(())}
"""
    run = train_recorded(tmp_path, write_trial(tmp_path, source), max_length="4ba")
    opened = open_checkpoint(run.database, 1, "latest")
    assert opened.inference.evaluate(Split.VALIDATION).metrics == run.validation(4)


def test_data_is_prepared_before_the_trial_is_made(tmp_path: Path) -> None:
    source = """
from pathlib import Path
from trials.linear import Linear

class Prepared(Linear):
    @classmethod
    def prepare_data(cls, hparams):
        Path(__file__).with_name(f"prepared-{hparams['name']}").touch()

    def set_up(self):
        assert Path(__file__).with_name("prepared-words").exists()
"""
    hparams = {"name": "words"}
    file = write_trial(tmp_path, source)
    run = train_recorded(tmp_path, file, max_length="2ba", hyperparameters=hparams)
    (tmp_path / "prepared-words").unlink()
    trialrun.load_trial(run.latest.path)


def test_a_trial_that_asks_for_a_stop_is_evaluated_to_its_end(tmp_path: Path) -> None:
    source = """
from trials.linear import Linear

class Stopping(Linear):
    def evaluate_batch(self, batch, batch_idx):
        self.context.set_stop_requested(self.context.get_initial_batch() > 0)
        return {"loss": self.loss(batch)}
"""
    run = train_recorded(tmp_path, write_trial(tmp_path, source), max_length="2ba")
    opened = open_checkpoint(run.database, 1, "latest")
    assert opened.inference.evaluate(Split.VALIDATION).metrics == run.validation(2)
