"""When a learning-rate scheduler is stepped, and how often."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from trialrun._errors import InvalidTrialError
from trialrun._wording import type_of


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


def is_function(scheduler: object) -> bool:
    """Returns whether it is no scheduler, but makes one when it is called."""
    return callable(scheduler) and not hasattr(scheduler, "step")


class LRScheduler:
    """A scheduler with the event that steps it.

    Args:
        scheduler: A ``torch.optim.lr_scheduler`` or anything with the same three methods; or a
            function without arguments that makes one.
        step_mode: The event that steps it, such as ``StepMode.STEP_EVERY_EPOCH``.
        frequency: Step at every ``frequency``-th event, counted from the start of the trial.

    Raises:
        InvalidTrialError: It is no scheduler, ``step_mode`` is not a ``StepMode``, or ``frequency``
            is below 1.
    """

    StepMode: TypeAlias = _StepMode
    """The same enum, for those who write ``LRScheduler.StepMode``."""

    replaced: SupportsStep | None
    """What a function has made for an earlier fit, which may have had another length."""

    def __init__(
        self,
        scheduler: SupportsStep | Callable[[], SupportsStep],
        step_mode: StepMode,
        frequency: int = 1,
    ) -> None:
        if not isinstance(step_mode, StepMode):
            modes = ", ".join(f"StepMode.{mode.name}" for mode in StepMode)
            raise InvalidTrialError(f"step_mode={step_mode!r} is not one of {modes}.")
        if isinstance(frequency, bool) or not isinstance(frequency, int) or frequency < 1:
            raise InvalidTrialError(
                f"frequency={frequency!r} is not a whole number of at least 1. It says at every "
                "how many events the scheduler steps."
            )
        self.step_mode = step_mode
        self.frequency = frequency
        self._function: Callable[[], SupportsStep] | None = None
        self._scheduler: SupportsStep | None = None
        self.replaced = None
        if is_function(scheduler):
            self._function = scheduler  # type: ignore[assignment]  # has no ``step``
        else:
            self._scheduler = _checked(scheduler, "wrap_lr_scheduler got")

    @property
    def scheduler(self) -> SupportsStep:
        """The scheduler.

        Raises:
            InvalidTrialError: A function makes it, and has not been called yet.
        """
        if self._scheduler is None:
            raise InvalidTrialError(
                "This scheduler is not made yet: the function that was given to wrap_lr_scheduler "
                "is called when the training data is built, and not where a trial is loaded. Use "
                "it in train_batch, or in a callback from on_training_start on."
            )
        return self._scheduler

    @property
    def is_made(self) -> bool:
        """Whether there is a scheduler by now."""
        return self._scheduler is not None

    @property
    def has_function(self) -> bool:
        """Whether a function makes it."""
        return self._function is not None

    def make(self) -> None:
        """Calls the function that makes it, when the trial's length is known.

        Raises:
            InvalidTrialError: The function returned no scheduler.
        """
        assert self._function is not None
        self.replaced, self._scheduler = self._scheduler, None
        made = self._function()
        self._scheduler = _checked(made, "The function given to wrap_lr_scheduler returned")

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Calls the scheduler's ``step``."""
        self.scheduler.step(*args, **kwargs)

    def get_last_lr(self) -> list[Any]:
        """Returns what the scheduler's ``get_last_lr`` returns: one rate for each group."""
        rates: list[Any] = self.scheduler.get_last_lr()  # type: ignore[attr-defined]  # torch's have it
        return rates

    def state_dict(self) -> dict[str, Any]:
        """Returns the scheduler's position."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the position that ``state_dict`` returned."""
        self.scheduler.load_state_dict(state_dict)


def _checked(scheduler: Any, what: str) -> SupportsStep:
    methods = ("step", "state_dict", "load_state_dict")
    if isinstance(scheduler, type):
        raise InvalidTrialError(
            f"{what} {type_of(scheduler)}. Give an object of it, or a function that makes one."
        )
    missing = [name for name in methods if not callable(getattr(scheduler, name, None))]
    if missing:
        raise InvalidTrialError(
            f"{what} {type_of(scheduler)}, which has no {missing[0]}(). Give a "
            "torch.optim.lr_scheduler, or anything with its step, state_dict and load_state_dict."
        )
    made: SupportsStep = scheduler
    return made
