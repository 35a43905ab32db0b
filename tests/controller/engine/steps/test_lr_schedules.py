"""Schedulers that the trial steps itself, in every slot of train_batch: once for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from linear_trials import refusal, run_linear

from trialrun.controller.engine.parallel.interception import intercept, original, release

MANUAL = """
class Manual(Linear):
    seen = []

    def set_up(self):
        self.scheduler = self.context.wrap_lr_scheduler(self.make_scheduler(), StepMode.MANUAL_STEP)

    def make_scheduler(self):
        return torch.optim.lr_scheduler.StepLR(self.optimizer, 2)

    def train_batch(self, batch, epoch_idx, batch_idx):
        metrics = super().train_batch(batch, epoch_idx, batch_idx)
        before = self.rate()
        self.step(batch_idx)
        self.seen.append((batch_idx, self.context.slot, before, self.rate()))
        return metrics

    def step(self, batch_idx):
        if batch_idx % 2:
            self.scheduler.step()

    def rate(self):
        return round(self.optimizer.param_groups[0]["lr"], 9)
"""


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_a_scheduler_stepped_in_every_slot_steps_once(tmp_path: Path, slots: int) -> None:
    run, trial = run_linear(tmp_path, MANUAL, slots=slots)
    rates = [0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.001]
    assert sorted(trial.seen) == [
        (batch, slot, rates[batch], rates[batch + 1]) for batch in range(8) for slot in range(slots)
    ]
    assert run.checkpoints[-1].contents.state["lr_schedulers"][0]["last_epoch"] == 4


PLATEAU = MANUAL.replace(
    "torch.optim.lr_scheduler.StepLR(self.optimizer, 2)", "Recorder(self.optimizer, patience=0)"
).replace(
    "class Manual",
    """class Recorder(torch.optim.lr_scheduler.ReduceLROnPlateau):
    got = []

    def step(self, metrics, epoch=None):
        self.got.append((metrics, epoch))
        super().step(metrics)


class Manual""",
)


def scheduler_class(trial: Any) -> Any:
    return trial.train_batch.__globals__["Recorder"]


@pytest.mark.parametrize("slots", [2, 3])
def test_a_metric_is_the_mean_over_slots(tmp_path: Path, slots: int) -> None:
    source = PLATEAU.replace(
        "        if batch_idx % 2:\n            self.scheduler.step()",
        "        self.scheduler.step(torch.tensor(0.1 * 10**self.context.slot), epoch=batch_idx)",
    )
    _, trial = run_linear(tmp_path, source, slots=slots, max_length="3ba")
    values = [torch.tensor(0.1 * 10**slot).item() for slot in range(slots)]
    assert scheduler_class(trial).got == [
        (pytest.approx(sum(values) / slots, rel=1e-15), batch) for batch in range(3)
    ]
    # The metric of the second batch is no better than that of the first.
    assert [rate for _, slot, _, rate in trial.seen if slot == 0] == [0.1, 0.01, 0.001]


def test_one_slot_passes_what_it_likes(tmp_path: Path) -> None:
    source = PLATEAU.replace(
        "        if batch_idx % 2:\n            self.scheduler.step()",
        '        self.scheduler.step(5.0, epoch="any")',
    )
    _, trial = run_linear(tmp_path, source, slots=1, max_length="1ba")
    assert scheduler_class(trial).got == [(5.0, "any")]


@pytest.mark.parametrize(
    "argument, message",
    [
        (
            '"low"',
            "train_batch called scheduler.step on LR scheduler 0 (Recorder) with a str. With "
            "several slots its arguments are numbers, of which it gets the mean over slots.",
        ),
        (
            "None if self.context.slot else 1.0",
            "train_batch called scheduler.step on LR scheduler 0 (Recorder) with a number on "
            "some slots and with None on others.",
        ),
    ],
)
def test_arguments_without_a_mean_are_refused(tmp_path: Path, argument: str, message: str) -> None:
    source = PLATEAU.replace(
        "        if batch_idx % 2:\n            self.scheduler.step()",
        f"        self.scheduler.step({argument})",
    )
    assert refusal(tmp_path, source) == message


def test_a_scheduler_that_some_slots_alone_step_is_refused(tmp_path: Path) -> None:
    source = MANUAL.replace("if batch_idx % 2:", "if self.context.slot == 1:")
    assert refusal(tmp_path, source).startswith(
        "The slots of one batch took different steps: slot 0 finished the batch; slot 1 called "
        "scheduler.step on LR scheduler 0 (StepLR). "
    )


EVALUATING = {
    "evaluate_batch": """
    def step(self, batch_idx):
        pass

    def evaluate_batch(self, batch):
        self.scheduler.step()
        return {"loss": self.loss(batch)}
