"""A trial asks for its length: answered as soon as it is known, with an error until then."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from linear_trials import linear_spec, refusal, run_linear
from recorded_run import train_recorded
from support import resume, run_session, run_with_stops

import trialrun
from trialrun import Batch, ConfigurationError, Epoch, InvalidTrialError, Time
from trialrun.controller.engine.length import TrialLength
from trialrun.controller.engine.parallel.collectives import SingleProcess
from trialrun.controller.engine.rehearsal import rehearse
from trialrun.controller.trial_file import load_trial_class


@pytest.mark.parametrize(
    "max_length, epoch_length, total",
    [(Batch(7), None, 9), (Batch(9), 4, 9), (Epoch(2), 4, 9), (Epoch(3), 4, 12)],
)
def test_a_length_is_a_whole_number_of_windows(
    max_length: Any, epoch_length: int | None, total: int
) -> None:
    length = TrialLength(window=3, max_length=max_length, epoch_length=epoch_length)
    assert length.total_batches == total


WHERE = (
    " Ask in train_batch, in a callback from on_training_start on, or in a function that makes a "
    "scheduler: context.wrap_lr_scheduler(lambda: ..., step_mode) calls it when the length is "
    "known."
)


@pytest.mark.parametrize(
    "max_length, error, message",
    [
        (
            Time(5400),
            ConfigurationError,
            "max_length is 90min, a time: nobody knows how many batches that is. Give max_length "
            "in batches or epochs, such as 5000ba, or let the schedule depend on a hyperparameter.",
        ),
        (
            Epoch(2),
            InvalidTrialError,
            "max_length is 2ep, and how many batches an epoch has is not known before the training "
            "data is built." + WHERE,
        ),
        (
            None,
            InvalidTrialError,
            "The length of the trial is not known yet: a script gives it to fit, after the trial "
            "was made." + WHERE,
        ),
    ],
)
def test_what_is_not_known_is_an_error_that_says_where_it_is(
    max_length: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        assert TrialLength(window=1, max_length=max_length).total_batches
    assert str(caught.value) == message


ASKING = """
from trialrun import Callback

class Asking(Linear):
    seen = []

    def ask(self, where):
        context = self.context
        self.seen.append((where, context.get_total_batches(), context.get_total_optimizer_steps()))

    def set_up(self):
        PLACE

    def build_callbacks(self):
        trial = self

        class Started(Callback):
            def on_training_start(self):
                trial.ask("on_training_start")

        return {"started": Started()}

    def train_batch(self, batch, epoch_idx, batch_idx):
        if batch_idx == 0 and self.context.slot == 0:
            self.ask("train_batch")
        return super().train_batch(batch, epoch_idx, batch_idx)
"""


@pytest.mark.parametrize(
    "place, config, seen",
    [
        ("self.ask('__init__')", {"max_length": "5ba"}, [("__init__", 5, 5)]),
        # 12 records, global batches of 4.
        ("pass", {"max_length": "2ep"}, []),
        (
            "self.ask('__init__')",
            {"max_length": "5ba", "aggregation_frequency": 2},
            [("__init__", 6, 3)],
        ),
    ],
)
def test_a_trial_is_told_its_length(
    tmp_path: Path, place: str, config: dict[str, Any], seen: list[Any]
) -> None:
    run, trial = run_linear(tmp_path, ASKING.replace("PLACE", place), **config)
    total, steps = run.batches, run.batches // config.get("aggregation_frequency", 1)
    later = [("on_training_start", total, steps), ("train_batch", total, steps)]
    assert trial.seen == [*seen, *later]


def test_in_the_constructor_a_length_in_epochs_is_not_known(tmp_path: Path) -> None:
    source = ASKING.replace("PLACE", "self.ask('__init__')")
    assert refusal(tmp_path, source, max_length="2ep").startswith("max_length is 2ep, and how many")


# Schedulers that a function makes.

SCHEDULED = """
class Scheduled(Linear):
    seen = []

    def set_up(self):
        self.scheduler = self.context.wrap_lr_scheduler(
            self.make, StepMode.STEP_EVERY_OPTIMIZER_STEP
        )
        assert not self.context.lr_schedulers

    def make(self):
        self.drawn = torch.rand(()).item()
        total = self.context.get_total_optimizer_steps()
        return MADE

    def train_batch(self, batch, epoch_idx, batch_idx):
        (rate,) = self.scheduler.get_last_lr()
        self.seen.append((batch_idx, round(rate, 6)))
        return super().train_batch(batch, epoch_idx, batch_idx) | {"drawn": self.drawn}
