"""The trial's handle on the run: what it is given, what it wraps, and how it takes a step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import torch

from trialrun import _batch_contents
from trialrun._adapted_reducers import FunctionReducer
from trialrun._batch_size import check_global_batch_size
from trialrun._clock import Clock
from trialrun._construction import Construction, TrialOwner
from trialrun._distributed import Distributed
from trialrun._engine import BackwardInputs, ClipGrads, Closure, Engine
from trialrun._errors import (
    ConfigurationError,
    InvalidTrialError,
    UnknownHyperparameterError,
    nearest_name,
)
from trialrun._experimental import Experimental
from trialrun._lr_scheduler import LRScheduler, StepMode, SupportsStep
from trialrun._profiling import make_profiler
from trialrun._reducers import MetricReducer
from trialrun._run_record import RunRecord
from trialrun._tensorboard import TensorBoard
from trialrun._wording import with_type
from trialrun._wrapped import AutomaticAmp, Wrapped, WrappedOptimizer, WrappedReducer
from trialrun._wrapping_reducers import make_wrapped_reducer

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_Model = TypeVar("_Model", bound=torch.nn.Module)
_Optimizer = TypeVar("_Optimizer", bound=torch.optim.Optimizer)
_Scheduler = TypeVar("_Scheduler", bound=SupportsStep)
_Scaler = TypeVar("_Scaler", bound=torch.amp.GradScaler)
# A metric of torchmetrics is a module.
_Reducing = TypeVar("_Reducing", bound=MetricReducer | torch.nn.Module)


class TrialContext(Clock, TrialOwner):
    """What a trial knows of its run, and the calls by which it trains.

    trialrun makes it and hands it to the trial's constructor. The ``wrap`` methods take the user's
    own objects and return the same objects: no wrapper class, no prefix on parameter names.

    Args:
        hyperparameters: The trial's hyperparameters.
        num_slots: Slots that share each batch.
        seed: The trial's seed.
        device: Where this process computes.
        engine: Who executes the trial.
        tensorboard: The trial's TensorBoard events; None where nothing is kept.
        record: What is on record about the run.
    """

    device: torch.device
    """Where this process computes."""
    num_slots: int
    """Logical data-parallel workers: the global batch is this many times the per-slot batch."""
    experimental: Experimental
    """What the trial may switch off at its own risk."""
    distributed: Distributed
    """How slots hand values to each other."""
    profiler: torch.profiler.profile | None
    """What ``set_profiler`` has made."""

    def __init__(
        self,
        *,
        hyperparameters: Mapping[str, Any],
        num_slots: int,
        seed: int,
        device: torch.device,
        engine: Engine,
        tensorboard: TensorBoard | None = None,
        record: RunRecord | None = None,
    ) -> None:
        super().__init__(engine)
        self.device = device
        self.num_slots = num_slots
        self.experimental = Experimental(device=device, set_amp=self._set_amp)
        self.distributed = Distributed(engine, num_slots)
        self.profiler = None
        self._hyperparameters = dict(hyperparameters)
        self._seed = seed
        self._wrapped = Wrapped()
        self._tensorboard = tensorboard or TensorBoard(
            None, logs_metrics=None, engine=engine, is_chief=True
        )
        self._record = record or RunRecord()
        self._warned_types: set[type] = set()

    def trial_begins(self, construction: Construction) -> None:
        """Called by ``Trial`` itself, before its ``__init__``."""
        self._engine.trial_begins(construction)

    def run_begins(self, record: RunRecord) -> None:
        """Called by trialrun itself, where a run is not on record before its trial is made."""
        self._record = record

    # What the trial is given.

    def get_hparams(self) -> dict[str, Any]:
        """Returns all hyperparameters by name."""
        return dict(self._hyperparameters)

    def get_hparam(self, name: str) -> Any:
        """Returns one hyperparameter.

        Raises:
            ConfigurationError: There is none of that name; it is a ``ValueError`` too.
        """
        if name not in self._hyperparameters:
            known = nearest_name(str(name), self._hyperparameters, lists_all=True)
            raise UnknownHyperparameterError(
                f"There is no hyperparameter {name!r}.{known} Add it under 'hyperparameters' in "
                f"the configuration, or give --hp {name}=VALUE."
            )
        return self._hyperparameters[name]

    def get_global_batch_size(self) -> int:
        """Returns the records of one batch over all slots: hyperparameter global_batch_size.

        Raises:
            ConfigurationError: It is not given, or not a whole number that the slots divide.
        """
        return check_global_batch_size(self.get_hparam("global_batch_size"), self.num_slots)

    def get_per_slot_batch_size(self) -> int:
        """Returns the records of one slot's share: the global batch size over the slots."""
        return self.get_global_batch_size() // self.num_slots

    def get_trial_seed(self) -> int:
        """Returns the seed of which all of the trial's randomness is a function."""
        return self._seed

    def get_experiment_config(self) -> dict[str, Any]:
        """Returns a copy of the experiment's configuration, complete.

        It has the keys of the file that was submitted: those of ``trial.yaml``, or Determined's.

        Raises:
            ConfigurationError: This context was made without one.
        """
        if self._record.experiment_config is None:
            raise ConfigurationError(
                "This context was made without an experiment's configuration. Submit the trial, or "
                "read what you need with get_hparam."
            )
        config = self._record.experiment_config
        return copy.deepcopy(dict(config.get("determined") or config))

    def get_data_config(self) -> dict[str, Any]:
        """Returns the configuration's ``data``: what the trial says to itself about its data.

        Raises:
            ConfigurationError: This context was made without a configuration.
        """
        data: dict[str, Any] | None = self.get_experiment_config().get("data")
        return {} if data is None else data

    def get_experiment_id(self) -> int:
        """Returns the experiment's number; 0 where nothing is recorded, as in a rehearsal."""
        return self._record.experiment_id

    def get_trial_id(self) -> int:
        """Returns the trial's number; 0 where nothing is recorded, as in a rehearsal."""
        return self._record.trial_id

    # What the trial wraps, in its constructor.

    @property
    def models(self) -> list[torch.nn.Module]:
        """The wrapped models, in the order of wrapping."""
        return self._wrapped.models

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The wrapped optimizers, in the order of wrapping."""
        return [wrapped.optimizer for wrapped in self._wrapped.optimizers]

    @property
    def wrapped_optimizers(self) -> list[WrappedOptimizer]:
        """The wrapped optimizers with how their gradients are averaged."""
        return self._wrapped.optimizers

    @property
    def scalers(self) -> list[torch.amp.GradScaler]:
        """The wrapped gradient scalers, in the order of wrapping; that of ``use_amp`` is one."""
        return self._wrapped.scalers

    @property
    def amp(self) -> AutomaticAmp | None:
        """What ``experimental.use_amp`` was asked for; None without automatic mixed precision."""
        return self._wrapped.amp

    @property
    def lr_schedulers(self) -> list[LRScheduler]:
        """The wrapped schedulers with their step modes, in the order of wrapping.

        Those that functions make are among them when they are made.
        """
        return [wrapped for wrapped in self._wrapped.lr_schedulers if wrapped.is_made]

    @property
    def reducers(self) -> list[WrappedReducer]:
        """The wrapped metric reducers with their names, in the order of wrapping."""
        return self._wrapped.reducers

    def wrap_model(self, model: _Model) -> _Model:
        """Puts a model under trialrun's care: moves it to the device, keeps it in checkpoints.

        Args:
            model: The user's module; it is returned itself, not a wrapper of it.

        Raises:
            InvalidTrialError: It is no module, was wrapped already, or __init__ is over.
        """
        self._require_constructor("wrap_model")
        self._wrapped.add_model(model)
        return model.to(self.device)

    def wrap_optimizer(
        self,
        optimizer: _Optimizer,
        backward_passes_per_step: int = 1,
        fp16_compression: bool | None = None,
        average_aggregated_gradients: bool | None = None,
        *,
        allow_shared_parameters: bool = False,
    ) -> _Optimizer:
        """Puts an optimizer under trialrun's care; ``step_optimizer`` then takes its steps.

        The gradients of all ``backward`` passes of a slot since its last step are added up, as in
        any loop. At a step their sum over slots is divided by the number of slots and, with
        ``average_aggregated_gradients``, by the batches of the aggregation window; never by
        backward passes.

        Args:
            optimizer: The optimizer; it is returned itself.
            backward_passes_per_step: Changes nothing: any number of passes is added up. It is
                here for trials written for Determined, where Horovod must know it.
            fp16_compression: True is answered with a warning: gradients travel in their own type,
                or the number of processes would change the result.
            average_aggregated_gradients: False divides by the number of slots alone. None is True.
            allow_shared_parameters: Whether another wrapped optimizer may have some of its
                parameters: the step of either then moves them, and clears their gradients.

        Raises:
            InvalidTrialError: It is no optimizer, was wrapped already, an argument is wrong, or
                __init__ is over.
        """
        self._require_constructor("wrap_optimizer")
        self._wrapped.add_optimizer(
            WrappedOptimizer(
                optimizer=optimizer,
                average_aggregated_gradients=average_aggregated_gradients is not False,
                allow_shared_parameters=allow_shared_parameters,
                backward_passes_per_step=backward_passes_per_step,
                fp16_compression=bool(fp16_compression),
            )
        )
        return optimizer

    def wrap_scaler(self, scaler: _Scaler) -> _Scaler:
        """Puts a gradient scaler under trialrun's care: checkpoints hold it, metrics report it.

        ``train_batch`` then scales its loss with ``context.backward(scaler.scale(loss))``, passes
        the scaler to ``context.step_optimizer(optimizer, scaler=scaler)``, and calls
        ``scaler.update()`` after the last step, in every slot: all slots wait for each other
        there, and the scale is updated once. Within an aggregation window ``update`` returns at
        once, as ``step_optimizer`` does.

        Args:
            scaler: The scaler; it is returned itself. It may be disabled.

        Raises:
            InvalidTrialError: It is no ``torch.amp.GradScaler``, was wrapped already, ``use_amp``
                was called, or __init__ is over.
        """
        self._require_constructor("wrap_scaler")
        self._wrapped.add_scaler(scaler)
        return scaler

    @overload
    def wrap_lr_scheduler(
        self, lr_scheduler: _Scheduler, step_mode: StepMode, frequency: int = 1
    ) -> _Scheduler: ...

    @overload
    def wrap_lr_scheduler(
        self, lr_scheduler: Callable[[], SupportsStep], step_mode: StepMode, frequency: int = 1
    ) -> LRScheduler: ...

    def wrap_lr_scheduler(self, lr_scheduler: Any, step_mode: StepMode, frequency: int = 1) -> Any:
        """Puts a learning-rate scheduler under trialrun's care, which then steps it.

        Args:
            lr_scheduler: The scheduler; it is returned itself. Or a function without arguments that
                makes it: it is called when the training data is built, so that
                ``get_total_batches`` is known whatever the unit of ``max_length``; what is returned
                has the scheduler's ``step`` and ``get_last_lr``.
            step_mode: The event that steps it. With ``MANUAL_STEP`` the trial calls its ``step``:
                in ``train_batch`` every slot calls it, and it steps once for all.
            frequency: Step at every ``frequency``-th event, counted from the trial's start.

        Raises:
            InvalidTrialError: It is no scheduler, the step mode or frequency is wrong, the
                scheduler's optimizer was not wrapped before, or __init__ is over.
        """
        self._require_constructor("wrap_lr_scheduler")
        wrapped = LRScheduler(lr_scheduler, step_mode, frequency)
        self._wrapped.add_lr_scheduler(wrapped)
        return wrapped if wrapped.has_function else lr_scheduler

    def make_lr_schedulers(self) -> None:
        """Called by trialrun itself when the trial's length is known."""
        self._wrapped.make_lr_schedulers()

    @overload
    def wrap_reducer(
        self,
        reducer: _Reducing,
        name: str | None = None,
        for_training: bool = True,
        for_validation: bool = True,
    ) -> _Reducing: ...

    @overload
    def wrap_reducer(
        self,
        reducer: str,
        name: str | None = None,
        for_training: bool = True,
        for_validation: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> Any: ...

    @overload
    def wrap_reducer(
        self,
        reducer: Callable[[list[Any]], Any],
        name: str | None = None,
        for_training: bool = True,
        for_validation: bool = True,
    ) -> FunctionReducer: ...

    def wrap_reducer(
        self,
        reducer: Any,
        name: str | None = None,
        for_training: bool = True,
        for_validation: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Puts a metric over all slots under trialrun's care: its result joins the reported ones.

        Args:
            reducer: A ``MetricReducer``, or a ``torchmetrics`` metric or collection: it is returned
                itself. A function: what is returned collects by ``update(value)``, and the function
                gets a list of all values, in the order of batches and slots. A text: the name of a
                reducer that an installed package brings (``trialrun reducers`` lists them).
            name: The metric's name. Without one the reducer returns a dictionary of metrics.
            for_training: Whether its result is reported with the training metrics.
            for_validation: Whether its result is reported with the validation metrics.
            options: Keyword arguments with which a package's reducer is made.

        Returns:
            The object whose ``update`` the trial calls.

        Raises:
            InvalidTrialError: It is none of these, was wrapped already, another has its name, no or
                more than one package brings it, or training has begun.
        """
        # Later too, as it has no weights that a loaded trial, which builds no data, would miss.
        if self._engine.is_training:
            raise InvalidTrialError(
                "wrap_reducer was called after training began. Wrap everything in the trial's "
                "__init__."
            )
        wrapped = make_wrapped_reducer(
            reducer,
            name=name,
            for_training=for_training,
            for_validation=for_validation,
            options=options,
            device=self.device,
        )
        self._wrapped.add_reducer(wrapped)
        return wrapped.given

    # How the trial trains.

    def backward(
        self,
        loss: torch.Tensor,
        gradient: torch.Tensor | None = None,
        retain_graph: bool = False,
        create_graph: bool = False,
        inputs: BackwardInputs | None = None,
    ) -> None:
        """Computes gradients, as ``loss.backward`` does; call it as often as a batch needs.

        After ``use_amp`` with a scaler it scales the loss, and so all gradients.

        Args:
            loss: What is differentiated, usually one number.
            gradient: For a loss of several numbers, how much each of them counts.
            retain_graph: Whether there may be another pass through the same graph.
            create_graph: Whether the gradients may be differentiated again, as for a penalty on
                them; the graph is then retained too.
            inputs: The leaves whose gradients are computed, such as one model's parameters; None:
                all that the loss depends on.

        Raises:
            InvalidTrialError: It is called where nothing is trained, such as in ``evaluate_batch``.
        """
        self._engine.backward(loss, gradient, retain_graph, create_graph, inputs)

    def step_optimizer(
        self,
        optimizer: torch.optim.Optimizer,
        clip_grads: ClipGrads | None = None,
        auto_zero_grads: bool = True,
        scaler: torch.amp.GradScaler | None = None,
        closure: Closure | None = None,
    ) -> Any:
        """Takes one step with the gradients of all slots.

        At the last batch of an aggregation window: the slots' gradients of this optimizer's
        parameters are added in one fixed order and averaged over slots and window; then come
        unscaling, ``clip_grads``, the step, schedulers that follow it, and zeroing. A scaler that
        finds infinities or NaN skips the step, on all slots, and the schedulers with it. At other
        batches of the window it returns at once. Every slot calls it equally often in a batch.

        Args:
            optimizer: A wrapped optimizer.
            clip_grads: Called with the optimizer's parameters to change their averaged gradients
                in place, such as ``lambda ps: torch.nn.utils.clip_grad_norm_(ps, 1.0)``.
            auto_zero_grads: Whether gradients are cleared after the step.
            scaler: The wrapped scaler that has scaled the loss. After ``use_amp`` its own takes
                part without being passed.
            closure: Computes the loss, calls ``backward`` and returns the loss; LBFGS needs one.
                Each time that the optimizer evaluates it every slot evaluates its own, beginning
                with cleared gradients; the optimizer sees the averaged gradients, after
                ``clip_grads``, and the mean of the losses.

        Returns:
            What the optimizer's own ``step`` returned: with a closure usually the loss of its
            first evaluation, averaged over slots; else None.

        Raises:
            InvalidTrialError: It is called where nothing is trained, such as in ``evaluate_batch``;
                the optimizer or scaler was not wrapped; zeroing is off, or a closure
                is given, within an aggregation window; a closure is given with a scaler, or is
                missing; or some slots called this and others did not.
        """
        return self._engine.step_optimizer(optimizer, clip_grads, auto_zero_grads, scaler, closure)

    def to_device(self, data: Any) -> Any:
        """Returns the data with every tensor in it, however deep, on this process's device.

        What cannot be moved stays as it is, with one warning for each type.
        """
        return _batch_contents.to_device(data, self.device, self._warned_types)

    # What people look at.

    def get_tensorboard_path(self) -> Path:
        """Returns the folder of the trial's TensorBoard events.

        In a rehearsal it is a folder that is deleted at the end.

        Raises:
            InvalidTrialError: Nothing of this run is kept.
        """
        return self._tensorboard.path

    def get_tensorboard_writer(self) -> SummaryWriter:
        """Returns a ``torch.utils.tensorboard.SummaryWriter`` for events of the trial's own.

        Every slot may use it; it writes what slot 0 says, and discards what the others say.

        Raises:
            ConfigurationError: tensorboard is not installed.
            InvalidTrialError: Nothing of this run is kept.
        """
        return self._tensorboard.writer()

    def set_enable_tensorboard_logging(self, enable_tensorboard_logging: bool) -> None:
        """Says whether reported metrics are written as TensorBoard events, from now on.

        Raises:
            ConfigurationError: tensorboard is not installed.
            InvalidTrialError: It is not a bool.
        """
        self._tensorboard.logs_metrics = enable_tensorboard_logging

    def get_enable_tensorboard_logging(self) -> bool:
        """Returns whether reported metrics are written, where tensorboard is installed."""
        return self._tensorboard.logs_metrics

    def set_profiler(self, *args: Any, **kwargs: Any) -> None:
        """Profiles the training with ``torch.profiler.profile``, which takes these arguments.

        It is started once for the attempt, and stepped after every batch; without a ``schedule`` it
        records all of it. Traces go to ``get_tensorboard_path()``, unless ``on_trace_ready`` is
        given. The operations of all slots of the process are in them.

        Raises:
            InvalidTrialError: Training has begun, or nothing of this run is kept.
        """
        if self._engine.is_training:
            raise InvalidTrialError(
                "set_profiler was called after training began. Call it in the trial's __init__."
            )
        self.profiler = make_profiler(self.get_tensorboard_path(), *args, **kwargs)

    # Where the trial is.

    @property
    def slot(self) -> int:
        """The slot that is executing, or for which a loader is built, 0 to ``num_slots`` - 1."""
        return self._engine.slot

    def set_stop_requested(self, stop_requested: bool) -> None:
        """Ends the trial early: any slot may ask for it, at any time.

        It is then complete, with a validation and a checkpoint of its last batch: the one after
        that in which ``train_batch`` asks, the same one where a callback asks between batches.
        Within an aggregation window it is the window's last.

        Raises:
            InvalidTrialError: It is not a bool.
        """
        if not isinstance(stop_requested, bool):
            raise InvalidTrialError(
                f"set_stop_requested got {with_type(stop_requested)}; it takes True or False."
            )
        self._engine.set_stop_requested(stop_requested)

    def get_stop_requested(self) -> bool:
        """Returns whether a slot of this process asked for the trial to stop."""
        return self._engine.get_stop_requested()

    def _set_amp(self, amp: AutomaticAmp) -> None:
        self._require_constructor("use_amp")
        self._wrapped.set_amp(amp)

    def _require_constructor(self, method: str) -> None:
        if self._engine.is_built:
            raise InvalidTrialError(
                f"{method} was called after the trial's __init__ had ended. Wrap everything in "
                "__init__."
            )
