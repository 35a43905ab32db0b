"""One step for all slots: deposit, sum in order, average, unscale, clip, step, schedule, zero."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from trialrun._engine import ClipGrads, Closure
from trialrun._errors import InvalidTrialError
from trialrun._lr_scheduler import LRScheduler
from trialrun._wrapped import WrappedOptimizer
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.parallel.meetings import Meetings
from trialrun.controller.engine.parallel.slots import Slots
from trialrun.controller.engine.steps.closures import PausedStep, checked_loss, requires_closure
from trialrun.controller.engine.steps.early_sums import EarlySums
from trialrun.controller.engine.steps.gradients import GradientSum
from trialrun.controller.engine.steps.parameters import Names
from trialrun.controller.engine.steps.reduction import OrderedSum
from trialrun.controller.engine.steps.scaling import Scaling

logger = logging.getLogger(__name__)


def step_label(index: int, optimizer: torch.optim.Optimizer) -> str:
    """Returns what a step of this optimizer is called in an error."""
    return f"step_optimizer on optimizer {index} ({type(optimizer).__name__})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSurroundings:
    """What the steps of all optimizers have in common.

    Args:
        num_slots: S.
        aggregation_frequency: Batches in an aggregation window.
        names: What parameters are called in an error.
        slots: The slots of this process.
        collectives: The processes.
        meetings: Where they tell each other which step they take.
        step_scheduler: Steps a scheduler whose event has come.
        prepare_thread: Called first in a new thread.
        early: Begins with sums while backward computes; None: nobody does.
        for_all_slots: Where several slots step: what is drawn at random in it does not depend on
            the slot whose thread takes the step.
        step_ended: Called after each step with the optimizer and the steps before that one; None:
            nobody listens.
    """

    num_slots: int
    aggregation_frequency: int
    names: Names
    slots: Slots
    collectives: Collectives
    meetings: Meetings
    step_scheduler: Callable[[LRScheduler], None]
    prepare_thread: Callable[[], None]
    early: EarlySums | None
    for_all_slots: Callable[[], contextlib.AbstractContextManager[None]]
    step_ended: Callable[[torch.optim.Optimizer, int], None] | None


class StepRequest(NamedTuple):
    """What the trial wants of one step; a tuple, since one is made for every batch."""

    clip_grads: ClipGrads | None
    """Changes the averaged gradients in place."""
    auto_zero_grads: bool
    """Whether gradients are cleared after the step; else every slot then has the averaged ones."""
    scaler: torch.amp.GradScaler | None
    """The scaler that the trial passed."""
    closure: Closure | None
    """Evaluates the loss of the executing slot."""


class OptimizerSteps:
    """Takes the steps of one optimizer.

    Args:
        index: The optimizer's number among the wrapped ones.
        wrapped: The user's optimizer with how its gradients are averaged.
        schedulers: Those that step after every ``frequency``-th of its steps.
        surroundings: What it has in common with the others.
    """

    num_steps: int
    """Steps taken since the start of the trial."""
    num_skipped: int
    """Steps that a scaler has skipped since the start of the trial."""
    has_learned: bool
    """Whether any of its steps had gradients, or a checkpoint says that it has stepped."""
    requires_closure: bool
    """Whether the optimizer cannot step without one."""

    def __init__(
        self,
        *,
        index: int,
        wrapped: WrappedOptimizer,
        schedulers: Sequence[LRScheduler],
        surroundings: StepSurroundings,
    ) -> None:
        self.num_steps = 0
        self.num_skipped = 0
        self.has_learned = False
        self.requires_closure = requires_closure(wrapped.optimizer)
        self._index = index
        self._optimizer = wrapped.optimizer
        self._label = step_label(index, wrapped.optimizer)
        self._schedulers = schedulers
        self._around = surroundings
        self._window = (
            surroundings.aggregation_frequency if wrapped.average_aggregated_gradients else 1
        )
        self._is_alone = surroundings.num_slots == 1
        self._is_stepping = False
        self._has_stepped = False
        self._zeroes_itself = (
            type(wrapped.optimizer).zero_grad is not torch.optim.Optimizer.zero_grad
        )
        self._warned: set[str] = set()
        self._hook = wrapped.optimizer.register_step_pre_hook(self._before_step)
        self._gradients = GradientSum(
            surroundings.names,
            num_slots=surroundings.num_slots,
            collectives=surroundings.collectives,
            early=surroundings.early,
        )
        self._losses = OrderedSum(surroundings.num_slots, surroundings.collectives)
        self._paused: PausedStep | None = None
        # After a step without zeroing: what every slot finds in ``grad``.
        self._averaged: list[torch.Tensor | None] = []

    def close(self) -> None:
        """Lets others step the optimizer: a script may, when training is over."""
        self._hook.remove()

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters of all groups that take gradients, in order."""
        return [
            parameter
            for group in self._optimizer.param_groups
            for parameter in group["params"]
            if parameter.requires_grad
        ]

    def step(self, request: StepRequest, scaling: Scaling | None) -> Any:
        """Brings in the executing slot's gradients; the last slot takes the step for all.

        Args:
            request: What the trial wants.
            scaling: The enabled scaler that takes part.

        Returns:
            What the optimizer's step returned.
        """
        if self._is_alone:
            return self._step_alone(request, scaling)
        result = None
        if request.closure is not None:
            result = self._step_with_closure(request, request.closure)
        else:
            self._announce()
            self._gradients.deposit(self._slot, self.parameters)
            self._meet(lambda: self._sum_and_step(request, scaling))
        if not request.auto_zero_grads:
            for parameter, gradient in zip(self.parameters, self._averaged, strict=True):
                parameter.grad = None if gradient is None else gradient.clone()
        return result

    def accumulate(self) -> None:
        """Brings in the executing slot's gradients of a batch that is not its window's last.

        The last slot adds them up for all, so that a process need not keep those of each slot. With
        one slot they stay where backward has put them, as in any loop.
        """
        if not self._is_alone:
            self._announce()
            self._gradients.deposit(self._slot, self.parameters)
            self._around.slots.meet(self._label, self._join_and_accumulate)

    def take_accumulated(self) -> dict[torch.nn.Parameter, torch.Tensor]:
        """Returns the sums with which the window's last batch has taken no step; usually none.

        All processes call it, and get the same.
        """
        if not self._gradients.has_accumulated:
            return {}
        parameters = self._gradients.parameters
        before = [parameter.grad for parameter in parameters]
        self._gradients.assign_accumulated()
        sums = {p: p.grad for p in parameters if p.grad is not None}
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient
        return sums

    def state_dict(self) -> dict[str, Any]:
        """Returns the counts of steps."""
        return {"num_steps": self.num_steps, "num_skipped": self.num_skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the counts of steps."""
        self.num_steps = state["num_steps"]
        self.num_skipped = state.get("num_skipped", 0)
        self.has_learned = self.num_steps + self.num_skipped > 0

    # One slot.

    def _step_alone(self, request: StepRequest, scaling: Scaling | None) -> Any:
        if request.closure is not None:
            closure = request.closure

            def evaluate() -> Any:
                self._clear_grads()
                loss = closure()
                checked_loss(loss)
                self.has_learned |= self._has_gradients()
                self._clip(request)
                return loss

            result = self._taking_step(functools.partial(self._optimizer.step, evaluate))
            self._after_step(request)
            return result
        if self._window > 1:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(self._window)
        self._finish(request, scaling, self._has_gradients())
        return None

    def _has_gradients(self) -> bool:
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    return True
        return False

    # Several slots.

    @property
    def _slot(self) -> int:
        return self._around.slots.current

    def _announce(self) -> None:
        """Under way while gradients are copied, and while the process's other slots compute."""
        if self._slot == self._around.slots.numbers.start:
            self._around.meetings.announce(self._index)

    def _meet(self, action: Callable[[], None]) -> None:
        def act() -> None:
            self._around.meetings.join()
            with self._around.for_all_slots():
                action()

        self._around.slots.meet(self._label, act)

    def _join_and_accumulate(self) -> None:
        self._around.meetings.join()
        self._gradients.accumulate()

    def _sum_and_step(self, request: StepRequest, scaling: Scaling | None) -> None:
        has_gradients = self._gradients.assign(self._around.num_slots * self._window)
        self._finish(request, scaling, has_gradients)
        self._averaged = [parameter.grad for parameter in self.parameters]

    def _step_with_closure(self, request: StepRequest, closure: Closure) -> Any:
        """Evaluates the closure of every slot as often as the optimizer wants it."""
        self._announce()
        if self._slot == self._around.slots.numbers.start:
            self._paused = PausedStep(self._optimizer.step, self._around.prepare_thread)
        paused = self._paused
        assert paused is not None
        try:
            self._meet(functools.partial(self._advance, paused, request, None))
            while not paused.finished:
                self._clear_grads()
                with torch.enable_grad():
                    loss = checked_loss(closure())
                self._announce()
                self._gradients.deposit(self._slot, self.parameters)
                self._deposit_loss(loss)
                self._meet(functools.partial(self._advance, paused, request, loss))
        except BaseException:
            paused.abandon()
            raise
        return paused.result

    def _deposit_loss(self, loss: torch.Tensor) -> None:
        self._losses.deposit(self._slot, loss.to(torch.float64, copy=True).view(1))

    def _advance(self, paused: PausedStep, request: StepRequest, loss: torch.Tensor | None) -> None:
        """Lets the optimizer go on with what all slots have found together."""
        if loss is not None:
            self.has_learned |= self._gradients.assign(self._around.num_slots)
            self._clip(request)
            mean = self._losses.total()[0] / self._around.num_slots
            loss = mean.to(loss.dtype)
        self._taking_step(lambda: paused.advance(loss))
        if paused.finished:
            self._after_step(request)
            self._averaged = [parameter.grad for parameter in self.parameters]

    # The step itself, once in each process.

    def _finish(self, request: StepRequest, scaling: Scaling | None, has_gradients: bool) -> None:
        if scaling is not None:
            scaling.take_part(self._optimizer)
        self.has_learned |= has_gradients
        if not has_gradients:
            self._warn_of_missing_backward()
        elif scaling is not None:
            self._finish_scaled(request, scaling)
            return
        self._clip(request)
        self._taking_step(self._optimizer.step)
        self._after_step(request)

    def _finish_scaled(self, request: StepRequest, scaling: Scaling) -> None:
        scaling.unscale(self._optimizer)
        self._clip(request)
        self._has_stepped = False
        self._taking_step(functools.partial(scaling.take_step, self._optimizer))
        if self._has_stepped:
            self._after_step(request)
            return
        self.num_skipped += 1
        self._zero_if_wanted(request)

    def _clip(self, request: StepRequest) -> None:
        if request.clip_grads is not None:
            request.clip_grads(self.parameters)

    def _taking_step(self, take: Callable[[], Any]) -> Any:
        self._is_stepping = True
        try:
            return take()
        finally:
            self._is_stepping = False

    def _after_step(self, request: StepRequest) -> None:
        self.num_steps += 1
        for scheduler in self._schedulers:
            if self.num_steps % scheduler.frequency == 0:
                self._around.step_scheduler(scheduler)
        if self._around.step_ended is not None:
            self._around.step_ended(self._optimizer, self.num_steps - 1)
        self._zero_if_wanted(request)

    def _zero_if_wanted(self, request: StepRequest) -> None:
        if not request.auto_zero_grads:
            return
        if self._zeroes_itself:
            self._optimizer.zero_grad()
        else:
            self._clear_grads()

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Called before every step of the optimizer, whoever takes it."""
        if self._is_stepping:
            # A fused optimizer gets the scaler's verdict as an attribute, and skips by itself.
            self._has_stepped = not vars(optimizer).get("found_inf")
        elif self._around.num_slots > 1:
            raise InvalidTrialError(
                f"{type(optimizer).__name__}.step() was called directly. With "
                f"{self._around.num_slots} slots it would step with one slot's gradients alone. "
                "Call context.step_optimizer(optimizer)."
            )
        else:
            self.has_learned = True
            self._warn_once(
                "direct",
                f"{type(optimizer).__name__}.step() was called directly. It is not counted, and "
                "schedulers in STEP_EVERY_OPTIMIZER_STEP do not follow it; with more slots it is "
                "refused. Call context.step_optimizer(optimizer).",
            )

    def _warn_of_missing_backward(self) -> None:
        self._warn_once(
            "backward",
            f"Optimizer {self._index} ({type(self._optimizer).__name__}) was stepped, but none of "
            "its parameters has a gradient. Call context.backward(loss) before "
            "context.step_optimizer.",
        )

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned and self._around.collectives.is_chief:
            logger.warning(message)
        self._warned.add(key)

    def _clear_grads(self) -> None:
        # Without the entry in torch's profiler that ``zero_grad`` makes, which takes longer than
        # all the rest: 4 % of a batch of a small model.
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
