"""on_optimizer_step_end: once in each process, for all its slots, with weights that are new."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from process_launch import Job, Launcher
from support import Run, make_spec, run_session, run_with_stops, write_trial

from trialrun import InvalidTrialError
from trialrun.controller.engine.parallel.slots import SlotError
from trialrun.controller.engine.session import TrialSpec
from trialrun.controller.trial_file import load_trial_class

DOCS = Path(__file__).parents[3] / "docs" / "trial.md"
HEAD = """
import torch
from torch import nn
from trials.linear import Linear, records
from trialrun import Callback, StepMode
import trialrun
"""


def spec_of(folder: Path, source: str, **config: Any) -> TrialSpec:
    return make_spec(write_trial(folder, HEAD + source, f"trial_{folder.name}.py"), **config)


def state_of(run: Run, callback: str) -> Any:
    return run.checkpoints[-1].contents.state["callbacks"][callback]


@pytest.mark.parametrize("slots", [1, 4])
def test_what_follows_each_step_is_the_same_after_stops(tmp_path: Path, slots: int) -> None:
    spec = make_spec("averaging.py", slots=slots, max_length="7ba", validation_period="2ba")
    straight = run_session(spec, tmp_path / "straight")
    stops = [("progress", 2), ("progress", 5)]
    stopped = run_with_stops(spec, tmp_path / "stopped", stops)
    assert stopped.reported == straight.reported
    assert state_of(stopped, "follower")["steps"] == [
        step for k in range(7) for step in ((1, 2 * k), (0, k), (1, 2 * k + 1))
    ]
    states = [state_of(run, "follower")["weights"] for run in (straight, stopped)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    model, averaged, head = straight.checkpoints[-1].contents.models
    assert averaged["n_averaged"].item() == 7
    assert averaged["module.1.running_mean"].abs().sum() > 0
    assert head["weight"].abs().max() <= 0.4 == model["0.weight"].abs().max()


SEEN = """
class Seen(Linear):
    seen = []

    def build_callbacks(self):
        return {"seen": SeenCallback(self)}

    def set_up(self):
        self.context.wrap_lr_scheduler(
            torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.5),
            StepMode.STEP_EVERY_OPTIMIZER_STEP,
        )

    def train_batch(self, batch, epoch_idx, batch_idx):
        loss = self.loss(batch)
        before = self.model.weight.detach().clone()
        self.context.backward(loss)
        self.before = before, self.optimizer.param_groups[0]["lr"]
        self.context.step_optimizer(self.optimizer)
        assert self.model.weight.grad is None
        return {"loss": loss}


class SeenCallback(Callback):
    def __init__(self, trial):
        self.trial = trial

    def on_optimizer_step_end(self, optimizer, step_idx):
        (before, rate), model = self.trial.before, self.trial.model
        assert torch.allclose(model.weight, before - rate * model.weight.grad)
        assert optimizer.param_groups[0]["lr"] == rate / 2
        batch = self.trial.context.current_train_batch()
        self.trial.seen.append((batch, self.trial.context.slot, step_idx))
"""


@pytest.mark.parametrize("slots", [1, 3])
def test_weights_and_rates_are_new_and_gradients_still_there(tmp_path: Path, slots: int) -> None:
    spec = spec_of(tmp_path, SEEN, slots=slots, max_length="3ba")
    run_session(spec, tmp_path / "c")
    seen = load_trial_class(spec.trial_file, "Seen").seen  # type: ignore[attr-defined]  # of this trial
    assert seen == [(0, 0, 0), (1, 0, 1), (2, 0, 2)]


COUNTING = """
class Count(Callback):
    def __init__(self):
        self.steps = []

    def on_optimizer_step_end(self, optimizer, step_idx):
        self.steps.append(step_idx)

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state_dict):
        self.steps = state_dict["steps"]
"""


def test_within_a_window_there_is_no_step_to_follow(tmp_path: Path) -> None:
    source = (
        COUNTING
        + """
class Counted(Linear):
    def build_callbacks(self):
        return {"count": Count()}
"""
    )
    spec = spec_of(tmp_path, source, max_length="6ba", aggregation_frequency=3)
    run = run_session(spec, tmp_path / "c")
    assert state_of(run, "count")["steps"] == [0, 1]


def test_a_step_that_the_scaler_skips_is_not_followed(tmp_path: Path) -> None:
    source = (
        "from trials.scaled import Scaled"
        + COUNTING
        + """
class Counted(Scaled):
    def build_callbacks(self):
        return {"count": Count()}
