from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_run import RecordedRun, submit_recorded, train_recorded
from safetensors.torch import load_file
from support import write_trial

from trialrun import BookkeepingError, CheckpointError, ConfigurationError
from trialrun.controller.checkpoints.contents import read_contents
from trialrun.controller.checkpoints.export import export_checkpoint
from trialrun.controller.engine.loop import Outcome
from trialrun.controller.warm_start import describe_warm_start

# With the hyperparameter lr=0 a run keeps the weights with which it began.
TRIAL = """
import torch
from torch import nn
from trials.linear import Linear, records

class Start(Linear):
    def make_model(self):
        layers = {"first": nn.Linear(3, 4), "last": nn.Linear(4, self.hparams.get("classes", 1))}
        if self.hparams.get("renamed"):
            layers["head"] = layers.pop("last")
        return nn.ModuleDict(layers).double()

    def make_optimizer(self):
        lr = self.hparams.get("lr", 0.1)
        return torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.5)

    def set_up(self):
        if self.hparams.get("models", 1) == 2:
            self.context.wrap_model(nn.Linear(1, 1))

    def loss(self, batch):
        inputs, targets = batch
        for layer in self.model.values():
            inputs = layer(inputs)
        return nn.functional.mse_loss(inputs, targets.expand_as(inputs))
"""


@pytest.fixture(scope="module")
def trial_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trial(tmp_path_factory.mktemp("trial"), TRIAL)


@pytest.fixture(scope="module")
def source(trial_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    return train_recorded(tmp_path_factory.mktemp("source"), trial_file, max_length="4ba")


def begin(source: RecordedRun, trial_file: Path | str, **config: Any) -> RecordedRun:
    """Submits in the home of the source."""
    config = {"max_length": "2ba", "from_checkpoint": source.latest.uuid[:8], **config}
    return submit_recorded(source.home.folder.parent, trial_file, **config)


def weights(run: RecordedRun) -> dict[str, torch.Tensor]:
    return load_file(Path(run.latest.path) / "model.safetensors")


@pytest.mark.parametrize("kind", ["uuid", "folder", "export"])
def test_a_run_begins_with_the_weights_and_nothing_else(
    source: RecordedRun, trial_file: Path, tmp_path: Path, kind: str
) -> None:
    where = {"uuid": source.latest.uuid[:8], "folder": source.latest.path}.get(kind)
    if where is None:
        where = str(tmp_path / "exported")
        export_checkpoint(Path(source.latest.path), Path(where))
    frozen = begin(source, trial_file, hyperparameters={"lr": 0.0}, from_checkpoint=where)
    assert frozen.attempt() is Outcome.COMPLETED
    expected = weights(source)
    assert all(torch.equal(value, expected[name]) for name, value in weights(frozen).items())
    contents = read_contents(Path(frozen.latest.path))
    assert contents.state["batches"] == 2
    recorded = source.latest.uuid if kind == "uuid" else where
    assert frozen.experiment.config["from_checkpoint"] == recorded
    assert contents.metadata["from_checkpoint"] == recorded


def test_the_optimizer_begins_anew(source: RecordedRun, trial_file: Path) -> None:
    run = begin(source, trial_file, max_length="1ba", reporting_period="1ba")
    run.attempt()
    state = read_contents(Path(run.latest.path)).state["optimizers"][0]["state"]
    # After the first step of SGD the momentum is the gradient: weight = start - lr * momentum.
    start, now = weights(source), weights(run)
    for place, name in enumerate(["first.weight", "first.bias", "last.weight", "last.bias"]):
        expected = start[name] - 0.1 * state[place]["momentum_buffer"]
        torch.testing.assert_close(now[name], expected, rtol=1e-12, atol=0.0)


def test_a_resumed_attempt_does_not_begin_again(source: RecordedRun, trial_file: Path) -> None:
    straight = begin(source, trial_file, max_length="8ba")
    straight.attempt()
    stopped = begin(source, trial_file, max_length="8ba")
    assert stopped.attempt(stop_upon=("progress", 3)) is Outcome.PAUSED
    shutil.rmtree(Path(stopped.experiment.directory) / "from_checkpoint")
    assert stopped.attempt() is Outcome.COMPLETED
    assert stopped.latest.digest == straight.latest.digest
    cold = train_recorded(source.home.folder.parent, trial_file, max_length="8ba")
    assert cold.latest.digest != straight.latest.digest


def test_an_attempt_that_starts_over_begins_with_the_weights_again(
    trial_file: Path, tmp_path: Path
) -> None:
    source = train_recorded(tmp_path, trial_file, max_length="4ba")
    straight = begin(source, trial_file)
    straight.attempt()
    stopped = begin(source, trial_file)
    stopped.attempt(stop_upon=("progress", 1))
    for row in (*stopped.checkpoints, *source.checkpoints):
        shutil.rmtree(row.path)  # also those that the weights came from
    assert stopped.attempt() is Outcome.COMPLETED
    assert stopped.trial.batches_completed == 2
    assert stopped.latest.digest == straight.latest.digest


def test_one_line_says_what_was_taken(source: RecordedRun, trial_file: Path) -> None:
    run = begin(source, trial_file)
    assert describe_warm_start(run.experiment) == (
        f"weights of checkpoint {source.latest.uuid}, at its batch 4; not taken: its optimizer, "
        "clock, randomness, callbacks and own state"
    )


ADVICE = r"\. A warm start takes all weights or none; with --partial"


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        (
            {"classes": 2},
            r"does not fit model 0: last\.bias is \(2,\) torch\.float64 in the trial and \(1,\) "
            r"torch\.float64 in the checkpoint; last\.weight is \(2, 4\) .* and \(1, 4\) .*"
            + ADVICE,
        ),
        (
            {"renamed": True},
            r"does not fit model 0: head\.bias is missing in the checkpoint; head\.weight is "
            r"missing in the checkpoint; last\.bias is unknown to the trial; and 1 more" + ADVICE,
        ),
        ({"models": 2}, r"^The trial has 2 models, but the checkpoint has 1" + ADVICE),
    ],
)
def test_what_does_not_fit_is_refused_or_left(
    source: RecordedRun,
    trial_file: Path,
    caplog: pytest.LogCaptureFixture,
    hyperparameters: dict[str, Any],
    message: str,
) -> None:
    hyperparameters = {**hyperparameters, "lr": 0.0}
    run = begin(source, trial_file, hyperparameters=hyperparameters)
    with pytest.raises(CheckpointError, match=message):
        run.attempt()
    partial = begin(
        source, trial_file, hyperparameters=hyperparameters, from_checkpoint_partial=True
    )
    assert partial.attempt() is Outcome.COMPLETED
    model = read_contents(Path(partial.latest.path)).models[0]
    assert torch.equal(model["first.weight"], weights(source)["first.weight"])
    fits = "models" in hyperparameters
    assert fits == (
        "last.weight" in model and torch.equal(model["last.weight"], weights(source)["last.weight"])
    )
    assert "Weights that were not taken: " in caplog.text