""",
    "evaluate_full_dataset": """
    evaluate_batch = trialrun.Trial.evaluate_batch

    def step(self, batch_idx):
        pass

    def evaluate_full_dataset(self, data_loader):
        self.scheduler.step()
        return {"loss": self.loss(next(iter(data_loader)))}
""",
}


@pytest.mark.parametrize("method", EVALUATING)
def test_a_scheduler_that_is_stepped_where_slots_evaluate_is_refused(
    tmp_path: Path, method: str
) -> None:
    source = "import trialrun\n" + MANUAL + EVALUATING[method]
    assert refusal(tmp_path, source, slots=2) == (
        f"{method} called scheduler.step on LR scheduler 0 (StepLR), but not every process "
        "executes it equally often, so the processes would go on with different rates. Call it in "
        "a callback's on_validation_end, which gets the metrics in every process."
    )
    run_linear(tmp_path, source, slots=1)


LISTENING = """
class Stepping(trialrun.Callback):
    def __init__(self, trial):
        self.trial = trial

    def on_validation_end(self, metrics):
        self.trial.scheduler.step()
"""


@pytest.mark.parametrize("slots", [1, 2])
def test_a_callback_may_step_a_scheduler_once_in_each_process(tmp_path: Path, slots: int) -> None:
    source = (
        "import trialrun\n"
        + LISTENING
        + MANUAL
        + """
    def step(self, batch_idx):
        pass

    def build_callbacks(self):
        return {"stepping": Stepping(self)}
"""
    )
    run, _ = run_linear(tmp_path, source, slots=slots)
    # Validations at 4 and 8.
    assert run.checkpoints[-1].contents.state["lr_schedulers"][0]["last_epoch"] == 2


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize(
    "mode", ["STEP_EVERY_EPOCH", "STEP_EVERY_BATCH", "STEP_EVERY_OPTIMIZER_STEP"]
)
def test_a_scheduler_is_stepped_by_its_mode_or_by_the_trial_not_by_both(
    tmp_path: Path, slots: int, mode: str
) -> None:
    source = MANUAL.replace("MANUAL_STEP", mode)
    assert refusal(tmp_path, source, slots=slots) == (
        f"train_batch called scheduler.step on LR scheduler 0 (StepLR), which {mode} steps "
        "already. Leave the call out, or wrap the scheduler with StepMode.MANUAL_STEP."
    )


def test_it_stays_the_users_object_with_the_users_state(tmp_path: Path) -> None:
    source = MANUAL.replace(
        "        if batch_idx % 2:",
        "        assert isinstance(self.scheduler, torch.optim.lr_scheduler.StepLR)\n"
        '        assert type(self.scheduler).__qualname__ == "StepLR"\n'
        '        assert "step" not in self.scheduler.state_dict()\n'
        "        if batch_idx % 2:",
    )
    run_linear(tmp_path, source, max_length="2ba")


# Taking the calls of one object.


def test_calls_of_one_object_are_taken_and_no_others() -> None:
    class Counter:
        __slots__ = ("count",)

        def __init__(self) -> None:
            self.count = 0

        def add(self, number: int) -> int:
            self.count += number
            return self.count

    taken, free = Counter(), Counter()
    intercept(taken, add=lambda own, number: -own(2 * number))
    # Taken again, not twice.
    intercept(taken, add=lambda own, number: -own(3 * number))
    assert (taken.add(1), free.add(1)) == (-3, 1)
    assert original(taken, "add")(1) == 4
    assert isinstance(taken, Counter)
    assert (type(taken).__name__, type(free)) == ("Counter", Counter)
    release(taken)
    release(free)
    assert (taken.add(1), type(taken), type(free)) == (5, Counter, Counter)


def test_after_training_objects_are_the_trials_alone(tmp_path: Path) -> None:
    source = MANUAL.replace(
        "    def make_scheduler",
        """        self.seen.append(self)
        self.scaler = self.context.wrap_scaler(torch.amp.GradScaler("cpu"))

    def make_scheduler""",
    ).replace("        self.seen.append((batch", "        self.last = ((batch")
    _, trial = run_linear(tmp_path, source, max_length="1ba")
    (made,) = trial.seen
    assert type(made.scheduler) is torch.optim.lr_scheduler.StepLR
    assert type(made.scaler) is torch.amp.GradScaler
    made.optimizer.step()
    made.scheduler.step()
