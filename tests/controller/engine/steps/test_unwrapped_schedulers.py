"""Schedulers of wrapped optimizers that were not wrapped, whenever and of whichever class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from linear_trials import linear_spec, refusal, run_linear
from support import FolderSink, new_session

from trialrun import InvalidTrialError
from trialrun.controller.engine.steps.unwrapped_schedulers import note_schedulers

UNWRAPPED = """
class Unwrapped(Linear):
    def set_up(self):
        other = torch.optim.Adam([nn.Parameter(torch.zeros(2))])
        torch.optim.lr_scheduler.StepLR(other, 3)  # of an optimizer that is not trained here
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)
        WRAP

    def train_batch(self, batch, epoch_idx, batch_idx):
        metrics = super().train_batch(batch, epoch_idx, batch_idx)
        self.scheduler.step()
        return metrics
"""
WRAPPED = "self.context.wrap_lr_scheduler(self.scheduler, StepMode.MANUAL_STEP)"
OTHER = """self.second = self.context.wrap_optimizer(torch.optim.AdamW(self.model.parameters()),
            allow_shared_parameters=True)
        self.context.wrap_lr_scheduler(
            torch.optim.lr_scheduler.StepLR(self.second, 2), StepMode.STEP_EVERY_EPOCH)"""


SECOND = """self.first = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)
        self.context.wrap_lr_scheduler(self.first, StepMode.STEP_EVERY_EPOCH)"""
DROPPED = "self.scheduler = torch.optim.SGD([nn.Parameter(torch.zeros(2))])"
PLATEAU = "self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer)"


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize(
    "wrap, seen",
    [
        ("", "StepLR"),
        (OTHER, "StepLR"),
        (SECOND, "StepLR"),
        (PLATEAU.replace("= torch", "= None; self.plateau = torch"), "ReduceLROnPlateau"),
        (DROPPED, "'initial_lr' is in its parameter groups"),
    ],
    ids=["none", "of another optimizer", "another of this optimizer", "plateau", "dropped"],
)
def test_a_scheduler_that_was_not_wrapped_is_refused(
    tmp_path: Path, slots: int, wrap: str, seen: str
) -> None:
    assert refusal(tmp_path, UNWRAPPED.replace("WRAP", wrap), slots=slots) == (
        f"Optimizer 0 (SGD) has a learning-rate scheduler ({seen}) that was not wrapped: it would "
        "step once for each slot of a process, and no checkpoint would hold it. Call "
        "context.wrap_lr_scheduler(scheduler, step_mode) in the trial's __init__, with "
        "StepMode.MANUAL_STEP if the trial steps it itself."
    )


def test_a_wrapped_one_speaks_for_those_that_it_steps(tmp_path: Path) -> None:
    parts = "[torch.optim.lr_scheduler.ExponentialLR(self.optimizer, r) for r in (0.5, 0.9)]"
    chained = f"self.scheduler = torch.optim.lr_scheduler.ChainedScheduler({parts}); {WRAPPED}"
    run, _ = run_linear(tmp_path, UNWRAPPED.replace("WRAP", chained))
    assert run.batches == 8


def test_a_wrapped_class_without_an_optimizer_may_step_others(tmp_path: Path) -> None:
    source = """
class Both:
    def __init__(self, *schedulers):
        self.schedulers = schedulers

    def step(self):
        for scheduler in self.schedulers:
            scheduler.step()

    def state_dict(self):
        return {"positions": [scheduler.state_dict() for scheduler in self.schedulers]}

    def load_state_dict(self, state_dict):
        for scheduler, state in zip(self.schedulers, state_dict["positions"]):
            scheduler.load_state_dict(state)

"""
    both = f"self.scheduler = Both(self.scheduler); {WRAPPED}"
    run, _ = run_linear(tmp_path, source + UNWRAPPED.replace("WRAP", both))
    positions = run.checkpoints[-1].contents.state["lr_schedulers"][0]["positions"]
    assert positions[0]["last_epoch"] == 8


LATE = """
from trialrun import Callback

