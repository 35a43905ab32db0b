"""context.backward has the arguments of torch's backward, with their meaning, on any slots."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from linear_trials import linear_spec, run_linear
from support import Run, run_session, run_with_stops
from torch import nn

PENALIZED = """
class Penalized(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        loss = self.loss(batch)
        self.context.backward(loss, create_graph=True)
        penalty = sum(parameter.grad.square().sum() for parameter in self.model.parameters())
        self.context.backward(0.1 * penalty)
        self.context.step_optimizer(self.optimizer)
        return {"loss": loss, "penalty": penalty}
"""


def weights(run: Run) -> torch.Tensor:
    return run.checkpoints[-1].contents.models[0]["weight"]


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_a_penalty_on_gradients_is_that_of_each_slot(tmp_path: Path, slots: int) -> None:
    spec = linear_spec(tmp_path, PENALIZED, slots=slots, max_length="1ba", validation_period=None)
    run = run_session(spec, tmp_path / "run")
    # As a plain loop computes it: every slot its own penalty, the gradients averaged.
    source = """
class Initial(Linear):
    seen = []

    def train_batch(self, batch, epoch_idx, batch_idx):
        weight, bias = (p.detach().clone() for p in self.model.parameters())
        self.seen.append((batch, weight, bias))
        return super().train_batch(batch, epoch_idx, batch_idx)
"""
    folder = tmp_path / "initial"
    folder.mkdir()
    _, trial = run_linear(folder, source, slots=slots, max_length="1ba", validation_period=None)
    gradients = []
    for (inputs, targets), weight, bias in trial.seen:
        leaves = [weight.requires_grad_(), bias.requires_grad_()]
        loss = nn.functional.mse_loss(nn.functional.linear(inputs, weight, bias), targets)
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        penalty = 0.1 * sum(gradient.square().sum() for gradient in first)
        gradients.append(first[0] + torch.autograd.grad(penalty, leaves)[0])
    assert len(gradients) == slots
    expected = trial.seen[0][1] - 0.1 * torch.stack(gradients).mean(dim=0)
    torch.testing.assert_close(weights(run), expected.detach())


@pytest.mark.parametrize("slots", [1, 2])
def test_gradients_with_a_graph_that_no_step_took_are_saved(tmp_path: Path, slots: int) -> None:
    source = """
class Left(Linear):
    def set_up(self):
        self.other = self.context.wrap_model(nn.Linear(3, 1).double())

    def train_batch(self, batch, epoch_idx, batch_idx):
        loss = self.loss(batch) + self.other(batch[0]).square().mean()
        self.context.backward(loss, create_graph=True)
        self.context.step_optimizer(self.optimizer)
        return {"loss": loss, "left": self.other.weight.grad.sum()}
"""
    spec = linear_spec(tmp_path, source, slots=slots, max_length="4ba")
    straight = run_session(spec, tmp_path / "straight")
    stopped = run_with_stops(spec, tmp_path / "stopped", [("progress", 2)])
    assert stopped.reported == straight.reported


INPUTS = """
class Inputs(Linear):
    seen = []

    def set_up(self):
        AMP
        self.head = self.context.wrap_model(nn.Linear(1, 1))
        self.second = self.context.wrap_optimizer(torch.optim.SGD(self.head.parameters(), lr=0.1))

    def make_model(self):
        return nn.Linear(3, 1)

    def train_batch(self, batch, epoch_idx, batch_idx):
        inputs = batch[0].float().requires_grad_()
        loss = self.head(self.model(inputs)).float().square().mean()
        model, head = self.model, self.head
        self.context.backward(loss, retain_graph=True, inputs=list(model.parameters()))
        assert model.bias.grad is not None and head.weight.grad is inputs.grad is None
        self.context.backward(loss, retain_graph=True, inputs=inputs)
        assert head.weight.grad is None
        self.context.backward(loss, inputs=head.weight)
        assert head.weight.grad is not None and head.bias.grad is None
        self.context.step_optimizer(self.optimizer)
        self.seen.append(inputs.grad.abs().max().item())
        self.context.step_optimizer(self.second)
        return {"loss": loss}

    def evaluate_batch(self, batch, batch_idx):
        return {"loss": self.head(self.model(batch[0].float())).square().mean()}
"""


@pytest.mark.parametrize("slots", [1, 2])
def test_gradients_of_some_leaves_alone(tmp_path: Path, slots: int) -> None:
    source = INPUTS.replace("AMP", "pass")
    _, trial = run_linear(tmp_path, source, slots=slots, max_length="3ba")
    assert len(trial.seen) == 3 * slots  # and each time what the trial asserts


def test_with_a_scaler_gradients_of_all_leaves_are_scaled(tmp_path: Path) -> None:
    amp = "self.context.experimental.use_amp(torch.float16, torch.amp.GradScaler('cpu', 2.0**8))"
    seen = []
    for name, source in (("plain", "pass"), ("scaled", amp)):
        folder = tmp_path / name
        folder.mkdir()
        _, trial = run_linear(folder, INPUTS.replace("AMP", source), slots=1, max_length="1ba")
        seen += trial.seen
    assert seen[1] == pytest.approx(2.0**8 * seen[0], rel=0.02)


def test_without_retain_graph_a_graph_is_gone(tmp_path: Path) -> None:
    source = PENALIZED.replace("create_graph=True", "retain_graph=False").replace(
        "0.1 * penalty", "loss"
    )
    spec = linear_spec(tmp_path, source)
    with pytest.raises(Exception, match="slot 0") as caught:
        run_session(spec, tmp_path / "c")
    assert "backward through the graph a second time" in str(caught.value.__cause__)


def test_a_loss_of_several_numbers_takes_a_gradient(tmp_path: Path) -> None:
    source = """
class Several(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        losses = (self.model(batch[0]) - batch[1]).square()
        GRADIENT
        self.context.step_optimizer(self.optimizer)
        return {"loss": losses.mean()}
"""
    runs = []
    for name, call in (
        ("vector", "self.context.backward(losses, gradient=torch.full_like(losses, 0.5))"),
        ("mean", "self.context.backward(losses.sum() * 0.5)"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        runs.append(run_linear(folder, source.replace("GRADIENT", call), max_length="2ba")[0])
    torch.testing.assert_close(weights(runs[0]), weights(runs[1]))
