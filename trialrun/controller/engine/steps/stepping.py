"""What stands behind the context's ``backward`` and ``step_optimizer``, for all optimizers.

It knows where in the aggregation window training is, which scaler takes part, and what may not be
asked for together; ``optimization.py`` takes the step.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch

from trialrun._context import TrialContext
from trialrun._engine import BackwardInputs, Closure
from trialrun._errors import InvalidTrialError
from trialrun._wording import count, type_of
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.parallel.meetings import Meetings
from trialrun.controller.engine.parallel.slots import Slots
from trialrun.controller.engine.randomness import Generators
from trialrun.controller.engine.steps.early_sums import EarlySums
from trialrun.controller.engine.steps.lr_schedules import Schedules, scheduler_label
from trialrun.controller.engine.steps.mixed_precision import MixedPrecision
from trialrun.controller.engine.steps.optimization import (
    OptimizerSteps,
    StepRequest,
    StepSurroundings,
    step_label,
)
from trialrun.controller.engine.steps.parameters import parameter_names, require_unshared
from trialrun.controller.engine.steps.scaling import Scalers, Scaling, scaler_label
from trialrun.controller.engine.steps.unwrapped_schedulers import UnwrappedSchedulers
from trialrun.samplers.addresses import Stream

logger = logging.getLogger(__name__)

# A trial may have its reasons not to step in its first batches; but not so many.
_PATIENCE_WINDOWS = 100
_STEP = "    self.context.backward(loss)\n    self.context.step_optimizer(self.optimizer)"


def meeting_places(context: TrialContext) -> list[str]:
    """Returns what is done where slots meet: at optimizers, then scalers, then schedulers."""
    return [
        *(step_label(*numbered) for numbered in enumerate(context.optimizers)),
        *(scaler_label(index) for index in range(len(context.scalers))),
        *(scheduler_label(*numbered) for numbered in enumerate(context.lr_schedulers)),
    ]


class Stepping:
    """The steps of a trial.

    Args:
        context: What the trial has wrapped.
        num_slots: S.
        aggregation_frequency: Batches in an aggregation window.
        slots: The slots of this process.
        collectives: The processes.
        meetings: Where they tell each other which step they take, by its ``meeting_places``.
        generators: The process's random generators.
        mixed_precision: What the trial's methods run under after ``use_amp``.
        prepare_thread: Called first in a new thread.
        step_ended: Called after each step, once in each process, with the optimizer, its steps
            before that one, and the steps of all before that one in the batch; None: nobody
            listens.

    Raises:
        InvalidTrialError: Two optimizers share parameters.
    """

    steps: list[OptimizerSteps]
    """How each wrapped optimizer steps."""
    scalers: Scalers
    """The wrapped gradient scalers."""
    schedules: Schedules
    """How the wrapped schedulers step."""
    unwrapped_schedulers: UnwrappedSchedulers
    """Finds those of which no checkpoint would know."""

    def __init__(
        self,
        context: TrialContext,
        *,
        num_slots: int,
        aggregation_frequency: int,
        slots: Slots,
        collectives: Collectives,
        meetings: Meetings,
        generators: Generators,
        mixed_precision: MixedPrecision | None,
        prepare_thread: Callable[[], None],
        step_ended: Callable[[torch.optim.Optimizer, int, int], None] | None,
    ) -> None:
        names = parameter_names(context.models)
        require_unshared(context.wrapped_optimizers, names)
        self._optimizers = context.optimizers
        self._aggregation_frequency = aggregation_frequency
        self._is_chief = collectives.is_chief
        self._generators = generators
        self._mixed_precision = mixed_precision
        self._batch = 0
        self._num_meetings = 0
        self._num_steps = 0
        self._step_ended = step_ended
        self._is_training_batch = False
        # In the order of ``meeting_places``.
        first_scaler = len(context.optimizers)
        first_scheduler = first_scaler + len(context.scalers)
        self.scalers = Scalers(
            context.scalers,
            None if mixed_precision is None else mixed_precision.scaler,
            num_slots=num_slots,
            slots=slots,
            window_is_complete=lambda: self._window_is_complete,
            is_training_batch=lambda: self._is_training_batch,
            announce=lambda index: meetings.announce(first_scaler + index),
        )
        self.schedules = Schedules(
            context.lr_schedulers,
            num_slots=num_slots,
            slots=slots,
            collectives=collectives,
            is_training_batch=lambda: self._is_training_batch,
            announce=lambda index: meetings.announce(first_scheduler + index),
        )
        self.unwrapped_schedulers = UnwrappedSchedulers(context.optimizers, context.lr_schedulers)
        # In a window each batch is added to those before it, where it cannot be taken back.
        self._early = (
            EarlySums(collectives.early, slots, prepare_thread)
            if collectives.early is not None and aggregation_frequency == 1
            else None
        )
        surroundings = StepSurroundings(
            num_slots=num_slots,
            aggregation_frequency=aggregation_frequency,
            names=names,
            slots=slots,
            collectives=collectives,
            meetings=meetings,
            step_scheduler=self.schedules.step,
            prepare_thread=prepare_thread,
            early=self._early,
            for_all_slots=self._for_all_slots,
            step_ended=None if step_ended is None else self._end_step,
        )
        self.steps = [
            OptimizerSteps(
                index=index,
                wrapped=wrapped,
                schedulers=self.schedules.of_optimizer(wrapped.optimizer),
                surroundings=surroundings,
            )
            for index, wrapped in enumerate(context.wrapped_optimizers)
        ]
        self._warn_of_compression(context)

    def begin_batch(self, batch: int) -> None:
        """Slots execute ``train_batch`` from here on.

        Args:
            batch: Its number since the start of the trial.
        """
        self._batch = batch
        self._num_meetings = self._num_steps = 0
        self._is_training_batch = True

    def leave_batch(self) -> None:
        """All slots have finished it, or one has failed."""
        self._is_training_batch = False

    def end_batch(self, epoch_length: int) -> None:
        """Does what follows a batch that all slots have finished.

        Args:
            epoch_length: Batches in an epoch.

        Raises:
            InvalidTrialError: After many windows no optimizer has learned anything.
        """
        self.unwrapped_schedulers.require_no_later_one()
        if self._early is not None:
            self._early.end_batch()
        stop = self._batch + 1
        num_windows, rest = divmod(stop, self._aggregation_frequency)
        if rest:
            return
        self.scalers.end_window()
        if num_windows == 1:
            self._warn_of_missing_steps()
        if num_windows == _PATIENCE_WINDOWS:
            self.require_learning(stop)
        if self.schedules:
            window = range(stop - self._aggregation_frequency, stop)
            self.schedules.after_window(window, epoch_length)

    def left_over(self) -> dict[torch.nn.Parameter, torch.Tensor]:
        """Returns sums over slots of a window in whose last batch their optimizer took no step.

        All processes call it after each batch, and get the same: usually nothing.
        """
        if self._aggregation_frequency == 1 or not self._window_is_complete:
            return {}
        sums: dict[torch.nn.Parameter, torch.Tensor] = {}
        for steps in self.steps:
            for parameter, total in steps.take_accumulated().items():
                sums[parameter] = total if parameter not in sums else sums[parameter] + total
        return sums

    def require_learning(self, num_batches: int) -> None:
        """Refuses a trial none of whose optimizers has taken a step with gradients.

        Args:
            num_batches: Batches completed, for the error.

        Raises:
            InvalidTrialError: That is so; the message has the lines to write.
        """
        if any(steps.has_learned for steps in self.steps):
            return
        learned = f"so nothing was learned in {count(num_batches, 'batch')}"
        if any(steps.num_steps for steps in self.steps):
            raise InvalidTrialError(
                f"Optimizers were stepped, but no parameter of theirs had a gradient, {learned}. "
                f"Write in train_batch, with a loss that depends on the wrapped models:\n{_STEP}"
            )
        raise InvalidTrialError(
            f"train_batch did not call context.step_optimizer, {learned}. Write in train_batch:\n"
            f"{_STEP}\nTo step at every n-th batch, set aggregation_frequency to n."
        )

    def close(self) -> None:
        """Gives optimizers, scalers and schedulers back: a script may use them after training."""
        for steps in self.steps:
            steps.close()
        if self._early is not None:
            self._early.close()
        self.scalers.close()
        self.schedules.close()

    def backward(
        self,
        loss: torch.Tensor,
        gradient: torch.Tensor | None,
        retain_graph: bool,
        create_graph: bool,
        inputs: BackwardInputs | None,
    ) -> None:
        """Adds to the gradients of the executing slot, which are the parameters' present ones."""
        with self._early.backward() if self._early is not None else contextlib.nullcontext():
            if self._mixed_precision is None:
                plain_backward(loss, gradient, retain_graph, create_graph, inputs)
                return
            with self._mixed_precision.suspended():
                scaled = self._mixed_precision.scaled(loss)
                plain_backward(scaled, gradient, retain_graph, create_graph, inputs)

    def step_optimizer(self, optimizer: torch.optim.Optimizer, request: StepRequest) -> Any:
        """Takes the step at the end of an aggregation window.

        Raises:
            InvalidTrialError: The request does not fit the optimizer, the window or the scalers.
        """
        steps = self._steps_of(optimizer)
        scaling = self.scalers.taking_part(request.scaler)
        if request.clip_grads is not None and not callable(request.clip_grads):
            raise InvalidTrialError(
                f"clip_grads={request.clip_grads!r} cannot be called. It is a function that gets "
                "the parameters, such as lambda ps: torch.nn.utils.clip_grad_norm_(ps, 1.0)."
            )
        if self._aggregation_frequency > 1:
            self._require_fit_for_windows(request)
        if request.closure is not None or steps.requires_closure:
            _require_fit_for_closure(optimizer, request.closure, has_scaler=scaling is not None)
        if self._mixed_precision is None:
            return self._step_or_accumulate(steps, request, scaling)
        if request.closure is not None:
            closure = self._mixed_precision.around(request.closure)
            request = request._replace(closure=closure)
        with self._mixed_precision.suspended():
            return self._step_or_accumulate(steps, request, scaling)

    def metrics(self) -> dict[str, float]:
        """Returns what is reported beside the training metrics where losses are scaled."""
        if not self.scalers:
            return {}
        num_skipped = sum(steps.num_skipped for steps in self.steps)
        return {**self.scalers.metrics(), "amp_skipped_steps": float(num_skipped)}

    def _step_or_accumulate(
        self, steps: OptimizerSteps, request: StepRequest, scaling: Scaling | None
    ) -> Any:
        if self._window_is_complete:
            return steps.step(request, scaling)
        steps.accumulate()
        return None

    @property
    def _window_is_complete(self) -> bool:
        return (self._batch + 1) % self._aggregation_frequency == 0

    @contextlib.contextmanager
    def _for_all_slots(self) -> Iterator[None]:
        """A step's own address: every process takes it, each in the thread of another slot."""
        with self._generators.apart(Stream.OPTIMIZER, self._batch, self._num_meetings):
            self._num_meetings += 1
            yield

    def _end_step(self, optimizer: torch.optim.Optimizer, step_idx: int) -> None:
        assert self._step_ended is not None
        number = self._num_steps
        self._num_steps += 1
        # What it calls, such as a scheduler's ``step``, is called once in each process.
        self._is_training_batch = False
        try:
            self._step_ended(optimizer, step_idx, number)
        finally:
            self._is_training_batch = True

    def _steps_of(self, optimizer: torch.optim.Optimizer) -> OptimizerSteps:
        for steps, wrapped in zip(self.steps, self._optimizers, strict=True):
            if wrapped is optimizer:
                return steps
        raise InvalidTrialError(
            f"step_optimizer got {type_of(optimizer)} that was not wrapped. Call "
            "context.wrap_optimizer on it in the trial's __init__."
        )

    def _require_fit_for_windows(self, request: StepRequest) -> None:
        window = self._aggregation_frequency
        if not request.auto_zero_grads:
            raise InvalidTrialError(
                f"auto_zero_grads=False within aggregation windows of {window} batches would add "
                "gradients twice. Leave it at True, or set aggregation_frequency to 1."
            )
        if request.closure is not None:
            raise InvalidTrialError(
                f"closure= within aggregation windows of {window} batches would see the last of "
                "them alone. Set aggregation_frequency to 1."
            )

    def _warn_of_missing_steps(self) -> None:
        if not self._is_chief:
            return
        for index, steps in enumerate(self.steps):
            if steps.num_steps + steps.num_skipped == 0:
                logger.warning(
                    "Optimizer %d (%s) was wrapped, but took no step in the first batches. Call "
                    "context.step_optimizer in train_batch.",
                    index,
                    type(self._optimizers[index]).__name__,
                )
        for index in self.scalers.unused():
            logger.warning(
                "Gradient scaler %d has scaled a loss, but took part in no step, so that scaled "
                "gradients were used. Call context.step_optimizer(optimizer, scaler=scaler).",
                index,
            )

    def _warn_of_compression(self, context: TrialContext) -> None:
        if not self._is_chief:
            return
        for index, wrapped in enumerate(context.wrapped_optimizers):
            if wrapped.fp16_compression:
                logger.warning(
                    "fp16_compression is not used for optimizer %d (%s): its gradients travel in "
                    "their own type, or the number of processes would change the result. Leave it "
                    "out.",
                    index,
                    type(wrapped.optimizer).__name__,
                )


