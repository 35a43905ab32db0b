"""When a learning-rate scheduler is stepped, and how often."""

from __future__ import annotations

import enum
from typing import Any, Protocol, TypeAlias

from trialrun._errors import InvalidTrialError


class StepMode(enum.Enum):
    """The event of the loop that steps a scheduler."""

    STEP_EVERY_EPOCH = "epoch"
    """After the last batch of every ``frequency``-th epoch."""
    STEP_EVERY_BATCH = "batch"
    """After every ``frequency``-th batch."""
    STEP_EVERY_OPTIMIZER_STEP = "optimizer_step"
    """After every ``frequency``-th step of the scheduler's optimizer."""
    MANUAL_STEP = "manual"
    """By the trial: in ``train_batch`` every slot calls ``step()``, and it steps once for all."""


_StepMode: TypeAlias = StepMode


class SupportsStep(Protocol):
    """What trialrun needs of a scheduler; every ``torch.optim.lr_scheduler`` class has it."""

    def step(self) -> Any:
        """Moves the learning rate by one step of the schedule."""

    def state_dict(self) -> dict[str, Any]:
        """Returns plain data that describes the scheduler's position."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Takes up the position that ``state_dict`` returned."""


class LRScheduler:
    """A scheduler with the event that steps it.

    Args:
        scheduler: A ``torch.optim.lr_scheduler`` or anything with the same three methods.
        step_mode: The event that steps it, such as ``StepMode.STEP_EVERY_EPOCH``.
        frequency: Step at every ``frequency``-th event, counted from the start of the trial.

    Raises:
        InvalidTrialError: ``step_mode`` is not a ``StepMode``, or ``frequency`` is below 1.
    """

    StepMode: TypeAlias = _StepMode
    """The same enum, for those who write ``LRScheduler.StepMode``."""

    def __init__(self, scheduler: SupportsStep, step_mode: StepMode, frequency: int = 1) -> None:
        if not isinstance(step_mode, StepMode):
            modes = ", ".join(f"StepMode.{mode.name}" for mode in StepMode)
            raise InvalidTrialError(f"step_mode={step_mode!r} is not one of {modes}.")
        if isinstance(frequency, bool) or not isinstance(frequency, int) or frequency < 1:
            raise InvalidTrialError(
                f"frequency={frequency!r} is not a whole number of at least 1. It says at every "
                "how many events the scheduler steps."
            )
        self.scheduler = scheduler
        self.step_mode = step_mode
        self.frequency = frequency
