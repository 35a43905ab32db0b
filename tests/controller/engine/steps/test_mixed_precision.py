"""Automatic mixed precision: what runs under autocast, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from linear_trials import linear_spec, refusal, run_linear
from support import make_spec, run_session, run_with_stops

from trialrun._wrapped import AutomaticAmp
from trialrun.controller.engine.steps.mixed_precision import MixedPrecision
from trialrun.controller.trial_file import load_trial_class

CPU = torch.device("cpu")


def test_calls_run_under_autocast_without_its_cache_and_may_be_nested() -> None:
    precision = MixedPrecision(AutomaticAmp(dtype=torch.float16, scaler=None), CPU)

    def seen() -> tuple[bool, torch.dtype, bool]:
        return (
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
        )

    def suspended() -> list[Any]:
        before = seen()
        with precision.suspended():
            inside = torch.is_autocast_enabled("cpu")
            again = precision.around(seen)()
        return [before, inside, again, seen()]

    under = (True, torch.float16, False)
    assert precision.around(suspended)() == [under, False, under, under]
    assert seen()[::2] == (False, True)
    loss = torch.ones(())
    assert precision.scaled(loss) is loss


SEEN = """
class Seen(Linear):
    seen = []

    def make_model(self):
        self.context.experimental.use_amp(DTYPE)
        return nn.Linear(3, 1)

    def loss(self, batch):
        inputs, targets = (tensor.float() for tensor in batch)
        outputs = self.model(inputs)
        outputs.register_hook(lambda gradient: self.note("backward", gradient))
        self.note("forward", outputs)
        return nn.functional.mse_loss(outputs, targets)

    def train_batch(self, batch, epoch_idx, batch_idx):
        loss = self.loss(batch)
        self.context.backward(loss)
        self.note("gradient", self.model.weight.grad)
        self.context.step_optimizer(self.optimizer, clip_grads=self.clip)
        self.note("after", self.model(torch.ones(1, 3)))
        assert type(self.model) is nn.Linear
        return {"loss": loss}

    def evaluate_batch(self, batch, batch_idx):
        inputs, targets = (tensor.float() for tensor in batch)
        outputs = self.model(inputs)
        self.note("evaluation", outputs)
        return {"loss": nn.functional.mse_loss(outputs, targets)}

    def clip(self, parameters):
        (gradient, _) = (parameter.grad for parameter in parameters)
        self.note("clip", gradient)

    def note(self, place, tensor):
        enabled = torch.is_autocast_enabled("cpu")
        self.seen.append((place, tensor.dtype, enabled, tensor.abs().max().item()))
"""


@pytest.mark.parametrize(
    "argument, dtype, scale",
    [
        ("", torch.bfloat16, 1.0),
        (
            "torch.float16, torch.amp.GradScaler('cpu', init_scale=2.0**8)",
            torch.float16,
            2.0**8,
        ),
    ],
)
@pytest.mark.parametrize("slots", [1, 3])
def test_forward_passes_are_cast_and_nothing_else(
    tmp_path: Path, argument: str, dtype: torch.dtype, scale: float, slots: int
) -> None:
    source = SEEN.replace("DTYPE", argument)
    run, trial = run_linear(
        tmp_path, source, slots=slots, max_length="1ba", validation_period="1ba"
    )
    kinds = {(place, found, enabled) for place, found, enabled, _ in trial.seen}
    assert kinds == {
        ("forward", dtype, True),
        ("backward", dtype, False),
        ("gradient", torch.float32, True),
        ("clip", torch.float32, False),
        ("after", dtype, True),
        ("evaluation", dtype, True),
    }
    largest = {place: max(v for p, *_, v in trial.seen if p == place) for place, *_ in kinds}
    # The gradients are scaled until they are summed.
    assert 0.1 < largest["gradient"] / scale / largest["clip"] < 10
    metrics = run.training[0][2]
    assert metrics.get("amp_scale", 1.0) == scale
    assert ("amp_scale" in metrics) == (dtype == torch.float16)


def test_weights_are_never_those_from_before_a_step(tmp_path: Path) -> None:
    _, trial = run_linear(
        tmp_path,
        """
class Twice(Linear):
    seen = []

    def make_model(self):
        self.context.experimental.use_amp(torch.bfloat16)
        return nn.Linear(3, 1)

    def train_batch(self, batch, epoch_idx, batch_idx):
        inputs = torch.ones(1, 3)
        with torch.no_grad():
            self.model(inputs)
        outputs = self.model(inputs)
        self.context.backward(outputs.square().sum())
        self.context.step_optimizer(self.optimizer)
        self.seen.append((outputs.item(), self.model(inputs).item()))
        return {"loss": 0.0}

    def evaluate_batch(self, batch, batch_idx):
        return {"loss": 0.0}
