"""Optimizers that evaluate a closure: all slots evaluate, and see one loss and one gradient."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from linear_trials import linear_spec, refusal, run_linear
from support import new_session
from torch import nn
from trials.linear import records

from trialrun import InvalidTrialError, samplers
from trialrun.controller.engine.parallel.slots import SlotError
from trialrun.controller.engine.steps.closures import PausedStep, checked_loss, requires_closure


def optimizer_threads() -> int:
    return sum(thread.name == "optimizer" for thread in threading.enumerate())


# The optimizer takes turns with its caller.


def test_an_optimizer_stands_still_at_every_evaluation() -> None:
    seen: list[Any] = []

    def take_step(closure: Any) -> str:
        seen.append("begins")
        for _ in range(2):
            seen.append(closure().item())
        return "result"

    paused = PausedStep(take_step, lambda: seen.append("prepared"))
    assert not paused.finished
    paused.advance()
    assert seen == ["prepared", "begins"]
    paused.advance(torch.tensor(1.0))
    assert (seen[2:], paused.finished) == ([1.0], False)
    paused.advance(torch.tensor(2.0))
    assert (seen[3:], paused.finished, paused.result) == ([2.0], True, "result")
    paused.abandon()


def test_what_the_optimizer_raises_reaches_the_caller() -> None:
    def take_step(closure: Any) -> None:
        closure()
        raise ValueError("no descent")

    paused = PausedStep(take_step, lambda: None)
    paused.advance()
    with pytest.raises(ValueError, match=r"^no descent$"):
        paused.advance(torch.tensor(1.0))
    assert paused.finished


@pytest.mark.parametrize("has_begun", [False, True])
def test_an_optimizer_is_abandoned_where_it_stands(has_begun: bool) -> None:
    before, ended = optimizer_threads(), []

    def take_step(closure: Any) -> None:
        try:
            closure()
        finally:
            ended.append(True)

    paused = PausedStep(take_step, lambda: None)
    if has_begun:
        paused.advance()
    paused.abandon()
    paused.abandon()
    assert paused.finished
    assert ended == [True] * has_begun
    assert optimizer_threads() == before


def test_it_is_known_which_optimizers_need_a_closure() -> None:
    parameters = [nn.Parameter(torch.zeros(2))]
    assert requires_closure(torch.optim.LBFGS(parameters))
    assert not requires_closure(torch.optim.SGD(parameters, lr=0.1))
    scheduled = torch.optim.LBFGS(parameters)
    torch.optim.lr_scheduler.StepLR(scheduled, 2)
    assert requires_closure(scheduled)


def test_a_loss_is_one_number() -> None:
    loss = checked_loss(torch.ones(1, 1, requires_grad=True) * 3)
    assert (loss.shape, loss.item(), loss.requires_grad) == (torch.Size([]), 3.0, False)
    assert checked_loss(2).dtype == torch.float64
    for wrong, name in ((None, "None"), (torch.zeros(2), "a Tensor")):
        with pytest.raises(
            InvalidTrialError,
            match=rf"^The closure of step_optimizer returned {name}. It must return the loss, one"
            r" number: compute it, call context.backward\(loss\), return it\.$",
        ):
            checked_loss(wrong)


# In a trial.

LBFGS = """
class Lbfgs(Linear):
    seen = []
    settings = {"lr": 0.7, "max_iter": 4, "line_search_fn": LINE_SEARCH}

    def make_optimizer(self):
        return torch.optim.LBFGS(self.model.parameters(), **self.settings)

    def train_batch(self, batch, epoch_idx, batch_idx):
        def closure():
            loss = self.loss(batch)
            self.context.backward(loss)
            return loss

        mean = self.context.step_optimizer(self.optimizer, closure=closure, **self.wishes())
        self.seen.append((self.context.slot, mean.item()))
        assert self.model.weight.grad is None
        return {"mean": mean}

    def wishes(self):
        return {}
"""


@pytest.mark.parametrize("line_search", ["None", "'strong_wolfe'"])
@pytest.mark.parametrize("slots", [1, 2, 4, 3])
def test_lbfgs_on_slots_is_lbfgs_on_one_big_batch(
    tmp_path: Path, slots: int, line_search: str
) -> None:
    source = LBFGS.replace("LINE_SEARCH", line_search)
    run, trial = run_linear(tmp_path, source, slots=slots, max_length="3ba")
    (tmp_path / "still").mkdir()
    still = source.replace('"lr": 0.7', '"lr": 0.0')
    model = nn.Linear(3, 1, dtype=torch.float64)
    initial, _ = run_linear(tmp_path / "still", still, slots=1, max_length="1ba")
    model.load_state_dict(initial.checkpoints[-1].contents.models[0])
    optimizer = torch.optim.LBFGS(model.parameters(), **trial.settings)
    shuffled = samplers.ReproducibleShuffleSampler(samplers.SequentialSampler(12), 7)
    first_losses = []
    for batch in range(3):
        size = 2 * slots
        indices = samplers.RepeatSampler(shuffled).take(batch * size, (batch + 1) * size)
        inputs, targets = (tensor[torch.from_numpy(indices)] for tensor in records(12).tensors)

        def closure(inputs: torch.Tensor = inputs, targets: torch.Tensor = targets) -> Any:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(inputs), targets)
            loss.backward()
            return loss

        first_losses.append(optimizer.step(closure).item())
    final = run.checkpoints[-1].contents.models[0]
    rounding = {"rtol": 0.0, "atol": 0.0} if slots == 1 else {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(final["weight"], model.weight.data, **rounding)
    # Every slot is told the same mean, that of the step's first evaluation.
    assert sorted(slot for slot, _ in trial.seen) == sorted(3 * list(range(slots)))
    for batch, loss in enumerate(first_losses):
        (told,) = {mean for _, mean in trial.seen[batch * slots : (batch + 1) * slots]}
        assert told == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize("slots", [1, 3])
def test_clipping_comes_before_the_optimizer_sees_the_gradients(tmp_path: Path, slots: int) -> None:
    source = LBFGS.replace("LINE_SEARCH", "None").replace(
        "return {}",
        """return {"clip_grads": self.clear}

    def clear(self, parameters):
        for parameter in parameters:
            parameter.grad.zero_()