def test_a_partial_start_of_which_nothing_fits_is_refused(
    source: RecordedRun, tmp_path: Path
) -> None:
    run = begin(source, "gan.py", from_checkpoint_partial=True)
    with pytest.raises(
        CheckpointError, match=r"^Nothing of the checkpoint fits the trial: model 0: "
    ):
        run.attempt()


def test_what_is_no_checkpoint_is_refused_at_submit(
    source: RecordedRun, trial_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        CheckpointError, match=r"^'no/such' is neither a folder nor the UUID of a c"
    ):
        begin(source, trial_file, from_checkpoint="no/such")
    with pytest.raises(BookkeepingError, match=r"^There is no checkpoint 'abcdef'"):
        begin(source, trial_file, from_checkpoint="abcdef")
    with pytest.raises(
        CheckpointError, match=rf"^{tmp_path} holds no weights: a checkpoint, or an"
    ):
        begin(source, trial_file, from_checkpoint=str(tmp_path))
    with pytest.raises(
        ConfigurationError, match=r"^from_checkpoint_partial \(--partial\) says how"
    ):
        begin(source, trial_file, from_checkpoint=None, from_checkpoint_partial=True)


def test_weights_that_are_gone_are_named(source: RecordedRun, trial_file: Path) -> None:
    run = begin(source, trial_file)
    folder = Path(run.experiment.directory) / "from_checkpoint"
    shutil.rmtree(folder)
    with pytest.raises(
        CheckpointError, match=rf"^There is no folder {folder}\. Give the folder of"
    ):
        run.attempt()
    with pytest.raises(
        CheckpointError, match=rf"^{folder}, the weights with which experiment \d+ "
    ):
        describe_warm_start(run.experiment)