class Late(Linear):
    made = []

    def build_callbacks(self):
        return {"late": LateCallback(self.make)}

    def make(self, event, index=0):
        if (event, index) == EVENT:
            self.made.append(MAKE)

    def train_batch(self, batch, epoch_idx, batch_idx):
        metrics = super().train_batch(batch, epoch_idx, batch_idx)
        if self.context.slot == 0:
            self.make("train_batch", batch_idx)
        return metrics


class LateCallback(Callback):
    def __init__(self, make):
        self.make = make

    def on_training_start(self):
        self.make("on_training_start")

    def on_training_batch_start(self, batch_idx):
        self.make("on_training_batch_start", batch_idx)

    def on_validation_end(self, metrics):
        self.make("on_validation_end")
"""


@pytest.mark.parametrize(
    "event, batches",
    [
        (("on_training_start", 0), 0),
        (("on_training_batch_start", 2), 2),
        (("train_batch", 1), 1),
        (("on_validation_end", 0), 4),
    ],
)
@pytest.mark.parametrize("scheduler", ["ExponentialLR", "ReduceLROnPlateau"])
def test_one_that_is_made_later_is_refused_before_a_checkpoint_lacks_it(
    tmp_path: Path, scheduler: str, event: tuple[str, int], batches: int
) -> None:
    argument = {"ExponentialLR": 0.9, "ReduceLROnPlateau": "'min'"}[scheduler]
    make = f"torch.optim.lr_scheduler.{scheduler}(self.optimizer, {argument})"
    source = LATE.replace("EVENT", str(event)).replace("MAKE", make)
    spec = linear_spec(tmp_path, source, checkpoint_policy="all")
    sink = FolderSink(tmp_path / "checkpoints")
    session = new_session(spec, sink=sink)
    with pytest.raises(InvalidTrialError) as caught:
        session.run()
    assert str(caught.value) == (
        f"Optimizer 0 (SGD) has a learning-rate scheduler ({scheduler}) that was made after the "
        "trial's __init__, so it is not wrapped: no checkpoint holds it, and a resumed run would "
        "go on with other rates. Make it in __init__ and call "
        "context.wrap_lr_scheduler(scheduler, step_mode) there; "
        "torch.optim.lr_scheduler.SequentialLR lets a schedule begin later."
    )
    assert (session.batches_completed, sink.saved) == (batches, [])


@pytest.mark.parametrize(
    "make",
    ["(torch.optim.lr_scheduler.StepLR(torch.optim.SGD([nn.Parameter(torch.ones(1))]), 2))", "0"],
    ids=["of an optimizer that is not wrapped", "none"],
)
def test_later_ones_that_are_not_of_the_trials_optimizers_are_let_be(
    tmp_path: Path, make: str
) -> None:
    source = LATE.replace("EVENT", "('train_batch', 1)").replace("MAKE", make)
    run, _ = run_linear(tmp_path, source)
    assert run.batches == 8


SEQUENCE = """
class Sequence(Linear):
    def set_up(self):
        rates = torch.optim.lr_scheduler
        self.parts = [rates.ExponentialLR(self.optimizer, rate) for rate in (0.5, 0.9)]
        scheduler = rates.SequentialLR(self.optimizer, self.parts, [3])
        self.context.wrap_lr_scheduler(scheduler, StepMode.STEP_EVERY_BATCH)

    def train_batch(self, batch, epoch_idx, batch_idx):
        probe = torch.optim.SGD([nn.Parameter(torch.ones(1))])
        torch.optim.lr_scheduler.StepLR(probe, 2)  # makes trialrun look again
        return super().train_batch(batch, epoch_idx, batch_idx)
"""


def test_parts_of_a_wrapped_one_are_known_whenever_trialrun_looks(tmp_path: Path) -> None:
    run, _ = run_linear(tmp_path, SEQUENCE)
    assert run.batches == 8


def test_a_noted_scheduler_is_as_it_would_be() -> None:
    note_schedulers()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    assert scheduler.optimizer is vars(scheduler)["optimizer"] is optimizer
    assert "optimizer" not in scheduler.state_dict()
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [0.25]
