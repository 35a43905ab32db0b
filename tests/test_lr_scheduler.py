from __future__ import annotations

from typing import Any

import pytest
import torch

from trialrun import InvalidTrialError, LRScheduler, StepMode


@pytest.fixture
def scheduler() -> torch.optim.lr_scheduler.LRScheduler:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


def test_a_scheduler_keeps_its_step_mode_and_frequency(scheduler: Any) -> None:
    wrapped = LRScheduler(scheduler, StepMode.STEP_EVERY_BATCH, 3)
    assert wrapped.scheduler is scheduler
    assert (wrapped.step_mode, wrapped.frequency) == (StepMode.STEP_EVERY_BATCH, 3)
    assert LRScheduler(scheduler, StepMode.MANUAL_STEP).frequency == 1


def test_a_wrapped_scheduler_answers_as_the_scheduler_does(scheduler: Any) -> None:
    wrapped = LRScheduler(scheduler, StepMode.MANUAL_STEP)
    scheduler.optimizer.step()
    wrapped.step()
    assert wrapped.get_last_lr() == scheduler.get_last_lr() == [0.5]
    state = wrapped.state_dict()
    assert state == scheduler.state_dict()
    wrapped.step()
    wrapped.step()
    assert wrapped.get_last_lr() == [0.125]
    wrapped.load_state_dict(state)
    assert scheduler.last_epoch == 1
    assert wrapped.get_last_lr() == [0.5]


@pytest.mark.parametrize("mode", ["epoch", None, 1])
def test_an_unknown_step_mode_is_answered_with_all_known_ones(scheduler: Any, mode: Any) -> None:
    with pytest.raises(InvalidTrialError) as caught:
        LRScheduler(scheduler, mode)
    assert str(caught.value) == (
        f"step_mode={mode!r} is not one of StepMode.STEP_EVERY_EPOCH, StepMode.STEP_EVERY_BATCH, "
        "StepMode.STEP_EVERY_OPTIMIZER_STEP, StepMode.MANUAL_STEP."
    )


@pytest.mark.parametrize(
    "wrong, message",
    [
        (5, "wrap_lr_scheduler got an int, which has no step(). Give a torch.optim.lr_scheduler, "),
        (
            torch.optim.lr_scheduler.StepLR,
            "wrap_lr_scheduler got the class StepLR. Give an object of it, or a function that ",
        ),
        (
            type("Half", (), {"step": lambda self: None})(),
            "wrap_lr_scheduler got a Half, which has no state_dict(). Give a torch.optim.",
        ),
    ],
)
def test_what_is_no_scheduler_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(InvalidTrialError) as caught:
        LRScheduler(wrong, StepMode.STEP_EVERY_EPOCH)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("frequency", [0, -2, 1.0, True])
def test_a_frequency_is_whole_and_positive(scheduler: Any, frequency: Any) -> None:
    with pytest.raises(InvalidTrialError) as caught:
        LRScheduler(scheduler, StepMode.STEP_EVERY_EPOCH, frequency)
    assert str(caught.value) == (
        f"frequency={frequency!r} is not a whole number of at least 1. It says at every how many "
        "events the scheduler steps."
    )