""",
        slots=2,
        max_length="2ba",
    )
    for before, after in trial.seen:
        assert abs(after) < 0.8 * abs(before)


def test_lbfgs_evaluates_under_autocast(tmp_path: Path) -> None:
    _, trial = run_linear(
        tmp_path,
        """
class Lbfgs(Linear):
    seen = []

    def make_model(self):
        self.context.experimental.use_amp(torch.bfloat16)
        return nn.Linear(3, 1)

    def make_optimizer(self):
        return torch.optim.LBFGS(self.model.parameters(), max_iter=2)

    def train_batch(self, batch, epoch_idx, batch_idx):
        def closure():
            outputs = self.model(batch[0].float())
            self.seen.append(outputs.dtype)
            loss = outputs.float().square().mean()
            self.context.backward(loss)
            return loss

        self.context.step_optimizer(self.optimizer, closure=closure)
        return {"loss": 0.0}

    def evaluate_batch(self, batch, batch_idx):
        return {"loss": 0.0}
""",
        max_length="1ba",
    )
    assert trial.seen == [torch.bfloat16] * 4


def test_by_hand_and_automatically_are_the_same_arithmetic(tmp_path: Path) -> None:
    # Validations are not: the trial's own autocast surrounds training alone.
    runs = [
        run_session(make_spec("scaled.py", slots=4, hyperparameters={"way": way}), tmp_path / way)
        for way in ("hand", "float16")
    ]
    hand, automatic = ((run.digest, run.training) for run in runs)
    assert hand == automatic


# Four steps in each batch, three of them of one optimizer. FACTORS says by batch and step which
# loss overflows, on one slot.
SEVERAL = """
INF = float("inf")
FACTORS = [(1, 1, 1, 1), (1, INF, 1, 1), (INF, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, INF)]

class Several(Linear):
    seen = []

    def make_model(self):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
        self.context.experimental.use_amp(torch.float16, scaler=self.scaler)
        return nn.Linear(3, 1)

    def set_up(self):
        self.second = self.context.wrap_optimizer(
            torch.optim.SGD(self.context.wrap_model(nn.Linear(3, 1)).parameters(), lr=0.1)
        )

    def loss(self, batch):
        inputs, targets = (tensor.float() for tensor in batch)
        models = self.context.models
        return nn.functional.mse_loss(sum(model(inputs) for model in models), targets)

    def train_batch(self, batch, epoch_idx, batch_idx):
        optimizers = [self.optimizer, self.second, self.optimizer, self.optimizer]
        for optimizer, factor in zip(optimizers, FACTORS[batch_idx], strict=True):
            is_mine = self.context.slot == batch_idx % self.context.num_slots
            loss = self.loss(batch)
            self.context.backward(loss * factor if is_mine else loss)
            self.context.step_optimizer(optimizer)
            self.second.zero_grad()
            self.optimizer.zero_grad()
        self.seen.append((batch_idx, self.context.slot, self.scaler.get_scale()))
        return {"loss": loss}
"""


@pytest.mark.parametrize("slots", [1, 2])
def test_an_optimizer_may_step_several_times_under_one_scale(tmp_path: Path, slots: int) -> None:
    spec = linear_spec(tmp_path, SEVERAL, slots=slots, max_length="6ba", validation_period=None)
    run = run_session(spec, tmp_path / "run")
    trial = load_trial_class(spec.trial_file, None)
    # Halved once after a batch in which any step overflowed, doubled after two without.
    scales = [256.0, 256.0, 128.0, 64.0, 64.0, 128.0]
    assert sorted(trial.seen) == [
        (batch, slot, scales[batch]) for batch in range(6) for slot in range(slots)
    ]
    reported = [(m["amp_scale"], m["amp_skipped_steps"]) for _, _, m in run.training]
    assert reported == [(256.0, 0), (128.0, 1), (64.0, 2), (64.0, 2), (128.0, 2), (64.0, 3)]
    stopped = run_with_stops(spec, tmp_path / "stopped", [("progress", 2), ("progress", 5)])
    assert stopped.reported == run.reported


# Bad input.


@pytest.mark.parametrize(
    "call, message",
    [
        (
            "self.context.step_optimizer(self.optimizer, scaler=torch.amp.GradScaler('cpu'))",
            "step_optimizer got a GradScaler, but use_amp has its own. Leave scaler= out, or leave "
            "use_amp out and wrap the scaler.",
        ),
        (
            "self.context.scalers[0].update()",
            "scaler.update() was called on the scaler of use_amp, which is updated by itself. "
            "Leave the call out.",
        ),
    ],
)
def test_the_scaler_of_use_amp_is_left_alone(tmp_path: Path, call: str, message: str) -> None:
    source = SEEN.replace("DTYPE", "torch.float16").replace(
        "self.context.step_optimizer(self.optimizer, clip_grads=self.clip)", call
    )
    assert refusal(tmp_path, source) == message