"""
LINEAR = "torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 - step / total)"
ONE_CYCLE = "torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.2, total_steps=total + 1)"


@pytest.mark.parametrize("made", [LINEAR, ONE_CYCLE], ids=["lambda", "one cycle"])
def test_a_schedule_over_the_length_is_the_same_after_stops(tmp_path: Path, made: str) -> None:
    spec = linear_spec(tmp_path, SCHEDULED.replace("MADE", made), max_length="3ep")
    straight = run_session(spec, tmp_path / "straight")
    seen = load_trial_class(spec.trial_file, None).seen  # type: ignore[attr-defined]  # of this trial
    if made == LINEAR:
        rates = [round(0.1 * (1 - batch / 9), 6) for batch in range(9)]
        assert seen == [(batch, rates[batch]) for batch in range(9) for _ in range(2)]
    stopped = run_with_stops(spec, tmp_path / "stopped", [("progress", 2), ("progress", 5)])
    assert stopped.reported == straight.reported


def test_a_longer_length_holds_from_the_resume_on(tmp_path: Path) -> None:
    spec = linear_spec(tmp_path, SCHEDULED.replace("MADE", LINEAR), max_length="2ba", slots=1)
    short = run_session(spec, tmp_path / "run")
    config = spec.config.model_copy(update={"max_length": Batch(4)})
    run_session(resume(dataclasses.replace(spec, config=config), short), tmp_path / "run")
    seen = load_trial_class(spec.trial_file, None).seen  # type: ignore[attr-defined]  # of this trial
    # The rate of the next step is decided when a step ends: that of batch 2 by the old length.
    assert seen == [(0, 0.1), (1, 0.05), (2, 0.0), (3, 0.025)]


def test_a_script_that_fits_twice_gets_the_length_of_each_fit(tmp_path: Path) -> None:
    spec = linear_spec(tmp_path, SCHEDULED.replace("MADE", LINEAR))
    trial_class = load_trial_class(spec.trial_file, None)
    with trialrun.init(seed=7, home=tmp_path / "home") as context:
        trainer = trialrun.Trainer(trial_class(context), context)
        trainer.fit(max_length=Batch(2))
        trainer.fit(max_length=Batch(4))
    assert trial_class.seen == [(0, 0.1), (1, 0.05), (2, 0.0), (3, 0.025)]  # type: ignore[attr-defined]  # of this trial


def test_a_rehearsal_tells_the_length_of_what_it_rehearses(tmp_path: Path) -> None:
    spec = linear_spec(tmp_path, SCHEDULED.replace("MADE", LINEAR), max_length="3ep", slots=1)
    rehearse(spec, SingleProcess(), torch.device("cpu"))
    seen = load_trial_class(spec.trial_file, None).seen  # type: ignore[attr-defined]  # of this trial
    # 12 records in batches of 2: 18 batches, not the 2 of a rehearsal.
    assert seen == [(0, 0.1), (1, 0.094444), (0, 0.1), (1, 0.094444)]


def test_a_loaded_trial_knows_its_length_and_makes_no_scheduler(tmp_path: Path) -> None:
    source = SCHEDULED.replace("MADE", LINEAR)
    spec = linear_spec(tmp_path, source)
    run = train_recorded(tmp_path / "home", spec.trial_file, max_length="2ep")
    trial: Any = trialrun.load_trial(run.latest.path, device="cpu")
    assert (trial.context.get_total_batches(), trial.context.lr_schedulers) == (6, [])
    with pytest.raises(InvalidTrialError) as caught:
        trial.scheduler.get_last_lr()
    assert str(caught.value) == (
        "This scheduler is not made yet: the function that was given to wrap_lr_scheduler is "
        "called when the training data is built, and not where a trial is loaded. Use it in "
        "train_batch, or in a callback from on_training_start on."
    )


# Bad input.


@pytest.mark.parametrize(
    "made, message",
    [
        (
            "None",
            "The function given to wrap_lr_scheduler returned None, which has no step(). "
            "Give a torch.optim.lr_scheduler, or anything with its step, state_dict and "
            "load_state_dict.",
        ),
        (
            "torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer)",
            "ReduceLROnPlateau steps on a metric, which STEP_EVERY_OPTIMIZER_STEP does not give. "
            "Wrap it with StepMode.MANUAL_STEP and call its step(metric) yourself.",
        ),
        (
            "torch.optim.lr_scheduler.StepLR(torch.optim.SGD(self.model.parameters()), 1)",
            "The optimizer of this StepLR was not wrapped. Call wrap_optimizer on it before "
            "wrap_lr_scheduler.",
        ),
        (
            "torch.optim.lr_scheduler.StepLR",
            "The function given to wrap_lr_scheduler returned the class StepLR. Give an object of "
            "it, or a function that makes one.",
        ),
    ],
)
def test_a_function_that_makes_no_scheduler_is_refused(
    tmp_path: Path, made: str, message: str
) -> None:
    assert refusal(tmp_path, SCHEDULED.replace("MADE", made)) == message


def test_a_length_in_time_is_refused_where_a_schedule_asks(tmp_path: Path) -> None:
    spec = linear_spec(tmp_path, SCHEDULED.replace("MADE", LINEAR), max_length="2h")
    with pytest.raises(
        ConfigurationError, match="^max_length is 2h, a time: nobody knows how many"
    ):
        run_session(spec, tmp_path / "c")


def test_the_same_scheduler_from_two_functions_is_refused(tmp_path: Path) -> None:
    source = SCHEDULED.replace("MADE", "self.one").replace(
        "        self.scheduler =",
        "        self.one = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)\n"
        "        self.context.wrap_lr_scheduler(lambda: self.one, StepMode.MANUAL_STEP)\n"
        "        self.scheduler =",
    )
    assert refusal(tmp_path, source) == (
        "wrap_lr_scheduler got the same StepLR twice. Wrap each object once."
    )
