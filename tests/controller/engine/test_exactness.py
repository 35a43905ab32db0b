"""State that is easily forgotten: each of these once made a resumed run another one."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from support import make_spec, new_session, resume, run_session, run_with_stops, write_trial

from trialrun import CheckpointError, InvalidTrialError
from trialrun.controller.engine.session import TrialSpec

HEAD = """
import math
import torch
from torch import nn
from torch.utils.data import TensorDataset
from trials.linear import Linear
from trialrun import DataLoader

"""


def spec_of(folder: Path, source: str, **config: Any) -> TrialSpec:
    return make_spec(write_trial(folder, HEAD + source), **config)


# What must not matter.


def test_metrics_are_what_they_were_when_they_were_returned(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path,
        """
class Adding(Linear):
    def set_up(self):
        self.total = torch.zeros((), dtype=torch.float64)

    def train_batch(self, batch, epoch_idx, batch_idx):
        super().train_batch(batch, epoch_idx, batch_idx)
        self.total += 1
        return {"total": self.total, "weight": self.model.bias}
""",
        slots=1,
        max_length="3ba",
    )
    run = run_session(spec, tmp_path / "checkpoints")
    assert run.training[0][2]["total"] == 2.0  # the mean of 1, 2 and 3


def test_an_optimizer_stepped_directly_is_refused(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path,
        """
class Direct(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        self.loss(batch).backward()
        self.optimizer.step()
        return {}
""",
    )
    message = (
        "SGD.step() was called directly. With 2 slots it would step with one slot's gradients "
        "alone. Call context.step_optimizer(optimizer)."
    )
    with pytest.raises(InvalidTrialError, match=f"^{re.escape(message)}$"):
        run_session(spec, tmp_path / "checkpoints")


def test_the_final_checkpoint_knows_the_final_report(tmp_path: Path) -> None:
    spec = make_spec("conv.py", max_length="8ba", reporting_period="3ba", checkpoint_period="4ba")
    run = run_session(spec, tmp_path)
    assert run.checkpoints[-1].batches == run.training[-1][0] == 8
    assert run.checkpoints[-1].contents.metadata["training_metrics"] == run.training[-1][2]


def test_frozen_parameters_and_eval_modules_stay_so_after_a_resume(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path,
        """
class Freezing(Linear):
    def make_model(self):
        return nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5), nn.Linear(2, 1)).double()

    def train_batch(self, batch, epoch_idx, batch_idx):
        if batch_idx == 1 and self.context.slot == 0:
            self.model[0].weight.requires_grad_(False)
            self.model[1].eval()
        return super().train_batch(batch, epoch_idx, batch_idx)
""",
        slots=1,
    )
    straight = run_session(spec, tmp_path / "straight")
    stopped = run_with_stops(spec, tmp_path / "stopped", [("progress", 3)])
    assert stopped.reported == straight.reported


def test_an_optimizer_over_parameters_in_another_order_is_refused(tmp_path: Path) -> None:
    source = """
class Ordered(Linear):
    def make_model(self):
        return nn.ModuleDict({name: nn.Linear(3, 1).double() for name in "ab"})

    def make_optimizer(self):
        order = self.context.get_hparams().get("order", "ab")
        return torch.optim.Adam([self.model[name].weight for name in order])

    def loss(self, batch):
        inputs, targets = batch
        outputs = self.model["a"](inputs) * self.model["b"](inputs)
        return nn.functional.mse_loss(outputs, targets)
"""
    spec = spec_of(tmp_path, source)
    run = run_session(spec, tmp_path / "checkpoints", stop_upon=("progress", 2))
    other = dataclasses.replace(
        resume(spec, run),
        config=spec.config.model_copy(update={"hyperparameters": {"order": "ba"}}),
    )
    message = "Parameter 0 of optimizer 0 was model 0 a.weight and is now model 0 b.weight. "
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}"):
        new_session(other)


def test_optimizer_state_keeps_its_types(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path,
        """
class Nesterov(Linear):
    def make_optimizer(self):
        return torch.optim.NAdam(self.model.parameters(), lr=0.01)
""",
    )
    straight = run_session(spec, tmp_path / "straight")
    stopped = run_with_stops(spec, tmp_path / "stopped", [("progress", 3)])
    assert stopped.reported == straight.reported
