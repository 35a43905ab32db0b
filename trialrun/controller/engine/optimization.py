"""One step for all slots: deposit, sum in order, average, clip, step, schedule, zero.

A slot's gradients of one optimizer's parameters travel as one vector for each element type, with
the parameters end to end and, behind them, one element for each parameter that says whether the
slot had a gradient for it at all: a parameter that no slot has used keeps ``grad`` None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from trialrun._engine import ClipGrads
from trialrun._errors import InvalidTrialError
from trialrun._lr_scheduler import LRScheduler, StepMode
from trialrun.controller.engine.collectives import Collectives
from trialrun.controller.engine.meetings import Meetings
from trialrun.controller.engine.reduction import OrderedSum
from trialrun.controller.engine.slots import Slots


@dataclasses.dataclass(frozen=True)
class _TypeGroup:
    """Parameters of one element type, and the sum in which their gradients are added."""

    parameters: list[torch.nn.Parameter]
    sum: OrderedSum

    def deposit(self, slot: int) -> None:
        first = self.parameters[0]
        length = sum(parameter.numel() for parameter in self.parameters)
        padded = self.sum.padded_length(length + len(self.parameters))
        presence = [float(parameter.grad is not None) for parameter in self.parameters]
        # Zeros stand for a missing gradient, on every P alike: -0.0 + 0.0 is not -0.0.
        pieces = [
            _dense(parameter).reshape(-1)
            if parameter.grad is not None
            else parameter.new_zeros(parameter.numel())
            for parameter in self.parameters
        ]
        tail = presence + [0.0] * (padded - length - len(presence))
        pieces.append(torch.tensor(tail, dtype=first.dtype, device=first.device))
        self.sum.deposit(slot, torch.cat(pieces))
        for parameter in self.parameters:
            parameter.grad = None

    def assign_average(self, divisor: int) -> None:
        total = self.sum.total()
        length = sum(parameter.numel() for parameter in self.parameters)
        presence = total[length : length + len(self.parameters)].tolist()
        total[:length].div_(divisor)
        offset = 0
        for parameter, count in zip(self.parameters, presence, strict=True):
            if count:
                piece = total[offset : offset + parameter.numel()]
                parameter.grad = piece.view(parameter.shape)
            offset += parameter.numel()


def _dense(parameter: torch.nn.Parameter) -> torch.Tensor:
    gradient = parameter.grad
    assert gradient is not None
    if gradient.is_sparse:
        raise InvalidTrialError(
            f"A parameter of shape {tuple(parameter.shape)} has a sparse gradient, which cannot be "
            "summed over several slots. Build the embedding with sparse=False, or train on 1 slot."
        )
    return gradient


def step_label(index: int, optimizer: torch.optim.Optimizer) -> str:
    """Returns what a step of this optimizer is called in an error."""
    return f"step_optimizer on optimizer {index} ({type(optimizer).__name__})"


class OptimizerSteps:
    """Takes the steps of one optimizer.

    Args:
        index: The optimizer's number among the wrapped ones.
        optimizer: The user's optimizer.
        schedulers: Those that step after every ``frequency``-th of its steps.
        num_slots: S.
        aggregation_frequency: Batches in an aggregation window.
        slots: The slots of this process.
        collectives: The processes.
        meetings: Where they tell each other which step they take.
    """

    num_steps: int
    """Steps taken since the start of the trial."""

    def __init__(
        self,
        *,
        index: int,
        optimizer: torch.optim.Optimizer,
        schedulers: Sequence[LRScheduler],
        num_slots: int,
        aggregation_frequency: int,
        slots: Slots,
        collectives: Collectives,
        meetings: Meetings,
    ) -> None:
        self.num_steps = 0
        self._index = index
        self._label = step_label(index, optimizer)
        self._optimizer = optimizer
        self._schedulers = schedulers
        self._num_slots = num_slots
        self._aggregation_frequency = aggregation_frequency
        self._slots = slots
        self._collectives = collectives
        self._meetings = meetings
        self._is_stepping = False
        self._hook = (
            optimizer.register_step_pre_hook(self._refuse_foreign_step) if num_slots > 1 else None
        )
        self._groups: list[_TypeGroup] = []
        self._grouped: list[tuple[int, torch.dtype]] = []
        # After a step without zeroing: what every slot finds in ``grad``.
        self._averaged: list[torch.Tensor | None] = []

    def close(self) -> None:
        """Lets others step the optimizer: a script may, when training is over."""
        if self._hook is not None:
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

    def step(self, clip_grads: ClipGrads | None, auto_zero_grads: bool) -> None:
        """Brings in the executing slot's gradients; the last slot takes the step for all.

        Args:
            clip_grads: Changes the averaged gradients in place.
            auto_zero_grads: Whether gradients are cleared after the step. If not, every slot has
                the averaged ones in ``grad`` afterwards.
        """
        if self._num_slots == 1:
            self._average_own()
            self._finish(clip_grads, auto_zero_grads)
            return
        slot = self._slots.current
        if slot == self._slots.numbers.start:
            # Under way while gradients are copied, and while the process's other slots compute.
            self._meetings.announce(self._index)
        groups = self._type_groups()
        for group in groups:
            group.deposit(slot)

        def act() -> None:
            self._meetings.join()
            for group in groups:
                group.assign_average(self._num_slots * self._aggregation_frequency)
            self._finish(clip_grads, auto_zero_grads)
            self._averaged = [parameter.grad for parameter in self.parameters]

        self._slots.meet(self._label, act)
        if not auto_zero_grads:
            for parameter, gradient in zip(self.parameters, self._averaged, strict=True):
                parameter.grad = None if gradient is None else gradient.clone()

    def state_dict(self) -> dict[str, Any]:
        """Returns the count of steps."""
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the count of steps."""
        self.num_steps = state["num_steps"]

    def _average_own(self) -> None:
        if self._aggregation_frequency > 1:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(self._aggregation_frequency)

    def _refuse_foreign_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Called before every step of the optimizer, whoever takes it."""
        if not self._is_stepping:
            raise InvalidTrialError(
                f"{type(optimizer).__name__}.step() was called directly. With {self._num_slots} "
                "slots it would step with one slot's gradients alone. Call "
                "context.step_optimizer(optimizer)."
            )

    def _finish(self, clip_grads: ClipGrads | None, auto_zero_grads: bool) -> None:
        if clip_grads is not None:
            clip_grads(self.parameters)
        self._is_stepping = True
        self._optimizer.step()
        self._is_stepping = False
        self.num_steps += 1
        for scheduler in self._schedulers:
            if self.num_steps % scheduler.frequency == 0:
                scheduler.scheduler.step()
        if auto_zero_grads:
            self._zero_grads()

    def _zero_grads(self) -> None:
        if type(self._optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
            self._optimizer.zero_grad()
            return
        # The same without an entry in torch's profiler, which takes longer than all the rest: 4 %
        # of a batch of a small model.
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _type_groups(self) -> list[_TypeGroup]:
        """Returns the groups, made again when the trial has added or frozen parameters."""
        parameters = self.parameters
        grouped = [(id(parameter), parameter.dtype) for parameter in parameters]
        if self._grouped != grouped:
            by_type: dict[torch.dtype, list[torch.nn.Parameter]] = {}
            for parameter in parameters:
                by_type.setdefault(parameter.dtype, []).append(parameter)
            self._groups = [
                _TypeGroup(group, OrderedSum(self._num_slots, self._collectives))
                for group in by_type.values()
            ]
            self._grouped = grouped
        return self._groups


def step_batch_schedulers(
    schedulers: Sequence[LRScheduler], window: range, epoch_length: int
) -> None:
    """Steps the schedulers that follow batches and epochs, at the end of an aggregation window.

    The rate matters only at an optimizer's step, which is the window's last batch; all steps that
    fall due within the window are taken after it.

    Args:
        schedulers: All wrapped schedulers.
        window: The window's batches, by their number since the start of the trial.
        epoch_length: Batches in an epoch.
    """
    for batch in window:
        epochs, batch_in_epoch = divmod(batch + 1, epoch_length)
        for scheduler in schedulers:
            every_batch = scheduler.step_mode is StepMode.STEP_EVERY_BATCH
            every_epoch = scheduler.step_mode is StepMode.STEP_EVERY_EPOCH and batch_in_epoch == 0
            if (every_batch and (batch + 1) % scheduler.frequency == 0) or (
                every_epoch and epochs % scheduler.frequency == 0
            ):
                scheduler.scheduler.step()
