"""Executes one batch: every slot of this process learns from its share.

This is what stands behind the trial's context: ``backward`` and ``step_optimizer`` end up here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch

from trialrun._batch_contents import to_device
from trialrun._construction import Construction
from trialrun._context import TrialContext
from trialrun._engine import ClipGrads, Engine
from trialrun._errors import InvalidTrialError
from trialrun._lr_scheduler import StepMode
from trialrun._trial import Trial
from trialrun.controller.engine.collectives import Collectives
from trialrun.controller.engine.meetings import FINISHED, Meetings
from trialrun.controller.engine.metrics import TrainingWindow, check_scalars
from trialrun.controller.engine.optimization import (
    OptimizerSteps,
    step_batch_schedulers,
    step_label,
)
from trialrun.controller.engine.randomness import Generators
from trialrun.controller.engine.schedule import Event
from trialrun.controller.engine.slot_state import (
    FoldedSlotState,
    ModelBuffers,
    ReducerContents,
    SingleSlotState,
)
from trialrun.controller.engine.slots import Slots, make_slots
from trialrun.controller.engine.stopping import StopRequest
from trialrun.samplers.addresses import Stream

logger = logging.getLogger(__name__)


class Execution(Engine):
    """Executes the slots of this process, batch by batch.

    It is made before the trial, whose context needs it, and is set up with the trial afterwards.

    Args:
        num_slots: S.
        aggregation_frequency: Batches in an aggregation window.
        num_threads: Intra-op threads with which a slot computes.
        generators: The process's random generators.
        collectives: The processes.
        stop_request: What the trial sets to stop.
        device: Where this process computes.
    """

    construction: Construction | None
    """How the trial was made; None before that."""
    slots: Slots
    """The slots of this process."""
    meetings: Meetings
    """What the processes tell each other."""
    steps: list[OptimizerSteps]
    """How each wrapped optimizer steps."""
    buffers: ModelBuffers
    """The buffers of all wrapped models."""
    reducers: ReducerContents
    """What the wrapped reducers have collected."""
    acting_slot: int | None
    """The slot that evaluates a batch or builds a loader; None while slots train."""
    slot_state: SingleSlotState | FoldedSlotState
    """What each slot has for itself."""

    def __init__(
        self,
        *,
        num_slots: int,
        aggregation_frequency: int,
        num_threads: int,
        generators: Generators,
        collectives: Collectives,
        stop_request: StopRequest,
        device: torch.device,
    ) -> None:
        slots_each = num_slots // collectives.size
        first = collectives.rank * slots_each
        self.slot_numbers = range(first, first + slots_each)
        self._num_slots = num_slots
        self._aggregation_frequency = aggregation_frequency
        self._num_threads = num_threads
        self._generators = generators
        self._collectives = collectives
        self._stop_request = stop_request
        self._device = device
        self.construction = None
        self.acting_slot = None
        self._is_training = False
        self._initial_batch = 0
        self._batches_completed = 0
        self._epoch_length = 1

    def trial_begins(self, construction: Construction) -> None:
        """Sets the generators to the one address of constructors, and remembers the trial."""
        # Not for a trial that another one makes within its own constructor.
        if self.construction is None:
            self.construction = construction
            self._generators.enter(Stream.MODEL, 0)

    def compute_with_threads(self, num_threads: int) -> None:
        """Chooses the intra-op threads of the slots, before ``set_up``."""
        self._num_threads = num_threads

    def begin_at(self, batches_completed: int) -> None:
        """Sets the clock to where this attempt begins."""
        self._initial_batch = self._batches_completed = batches_completed

    def set_up(self, trial: Trial, context: TrialContext, epoch_length: int) -> None:
        """Takes the trial, once everything is wrapped and built."""
        self._trial = trial
        self._context = context
        self._epoch_length = epoch_length
        self.buffers = ModelBuffers(context.models)
        self.reducers = ReducerContents(
            context.reducers, self.slot_numbers, shared=_held_elsewhere(trial, context)
        )
        self.slot_state = (
            SingleSlotState(self.slot_numbers.start, context.models, self.reducers)
            if len(self.slot_numbers) == 1
            else FoldedSlotState(
                self.slot_numbers, context.models, self.buffers, self.reducers, self._generators
            )
        )
        self.slots = make_slots(self.slot_numbers, self.slot_state, self._device, self._num_threads)
        self.meetings = Meetings(
            self._collectives,
            slots_each=len(self.slot_numbers),
            steps=[step_label(*numbered) for numbered in enumerate(context.optimizers)],
            num_wishes=len(Event),
        )
        self.steps = [
            OptimizerSteps(
                index=index,
                optimizer=optimizer,
                schedulers=[
                    wrapped
                    for wrapped in context.lr_schedulers
                    if wrapped.step_mode is StepMode.STEP_EVERY_OPTIMIZER_STEP
                    and getattr(wrapped.scheduler, "optimizer", None) is optimizer
                ],
                num_slots=self._num_slots,
                aggregation_frequency=self._aggregation_frequency,
                slots=self.slots,
                collectives=self._collectives,
                meetings=self.meetings,
            )
            for index, optimizer in enumerate(context.optimizers)
        ]
        self._is_training = True

    def train_batch(self, batches: Iterator[Any], window: TrainingWindow) -> None:
        """Lets every slot of this process learn from its share of the next batch.

        Args:
            batches: The loaded shares, in slot order.
            window: Where the metrics go.

        Raises:
            SlotError: User code raised in a slot.
            TrialrunError: User code broke a rule.
        """
        batch_idx = self._batches_completed
        epoch_idx = batch_idx // self._epoch_length

        def learn(slot: int) -> None:
            batch = to_device(next(batches), self._device)
            self._generators.enter(Stream.TRAIN, batch_idx, slot)
            returned = self._trial.train_batch(
                batch=batch, epoch_idx=epoch_idx, batch_idx=batch_idx
            )
            window.add(slot, check_scalars(returned, "train_batch"))

        self.slot_state.begin_batch()
        self.slots.run(learn)
        self.slot_state.end_batch()
        if self.buffers.are_shared(self._collectives):
            self.meet()
            self.buffers.share(self._collectives)
        if self._window_is_complete:
            if batch_idx + 1 == self._aggregation_frequency:
                self._warn_of_missing_steps()
            first = batch_idx + 1 - self._aggregation_frequency
            step_batch_schedulers(
                self._context.lr_schedulers, range(first, batch_idx + 1), self._epoch_length
            )
        self._batches_completed = batch_idx + 1

    def _warn_of_missing_steps(self) -> None:
        for index, steps in enumerate(self.steps):
            if steps.num_steps == 0 and self._collectives.is_chief:
                logger.warning(
                    "Optimizer %d (%s) was wrapped, but took no step in the first batches. Call "
                    "context.step_optimizer in train_batch.",
                    index,
                    type(self._context.optimizers[index]).__name__,
                )

    def meet(self) -> None:
        """Waits until every process has finished the batch, before they exchange anything else.

        Raises:
            InvalidTrialError: Another takes a step.
        """
        self.meetings.announce(FINISHED)
        self.meetings.join()

    def close(self) -> None:
        """Ends the threads of the slots, and gives the optimizers back."""
        if self._is_training:
            self.slots.close()
            for steps in self.steps:
                steps.close()

    # What the context asks for.

    @property
    def is_training(self) -> bool:
        """Whether nothing can be wrapped any more."""
        return self._is_training

    @property
    def slot(self) -> int:
        """The slot that is executing; the process's first while the trial is set up."""
        if self.acting_slot is not None:
            return self.acting_slot
        return self.slots.current if self._is_training else self.slot_numbers.start

    @property
    def initial_batch(self) -> int:
        """Where this attempt began."""
        return self._initial_batch

    @property
    def batches_completed(self) -> int:
        """The clock."""
        return self._batches_completed

    @property
    def epoch_length(self) -> int:
        """Batches in an epoch."""
        return self._epoch_length

    def backward(
        self,
        loss: torch.Tensor,
        gradient: torch.Tensor | None,
        retain_graph: bool,
        create_graph: bool,
    ) -> None:
        """Adds to the gradients of the executing slot, which are the parameters' present ones."""
        loss.backward(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            gradient=gradient, retain_graph=retain_graph, create_graph=create_graph
        )

    def step_optimizer(
        self,
        optimizer: torch.optim.Optimizer,
        clip_grads: ClipGrads | None,
        auto_zero_grads: bool,
    ) -> None:
        """Takes the step at the end of an aggregation window."""
        if self._aggregation_frequency > 1 and not auto_zero_grads:
            raise InvalidTrialError(
                f"auto_zero_grads=False within aggregation windows of {self._aggregation_frequency}"
                " batches would add gradients twice. Leave it at True, or set "
                "aggregation_frequency to 1."
            )
        steps = self._steps_of(optimizer)
        if self._window_is_complete:
            steps.step(clip_grads, auto_zero_grads)

    def set_stop_requested(self, stop_requested: bool) -> None:
        """Notes what the executing slot wishes."""
        self._stop_request.set_slot(self.slot, stop_requested)

    def get_stop_requested(self) -> bool:
        """Returns this process's wish to stop."""
        return bool(self._stop_request)

    @property
    def _window_is_complete(self) -> bool:
        return (self._batches_completed + 1) % self._aggregation_frequency == 0

    def _steps_of(self, optimizer: torch.optim.Optimizer) -> OptimizerSteps:
        if not self._is_training:
            raise InvalidTrialError(
                "step_optimizer was called before training began. Call it in train_batch."
            )
        for steps, wrapped in zip(self.steps, self._context.optimizers, strict=True):
            if wrapped is optimizer:
                return steps
        raise InvalidTrialError(
            f"step_optimizer got a {type(optimizer).__name__} that was not wrapped. Call "
            "context.wrap_optimizer on it in the trial's __init__."
        )


def _held_elsewhere(trial: Trial, context: TrialContext) -> list[object]:
    """Returns what a reducer may refer to but does not own: it is shared, not copied."""
    modules = [module for model in context.models for module in model.modules()]
    tensors: list[object] = []
    for model in context.models:
        tensors += [*model.parameters(), *model.buffers()]
    return [trial, context, *modules, *tensors, *context.optimizers]