""",
    )
    run, _ = run_linear(tmp_path, source, slots=slots, max_length="2ba")
    steps = [state["func_evals"] for state in lbfgs_states(run)]
    assert steps == [2]  # A gradient of zero ends each step at its first evaluation.


def lbfgs_states(run: Any) -> list[dict[str, Any]]:
    return list(run.checkpoints[-1].contents.state["optimizers"][0]["state"].values())


def test_gradients_stay_where_zeroing_is_off(tmp_path: Path) -> None:
    source = (
        LBFGS.replace("LINE_SEARCH", "None")
        .replace("return {}", 'return {"auto_zero_grads": False}')
        .replace("assert self.model.weight.grad is None", "self.keep()")
        .replace(
            "    def wishes",
            "    def keep(self):\n        self.seen.append(self.model.weight.grad.clone())\n\n"
            "    def wishes",
        )
    )
    _, trial = run_linear(tmp_path, source, slots=2, max_length="1ba")
    first, second = (entry for entry in trial.seen if isinstance(entry, torch.Tensor))
    assert first.norm() > 0
    assert torch.equal(first, second)


def test_an_optimizer_with_momentum_takes_a_closure_too(tmp_path: Path) -> None:
    plain = "class Plain(Linear):\n    pass\n"
    closing = """
class Closing(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        def closure():
            self.optimizer.zero_grad()
            loss = self.loss(batch)
            self.context.backward(loss)
            return loss.item()

        mean = self.context.step_optimizer(self.optimizer, closure=closure)
        assert isinstance(mean, torch.Tensor) and mean.dtype == torch.float64
        return {"loss": mean}
"""
    runs = []
    for name, source in (("plain", plain), ("closing", closing)):
        (tmp_path / name).mkdir()
        runs.append(run_linear(tmp_path / name, source, slots=4)[0])
    assert runs[0].digest == runs[1].digest
    for (*_, first), (*_, second) in zip(runs[0].training, runs[1].training, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-12)


@pytest.mark.parametrize("evaluation", [1, 2])
def test_a_slot_that_fails_in_its_closure_leaves_no_thread(tmp_path: Path, evaluation: int) -> None:
    before = optimizer_threads()
    source = LBFGS.replace("LINE_SEARCH", "None").replace(
        "            loss = self.loss(batch)",
        f"""            self.count = getattr(self, "count", 0) + (self.context.slot == 1)
            if self.context.slot == 1 and self.count == {evaluation}:
                raise ValueError("slot 1 fails")
            loss = self.loss(batch)""",
    )
    with pytest.raises(SlotError) as caught:
        run_linear(tmp_path, source, slots=3)
    assert caught.value.slot == 1
    assert str(caught.value.__cause__) == "slot 1 fails"
    assert optimizer_threads() == before


def test_an_error_of_the_optimizer_is_the_users(tmp_path: Path) -> None:
    source = LBFGS.replace("LINE_SEARCH", "'weak'")
    with pytest.raises(SlotError) as caught:
        run_linear(tmp_path, source, slots=2)
    assert str(caught.value.__cause__) == "only 'strong_wolfe' is supported"


# Refused.


def test_lbfgs_without_a_closure_is_refused(tmp_path: Path) -> None:
    source = """
class Missing(Linear):
    def make_optimizer(self):
        return torch.optim.LBFGS(self.model.parameters())
"""
    assert refusal(tmp_path, source) == (
        "LBFGS evaluates the loss several times in a step, so it needs a closure. Call "
        "context.step_optimizer(optimizer, closure=closure) with a function that computes the "
        "loss, calls context.backward(loss) and returns it."
    )


def test_a_closure_is_refused_within_aggregation_windows(tmp_path: Path) -> None:
    source = LBFGS.replace("LINE_SEARCH", "None")
    assert refusal(tmp_path, source, aggregation_frequency=2) == (
        "closure= within aggregation windows of 2 batches would see the last of them alone. Set "
        "aggregation_frequency to 1."
    )


def test_a_closure_and_a_scaler_are_refused_together(tmp_path: Path) -> None:
    source = LBFGS.replace("LINE_SEARCH", "None").replace(
        "    def wishes",
        "    def set_up(self):\n"
        "        self.context.experimental.use_amp(torch.float16)\n\n    def wishes",
    )
    assert refusal(tmp_path, source) == (
        "LBFGS got a closure and a gradient scaler, which torch does not allow together: a step "
        "could not be skipped in its middle. Leave the scaler out, or compute in bfloat16, which "
        "needs none."
    )


def test_a_closure_can_be_called(tmp_path: Path) -> None:
    source = """
class Wrong(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        self.context.step_optimizer(self.optimizer, closure=self.loss(batch).item())
"""
    spec = linear_spec(tmp_path, source)
    with pytest.raises(
        InvalidTrialError,
        match=r"^closure=[\d.]+ cannot be called. It is a function without arguments that computes "
        r"the loss, calls context.backward\(loss\) and returns it\.$",
    ):
        new_session(spec).run()
