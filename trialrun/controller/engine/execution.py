"""Executes one batch: every slot of this process learns from its share.

This is what stands behind the trial's context: ``backward`` and ``step_optimizer`` end up here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from trialrun._batch_contents import batch_to_device
from trialrun._construction import Construction
from trialrun._context import TrialContext
from trialrun._engine import BackwardInputs, ClipGrads, Closure, Engine
from trialrun._errors import InvalidTrialError
from trialrun._trial import Trial
from trialrun._units import Unit
from trialrun.controller.engine.length import TrialLength
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.parallel.exchange import SET_UP, SlotExchange, refused
from trialrun.controller.engine.parallel.meetings import FINISHED, Meetings
from trialrun.controller.engine.parallel.slot_state import (
    FoldedSlotState,
    ModelBuffers,
    SingleSlotState,
)
from trialrun.controller.engine.parallel.slots import Slots, make_slots, thread_preparation
from trialrun.controller.engine.randomness import Generators
from trialrun.controller.engine.reports.metrics import (
    TrainingWindow,
    check_batch_length,
    check_scalars,
)
from trialrun.controller.engine.reports.reducers import SlotReducers
from trialrun.controller.engine.schedule import Event
from trialrun.controller.engine.steps.mixed_precision import MixedPrecision, as_it_runs
from trialrun.controller.engine.steps.optimization import StepRequest
from trialrun.controller.engine.steps.parameters import require_dense, require_initialized
from trialrun.controller.engine.steps.stepping import Stepping, meeting_places, plain_backward
from trialrun.controller.engine.steps.unwrapped_schedulers import note_schedulers
from trialrun.controller.engine.stopping import StopRequest
from trialrun.samplers.addresses import Stream


class BatchCallbacks(Protocol):
    """What is called before and after a batch."""

    def begin_batch(self, batch: int, epoch_length: int) -> None:
        """Calls what comes before a batch."""

    def end_batch(self, batch: int, epoch_length: int) -> None:
        """Calls what comes after it; the clock still says that it is under way."""

    @property
    def listen_to_steps(self) -> bool:
        """Whether there is anything to call after the steps of optimizers."""

    def end_step(
        self, optimizer: torch.optim.Optimizer, step_idx: int, batch: int, number: int
    ) -> None:
        """Calls what comes after a step."""


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
    before_trial: Callable[[type[Trial]], None] | None
    """Called before the trial's constructor, where nobody else knows of it beforehand."""
    slots: Slots
    """The slots of this process."""
    meetings: Meetings
    """What the processes tell each other."""
    stepping: Stepping
    """What stands behind the context's ``backward`` and ``step_optimizer``."""
    buffers: ModelBuffers
    """The buffers of all wrapped models."""
    reducers: SlotReducers
    """What the wrapped reducers have collected."""
    on_progress: Callable[[], None]
    """Called after each batch and each validation batch of this process."""
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
        note_schedulers()
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
        self.before_trial = None
        self.on_progress = lambda: None
        self.acting_slot = None
        self._evaluating_method: str | None = None
        self._is_loaded = False
        # No optimizer steps before the trial is set up; slots may exchange values all the same.
        self.meetings = self._new_meetings([], SET_UP)
        self._exchange = SlotExchange(collectives, slots_each)
        self._slots_run = False
        self._is_ending_step = False
        self._is_built = False
        self._is_training = False
        self._initial_batch = 0
        self._batches_completed = 0
        self._epoch_length = 1
        self._length = TrialLength(window=aggregation_frequency)

    def trial_begins(self, construction: Construction) -> None:
        """Sets the generators to the one address of constructors, and remembers the trial.

        Raises:
            InvalidTrialError: The context has made another trial, whose constructor is over.
        """
        if self.construction is not None and self._is_built:
            first, second = (
                type(made.trial).__name__ for made in (self.construction, construction)
            )
            raise InvalidTrialError(
                f"A second trial, of the class {second}, is being made with one context: the first "
                f"is the {first} that its Trainer has. Make each in a block of its own: with "
                f"trialrun.init(...) as context: Trainer({second}(context), context).fit(...)"
            )
        # Not for a trial that another one makes within its own constructor.
        if self.construction is None:
            self.construction = construction
            if self.before_trial is not None:
                self.before_trial(type(construction.trial))
            self._generators.enter(Stream.MODEL, 0)

    def trial_is_built(self) -> None:
        """Refuses to wrap more but reducers: a loaded trial builds no data, and would miss it."""
        self._is_built = True

    def compute_with_threads(self, num_threads: int) -> None:
        """Chooses the intra-op threads of the slots, before ``set_up``."""
        self._num_threads = num_threads

    def begin_at(self, batches_completed: int, epoch_length: int = 1) -> None:
        """Sets the clock to where this attempt begins, or to where a trial to look at stands."""
        self._initial_batch = self._batches_completed = batches_completed
        self._epoch_length = epoch_length

    def lasts(self, max_length: Unit | None, epoch_length: int | None = None) -> None:
        """Says how long the trial trains, as far as it is known: now, and when its data is built.

        Args:
            max_length: When the trial is complete.
            epoch_length: Batches in an epoch.
        """
        self._length = TrialLength(
            window=self._aggregation_frequency, max_length=max_length, epoch_length=epoch_length
        )

    def set_up(
        self,
        trial: Trial,
        context: TrialContext,
        epoch_length: int,
        has_equal_batches: bool,
        callbacks: BatchCallbacks,
    ) -> None:
        """Takes the trial, once everything is wrapped and built."""
        self._has_equal_batches = has_equal_batches
        self._trial = trial
        self._context = context
        self._callbacks = callbacks
        self._epoch_length = epoch_length
        require_initialized(context.models)
        require_dense(context.models)
        self._train_batch = self.as_it_runs(trial.train_batch)
        self.buffers = ModelBuffers(context.models)
        self.reducers = SlotReducers(
            context.reducers,
            slots=self.slot_numbers,
            num_slots=self._num_slots,
            generators=self._generators,
            shared=_held_elsewhere(trial, context),
        )
        self.slot_state = (
            SingleSlotState(self.slot_numbers.start, context.models, self.buffers, self.reducers)
            if len(self.slot_numbers) == 1
            else FoldedSlotState(
                self.slot_numbers, context.models, self.buffers, self.reducers, self._generators
            )
        )
        prepare_thread = thread_preparation(self._device, self._num_threads)
        self.slots = make_slots(self.slot_numbers, self.slot_state, prepare_thread)
        self.meetings = self._new_meetings(meeting_places(context), "batch")
        self.stepping = Stepping(
            context,
            num_slots=self._num_slots,
            aggregation_frequency=self._aggregation_frequency,
            slots=self.slots,
            collectives=self._collectives,
            meetings=self.meetings,
            generators=self._generators,
            mixed_precision=(
                None if context.amp is None else MixedPrecision(context.amp, self._device)
            ),
            prepare_thread=prepare_thread,
            step_ended=self._end_step if callbacks.listen_to_steps else None,
        )
        self._exchange.once = None
        self._is_training = True

    @contextlib.contextmanager
    def once_in_each_process(self, name: str) -> Iterator[None]:
        """Declares user code that every process runs once, such as a callback.

        In it slots may exchange values. ``meet`` comes before the processes exchange anything else,
        so that those that did not are found.
        """
        with self.as_first_slot(), self._exchange.once_in_each_process(name, self.meetings):
            yield

    @contextlib.contextmanager
    def as_first_slot(self) -> Iterator[None]:
        """Lets the process's first slot stand for user code that belongs to none.

        Slots may not exchange values in it.
        """
        before = self.acting_slot, self._exchange.once
        self.acting_slot, self._exchange.once = self.slot_numbers.start, None
        try:
            yield
        finally:
            self.acting_slot, self._exchange.once = before

    def is_only_loaded(self) -> None:
        """Refuses ``backward`` and ``step_optimizer`` for good: nobody trains the trial here."""
        self._is_loaded = True

    @contextlib.contextmanager
    def evaluating(self, method: str) -> Iterator[None]:
        """Refuses ``backward`` and ``step_optimizer`` in a method that evaluates or predicts."""
        self._evaluating_method = method
        try:
            yield
        finally:
            self._evaluating_method = None

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
        thread = self._exchange.thread

        def learn(slot: int) -> None:
            batch = self.on_device(next(batches))
            self._generators.enter(Stream.TRAIN, batch_idx, slot)
            thread.is_in_train_batch = True
            try:
                returned = self._train_batch(batch=batch, epoch_idx=epoch_idx, batch_idx=batch_idx)
            finally:
                thread.is_in_train_batch = False
            returned = self._trial._as_metrics(returned, "train_batch")
            scalars = check_scalars(returned, "train_batch")
            if self._has_equal_batches:
                window.add(slot, scalars)
            else:
                length = check_batch_length(self._trial.get_batch_length(batch))
                window.add(slot, scalars, length)

        self._callbacks.begin_batch(batch_idx, self._epoch_length)
        self.reducers.begin_batch(batch_idx)
        self.slot_state.begin_batch()
        self.stepping.begin_batch(batch_idx)
        self._slots_run = True
        try:
            self.slots.run(learn)
        finally:
            self.stepping.leave_batch()
        self._slots_run = False
        self.slot_state.end_batch()
        if left_over := self.stepping.left_over():
            # In slot 0's hands they are counted once, and are part of checkpoints.
            if 0 in self.slot_numbers:
                self.slot_state.add_gradients(0, left_over)
        if self.buffers.are_shared(self._collectives):
            self.meet()
            self.buffers.share(self._collectives)
        self.stepping.end_batch(self._epoch_length)
        self._callbacks.end_batch(batch_idx, self._epoch_length)
        self._batches_completed = batch_idx + 1
        if self._context.profiler is not None:
            self._context.profiler.step()
        self.on_progress()

    def on_device(self, batch: Any) -> Any:
        """Returns the batch where the trial wants to find it."""
        if not self._context.experimental.moves_batches:
            return batch
        return batch_to_device(batch, self._device)

    def as_it_runs(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a method of the trial that computes: under autocast after ``use_amp``."""
        return as_it_runs(method, self._context.amp, self._device)

    def meet(self) -> None:
        """Waits until every process has come as far, before they exchange anything else.

        Called at the end of the set-up, of a batch, and of code that each process runs once.

        Raises:
            InvalidTrialError: Another takes a step, or exchanges values.
        """
        self.meetings.announce(FINISHED)
        self.meetings.join()

    def close(self) -> None:
        """Ends the threads of the slots, and gives the trial its optimizers back."""
        if self._is_training:
            self.slots.close()
            self.stepping.close()

    # What the context asks for.

    @property
    def is_built(self) -> bool:
        """Whether only reducers can still be wrapped."""
        return self._is_built

    @property
    def is_training(self) -> bool:
        """Whether nothing can be wrapped any more."""
        return self._is_training

    @property
    def slot(self) -> int:
        """The slot that is executing; the process's first where code runs once in each process."""
        if self.acting_slot is not None:
            return self.acting_slot
        return self.slots.current if self._slots_run else self.slot_numbers.start

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

    @property
    def aggregation_frequency(self) -> int:
        """Batches in an aggregation window."""
        return self._aggregation_frequency

    @property
    def total_batches(self) -> int:
        """The trial's length."""
        return self._length.total_batches

    def backward(
        self,
        loss: torch.Tensor,
        gradient: torch.Tensor | None,
        retain_graph: bool,
        create_graph: bool,
        inputs: BackwardInputs | None,
    ) -> None:
        """Adds to the gradients of the executing slot, which are the parameters' present ones."""
        self._require_learning(
            "backward", "; for gradients with respect to something else, use torch.autograd.grad"
        )
        backward = self.stepping.backward if self._is_training else plain_backward
        backward(loss, gradient, retain_graph, create_graph, inputs)

    def step_optimizer(
        self,
        optimizer: torch.optim.Optimizer,
        clip_grads: ClipGrads | None,
        auto_zero_grads: bool,
        scaler: torch.amp.GradScaler | None,
        closure: Closure | None,
    ) -> Any:
        """Takes the step at the end of an aggregation window."""
        if not self._is_training:
            raise InvalidTrialError(
                "step_optimizer was called before training began. Call it in train_batch."
            )
        self._require_learning("step_optimizer")
        if self._is_ending_step:
            raise InvalidTrialError(
                "step_optimizer was called in on_optimizer_step_end, which follows a step, and "
                "would follow that one too. Call it in train_batch."
            )
        if self._num_slots > 1 and not self._exchange.thread.is_in_train_batch:
            raise InvalidTrialError(
                f"step_optimizer was called outside of train_batch, where the {self._num_slots} "
                "slots do not take steps together. Call it in train_batch; for something that is "
                "trained elsewhere, such as a probe in a callback, step an optimizer that is not "
                "wrapped."
            )
        request = StepRequest(clip_grads, auto_zero_grads, scaler, closure)
        return self.stepping.step_optimizer(optimizer, request)

    def _end_step(self, optimizer: torch.optim.Optimizer, step_idx: int, number: int) -> None:
        self._is_ending_step = True
        try:
            with self.slot_state.buffers_of_slot_0(self._collectives):
                self._callbacks.end_step(optimizer, step_idx, self._batches_completed, number)
        finally:
            self._is_ending_step = False

    def _require_learning(self, call: str, instead: str = "") -> None:
        if self._is_loaded:
            raise InvalidTrialError(
                f"{call} was called, but this trial was loaded, not trained: its context takes no "
                "steps. To go on from its weights, run: trialrun submit FILE.py --from-checkpoint "
                "UUID."
            )
        if self._evaluating_method is not None:
            raise InvalidTrialError(
                f"{call} was called in {self._evaluating_method}, which must leave models and "
                f"their gradients as they are. Call it in train_batch{instead}."
            )

    def exchange(self, value: Any, call: str, *, to_all: bool) -> list[Any] | None:
        """Hands values from slot to slot where they come together."""
        if self._exchange.thread.is_in_train_batch:
            return self._exchange.among_slots(value, call, to_all, self.slots, self.meetings)
        # Loaders of the trial's own are built for one slot after the other.
        is_later_loader = self._exchange.once == SET_UP and bool(self.acting_slot)
        if is_later_loader:
            where = f"while the loader of slot {self.acting_slot} was built, after that of another"
            raise refused(call, where)
        if self._exchange.once is None:
            raise refused(
                call,
                "in code that slots do not execute together, such as evaluate_batch, a reducer or "
                "a dataset",
            )
        return self._exchange.among_processes(value, call, self.meetings)

    def set_stop_requested(self, stop_requested: bool) -> None:
        """Notes what the executing slot wishes."""
        self._stop_request.set_slot(self.slot, stop_requested)

    def slot_asks_for_stop(self, slot: int) -> bool:
        """Returns whether a slot of this process has asked for the trial's end."""
        return self._stop_request.is_from_slot(slot)

    def load_stop_request(self, slot: int, stop_requested: bool) -> None:
        """Puts back what a slot had asked for when a checkpoint was taken."""
        self._stop_request.set_slot(slot, stop_requested)

    def get_stop_requested(self) -> bool:
        """Returns this process's wish to stop."""
        return bool(self._stop_request)

    def _new_meetings(self, steps: list[str], stretch: str) -> Meetings:
        return Meetings(
            self._collectives,
            slots_each=len(self.slot_numbers),
            steps=steps,
            num_wishes=len(Event),
            stretch=stretch,
        )


def _held_elsewhere(trial: Trial, context: TrialContext) -> list[object]:
    """Returns what a reducer may refer to but does not own: it is shared, not copied."""
    modules = [module for model in context.models for module in model.modules()]
    tensors: list[object] = []
    for model in context.models:
        tensors += [*model.parameters(), *model.buffers()]
    return [trial, context, *modules, *tensors, *context.optimizers]