"""
    )
    hyperparameters = {"way": "float16"}
    spec = spec_of(tmp_path, source, slots=2, hyperparameters=hyperparameters, max_length="9ba")
    run = run_with_stops(spec, tmp_path / "c", [("progress", 5)])
    num_skipped = int(run.training[-1][2]["amp_skipped_steps"])
    assert num_skipped >= 3
    assert state_of(run, "count")["steps"] == list(range(9 - num_skipped))


def test_a_step_with_a_closure_is_followed_once(tmp_path: Path) -> None:
    source = (
        "from trials.lbfgs import Lbfgs"
        + COUNTING
        + """
class Counted(Lbfgs):
    def build_callbacks(self):
        return {"count": Count()}
"""
    )
    run = run_session(spec_of(tmp_path, source, slots=2, max_length="3ba"), tmp_path / "c")
    # Two optimizers, each of which evaluates its closure several times.
    assert state_of(run, "count")["steps"] == [0, 0, 1, 1, 2, 2]


# The page's example.


def averaging_of_the_page() -> str:
    section = DOCS.read_text().split("### After each step")[1].split("\n### ")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    model = "nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()"
    return f"""
def make_model():
    return {model}

{block}
class Digits(Linear, Averaging):
    __init__ = Averaging.__init__
    build_callbacks = Averaging.build_callbacks
    evaluate_batch = Averaging.evaluate_batch

    @property
    def hparams(self):
        return {{"num_records": 20, "batch_size": 2, "num_workers": 0}}
"""


def test_the_pages_moving_average_is_the_same_for_any_processes_and_stops(
    tmp_path: Path, launcher: Launcher
) -> None:
    spec = spec_of(tmp_path, averaging_of_the_page(), slots=4, max_length="6ba")
    spec = dataclasses.replace(spec, trial_class="Digits")
    folded = run_session(spec, tmp_path / "one")
    assert folded.checkpoints[-1].contents.models[1]["n_averaged"].item() == 6
    for size in (1, 2, 4):
        job = Job(spec, tmp_path / f"stopped-{size}", (("progress", 2), ("progress", 3)))
        chief, *_ = [results[0] for results in launcher.launch(size, [job])]
        assert chief.reported == folded.reported


# Bad input.

BAD = """
class Bad(Linear):
    def build_callbacks(self):
        return {"bad": BadCallback(self)}


class BadCallback(Callback):
    def __init__(self, trial):
        self.trial = trial

    def on_optimizer_step_end(self, ARGUMENTS):
        CALL
"""


@pytest.mark.parametrize("slots", [1, 2])
def test_a_step_after_a_step_is_refused(tmp_path: Path, slots: int) -> None:
    source = BAD.replace("ARGUMENTS", "optimizer, step_idx").replace(
        "CALL", "self.trial.context.step_optimizer(optimizer)"
    )
    with pytest.raises(InvalidTrialError) as caught:
        run_session(spec_of(tmp_path, source, slots=slots), tmp_path / "c")
    assert str(caught.value) == (
        "step_optimizer was called in on_optimizer_step_end, which follows a step, and would "
        "follow that one too. Call it in train_batch."
    )


def test_one_that_takes_other_arguments_is_refused_before_training(tmp_path: Path) -> None:
    source = BAD.replace("ARGUMENTS", "step").replace("CALL", "pass")
    with pytest.raises(InvalidTrialError) as caught:
        run_session(spec_of(tmp_path, source), tmp_path / "c")
    assert str(caught.value).endswith(
        "Write: def on_optimizer_step_end(self, optimizer, step_idx): ..."
    )


def test_one_that_fails_is_named(tmp_path: Path) -> None:
    source = BAD.replace("ARGUMENTS", "optimizer, step_idx").replace("CALL", "1 / 0")
    with pytest.raises(SlotError) as caught:
        run_session(spec_of(tmp_path, source), tmp_path / "c")
    cause = caught.value.__cause__
    assert isinstance(cause, ZeroDivisionError)
    assert cause.__notes__ == ["Raised by on_optimizer_step_end of callback 'bad'."]


def test_an_exchange_on_some_processes_alone_is_named(tmp_path: Path, launcher: Launcher) -> None:
    source = BAD.replace("ARGUMENTS", "optimizer, step_idx").replace(
        "CALL", "self.trial.context.slot or self.trial.context.distributed.allgather(1)"
    )
    spec = spec_of(tmp_path, source, slots=4)
    for (result,) in launcher.launch(2, [Job(spec, tmp_path / "c")]):
        assert (
            "slots 0, 1 called context.distributed.allgather; slots 2, 3 finished the" in result
        ), result
