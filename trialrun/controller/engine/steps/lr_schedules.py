"""Steps the learning-rate schedulers: at their events, or when the trial does, for all slots.

A trial's own ``scheduler.step()`` in ``train_batch`` runs in every slot. All slots wait for each
other there, and the scheduler steps once in each process; so its position does not depend on how
many slots share one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from trialrun._errors import InvalidTrialError
from trialrun._lr_scheduler import LRScheduler, StepMode
from trialrun._wording import type_of
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.parallel.interception import Original, intercept, release
from trialrun.controller.engine.parallel.slots import Slots


def scheduler_label(index: int, wrapped: LRScheduler) -> str:
    """Returns what a step that the trial takes itself is called in an error."""
    return f"scheduler.step on LR scheduler {index} ({type(wrapped.scheduler).__name__})"


class Schedules:
    """The wrapped schedulers of a trial.

    Args:
        schedulers: All of them.
        num_slots: S.
        slots: The slots of this process.
        collectives: The processes.
        is_training_batch: Whether slots are executing ``train_batch``.
        announce: Tells the other processes of the scheduler, by its number, that is about to step.
    """

    def __init__(
        self,
        schedulers: Sequence[LRScheduler],
        *,
        num_slots: int,
        slots: Slots,
        collectives: Collectives,
        is_training_batch: Callable[[], bool],
        announce: Callable[[int], None],
    ) -> None:
        self._schedulers = schedulers
        self._num_slots = num_slots
        self._slots = slots
        self._collectives = collectives
        self._is_training_batch = is_training_batch
        self._announce = announce
        self._is_stepping = False
        self._refused_in: str | None = None
        # What slots have passed to the step for which they wait.
        self._arguments: list[tuple[list[Any], dict[str, Any]]] = []
        for index, wrapped in enumerate(schedulers):
            self._intercept(index, wrapped)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._schedulers)

    def of_optimizer(self, optimizer: torch.optim.Optimizer) -> list[LRScheduler]:
        """Returns those that follow the steps of an optimizer."""
        return [
            wrapped
            for wrapped in self._schedulers
            if wrapped.step_mode is StepMode.STEP_EVERY_OPTIMIZER_STEP
            and getattr(wrapped.scheduler, "optimizer", None) is optimizer
        ]

    def step(self, wrapped: LRScheduler) -> None:
        """Steps a scheduler whose event has come."""
        with self._stepping():
            wrapped.scheduler.step()

    def after_window(self, window: range, epoch_length: int) -> None:
        """Steps those that follow batches and epochs, at the end of an aggregation window.

        Args:
            window: The window's batches, by their number since the start of the trial.
            epoch_length: Batches in an epoch.
        """
        step_batch_schedulers(self._schedulers, window, epoch_length, self.step)

    @contextlib.contextmanager
    def refused_in(self, method: str) -> Iterator[None]:
        """Refuses steps while a method runs that slots, and so processes, call unequally often."""
        self._refused_in = method
        try:
            yield
        finally:
            self._refused_in = None

    def close(self) -> None:
        """Leaves the schedulers to the trial."""
        for wrapped in self._schedulers:
            release(wrapped.scheduler)

    @contextlib.contextmanager
    def _stepping(self) -> Iterator[None]:
        self._is_stepping = True
        try:
            yield
        finally:
            self._is_stepping = False

    def _intercept(self, index: int, wrapped: LRScheduler) -> None:
        label = scheduler_label(index, wrapped)

        def step(own: Original, *args: Any, **kwargs: Any) -> Any:
            if self._refused_in is not None and self._num_slots > 1:
                raise InvalidTrialError(
                    f"{self._refused_in} called {label}, but not every process executes it equally "
                    "often, so the processes would go on with different rates. Call it in a "
                    "callback's on_validation_end, which gets the metrics in every process."
                )
            if self._is_stepping or not self._is_training_batch():
                return own(*args, **kwargs)
            if wrapped.step_mode is not StepMode.MANUAL_STEP:
                raise InvalidTrialError(
                    f"train_batch called {label}, which {wrapped.step_mode.name} steps already. "
                    "Leave the call out, or wrap the scheduler with StepMode.MANUAL_STEP."
                )
            if self._num_slots == 1:
                return own(*args, **kwargs)
            return self._step_together(index, label, own, list(args), kwargs)

        intercept(wrapped.scheduler, step=step)

    def _step_together(
        self, index: int, label: str, step: Original, args: list[Any], kwargs: dict[str, Any]
    ) -> None:
        if self._slots.current == self._slots.numbers.start:
            self._arguments = []
            self._announce(index)
        self._arguments.append((args, kwargs))

        def act() -> None:
            agreed_args, agreed_kwargs = args, kwargs
            if args or kwargs:
                agreed_args, agreed_kwargs = self._agree(label, self._arguments)
            with self._stepping():
                step(*agreed_args, **agreed_kwargs)

        self._slots.meet(label, act)

    def _agree(
        self, label: str, own: list[tuple[list[Any], dict[str, Any]]]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Returns one set of arguments for all slots: those of all, or the means of numbers."""
        numbers = [
            ([_number(label, v) for v in args], {k: _number(label, v) for k, v in kwargs.items()})
            for args, kwargs in own
        ]
        gathered = self._collectives.gather(numbers, label)
        agreed = None
        if gathered is not None:
            rows = [row for rows in gathered for row in rows]
            agreed = (
                [_mean(label, values) for values in zip(*(args for args, _ in rows), strict=True)],
                {key: _mean(label, [kwargs[key] for _, kwargs in rows]) for key in rows[0][1]},
            )
        args, kwargs = self._collectives.broadcast(agreed, label)
        return args, kwargs


def step_batch_schedulers(
    schedulers: Sequence[LRScheduler],
    window: range,
    epoch_length: int,
    step: Callable[[LRScheduler], None],
) -> None:
    """Steps the schedulers that follow batches and epochs, at the end of an aggregation window.

    The rate matters only at an optimizer's step, which is the window's last batch; all steps that
    fall due within the window are taken after it.

    Args:
        schedulers: All wrapped schedulers.
        window: The window's batches, by their number since the start of the trial.
        epoch_length: Batches in an epoch.
        step: Steps one of them.
    """
    for batch in window:
        epochs, batch_in_epoch = divmod(batch + 1, epoch_length)
        for scheduler in schedulers:
            every_batch = scheduler.step_mode is StepMode.STEP_EVERY_BATCH
            every_epoch = scheduler.step_mode is StepMode.STEP_EVERY_EPOCH and batch_in_epoch == 0
            if (every_batch and (batch + 1) % scheduler.frequency == 0) or (
                every_epoch and epochs % scheduler.frequency == 0
            ):
                step(scheduler)


def _number(label: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    if value is None or isinstance(value, int | float):
        return value
    raise InvalidTrialError(
        f"train_batch called {label} with {type_of(value)}. With several slots its "
        "arguments are numbers, of which it gets the mean over slots."
    )


def _mean(label: str, values: Sequence[Any]) -> Any:
    """Returns what all slots agree on, or else the mean, exact and rounded once."""
    # NaN is equal to itself here.
    if len({repr(value) for value in values}) == 1:
        return values[0]
    if any(value is None for value in values):
        raise InvalidTrialError(
            f"train_batch called {label} with a number on some slots and with None on others."
        )
    return math.fsum(values) / len(values)