def plain_backward(
    loss: torch.Tensor,
    gradient: torch.Tensor | None,
    retain_graph: bool,
    create_graph: bool,
    inputs: BackwardInputs | None,
) -> None:
    """Calls ``loss.backward``."""
    loss.backward(  # type: ignore[no-untyped-call]  # torch leaves it untyped
        gradient=gradient,
        # As torch does by itself: what is differentiated again needs the graph.
        retain_graph=retain_graph or create_graph,
        create_graph=create_graph,
        inputs=inputs,
    )


def _require_fit_for_closure(
    optimizer: torch.optim.Optimizer, closure: Closure | None, *, has_scaler: bool
) -> None:
    name = type(optimizer).__name__
    if closure is None:
        raise InvalidTrialError(
            f"{name} evaluates the loss several times in a step, so it needs a closure. Call "
            "context.step_optimizer(optimizer, closure=closure) with a function that computes the "
            "loss, calls context.backward(loss) and returns it."
        )
    if not callable(closure):
        raise InvalidTrialError(
            f"closure={closure!r} cannot be called. It is a function without arguments that "
            "computes the loss, calls context.backward(loss) and returns it."
        )
    if has_scaler:
        raise InvalidTrialError(
            f"{name} got a closure and a gradient scaler, which torch does not allow together: "
            "a step could not be skipped in its middle. Leave the scaler out, or compute in "
            "bfloat16, which needs none."
        )
