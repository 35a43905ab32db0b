from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # noqa: F401  # loaded by the first optimizer, it makes a folder in tempdir
from linear_trials import linear_spec
from support import make_spec, run_session, write_trial

from trialrun import CheckpointError, InvalidTrialError
from trialrun.controller.engine.parallel.collectives import SingleProcess
from trialrun.controller.engine.rehearsal import rehearse


def rehearsed(spec: Any) -> None:
    rehearse(spec, SingleProcess(), torch.device("cpu"))


@pytest.mark.parametrize("trial_file", ["conv.py", "gan.py", "reducing.py"])
@pytest.mark.parametrize("aggregation_frequency", [1, 3])
def test_a_trial_that_resumes_exactly_passes_and_leaves_nothing_behind(
    trial_file: str, aggregation_frequency: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rehearsed(make_spec(trial_file, aggregation_frequency=aggregation_frequency))
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_ends_itself_at_its_first_report_passes(tmp_path: Path) -> None:
    path = write_trial(
        tmp_path,
        """
        from trialrun import Callback
        from trials.linear import Linear

        class Content(Callback):
            def __init__(self, context):
                self.context = context

            def on_training_workload_end(self, avg_metrics, batch_metrics):
                self.context.set_stop_requested(True)

        class Ending(Linear):
            def build_callbacks(self):
                return {"content": Content(self.context)}
        """,
    )
    rehearsed(make_spec(path))


def test_a_trial_that_keeps_state_of_its_own_is_found_out(tmp_path: Path) -> None:
    path = write_trial(
        tmp_path,
        """
        from trials.linear import Linear

        class Remembering(Linear):
            def set_up(self):
                self.factor = 1.0

            def loss(self, batch):
                self.factor += 0.1
                return self.factor * super().loss(batch)
        """,
    )
    with pytest.raises(CheckpointError) as caught:
        rehearsed(make_spec(path))
    text = str(caught.value)
    assert text.startswith("The trial does not resume exactly: 2 batches give the digest ")
    assert "The first tensor that differs is model.0.bias (" in text
    assert text.endswith(
        "in the last place apart. Usual causes: the trial keeps state of its own from batch to "
        "batch, draws from a generator of its own, or reads the time."
    )


STEP = "    self.context.backward(loss)\n    self.context.step_optimizer(self.optimizer)"


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "backward(loss)",
            "train_batch did not call context.step_optimizer, so nothing was learned in {n} "
            f"batches. Write in train_batch:\n{STEP}\nTo step at every n-th batch, set "
            "aggregation_frequency to n.",
        ),
        (
            "step_optimizer(self.optimizer)",
            "Optimizers were stepped, but no parameter of theirs had a gradient, so nothing was "
            "learned in {n} batches. Write in train_batch, with a loss that depends on the wrapped "
            f"models:\n{STEP}",
        ),
    ],
)
def test_a_trial_that_learns_nothing_is_told_what_to_write(
    tmp_path: Path, slots: int, call: str, message: str
) -> None:
    source = f"""
class Idle(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        loss = self.loss(batch)
        self.context.{call}
        return {{"loss": loss}}
"""
    spec = linear_spec(tmp_path, source, slots=slots, aggregation_frequency=2)
    with pytest.raises(InvalidTrialError) as caught:
        rehearsed(spec)
    assert str(caught.value) == message.format(n=4)


@pytest.mark.parametrize("max_length", ["99ba", "100ba"])
def test_training_without_a_step_ends_when_no_reason_is_left_for_it(
    tmp_path: Path, max_length: str
) -> None:
    source = """
class Idle(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        return {"loss": self.loss(batch)}
"""
    spec = linear_spec(tmp_path, source, slots=1, max_length=max_length)
    if max_length == "99ba":
        run_session(spec, tmp_path / "checkpoints")
        return
    with pytest.raises(InvalidTrialError, match="nothing was learned in 100 batches"):
        run_session(spec, tmp_path / "checkpoints")


def test_a_trial_that_steps_by_itself_on_one_slot_has_learned(tmp_path: Path) -> None:
    source = """
class Direct(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss}
"""
    rehearsed(linear_spec(tmp_path, source, slots=1))
