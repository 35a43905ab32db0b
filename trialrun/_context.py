"""The trial's handle on the run: what it is given, what it wraps, and how it takes a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from trialrun import _batch_contents
from trialrun._batch_size import check_global_batch_size
from trialrun._construction import Construction, TrialOwner
from trialrun._engine import ClipGrads, Engine
from trialrun._errors import ConfigurationError, InvalidTrialError, nearest_name
from trialrun._experimental import Experimental
from trialrun._lr_scheduler import LRScheduler, StepMode, SupportsStep
from trialrun._reducers import MetricReducer
from trialrun._wrapped import Wrapped, WrappedReducer

_Model = TypeVar("_Model", bound=torch.nn.Module)
_Optimizer = TypeVar("_Optimizer", bound=torch.optim.Optimizer)
_Scheduler = TypeVar("_Scheduler", bound=SupportsStep)
_MetricReducer = TypeVar("_MetricReducer", bound=MetricReducer)


class TrialContext(TrialOwner):
    """What a trial knows of its run, and the calls by which it trains.

    trialrun makes it and hands it to the trial's constructor. The ``wrap`` methods take the user's
    own objects and return the same objects: no wrapper class, no prefix on parameter names.

    Args:
        hyperparameters: The trial's hyperparameters.
        num_slots: Slots that share each batch.
        seed: The trial's seed.
        device: Where this process computes.
        engine: Who executes the trial.
    """

    device: torch.device
    """Where this process computes."""
    num_slots: int
    """Logical data-parallel workers: the global batch is this many times the per-slot batch."""
    experimental: Experimental
    """What the trial may switch off at its own risk."""

    def __init__(
        self,
        *,
        hyperparameters: Mapping[str, Any],
        num_slots: int,
        seed: int,
        device: torch.device,
        engine: Engine,
    ) -> None:
        self.device = device
        self.num_slots = num_slots
        self.experimental = Experimental()
        self._hyperparameters = dict(hyperparameters)
        self._seed = seed
        self._wrapped = Wrapped()
        self._engine = engine

    def trial_begins(self, construction: Construction) -> None:
        """Called by ``Trial`` itself, before its ``__init__``."""
        self._engine.trial_begins(construction)

    # What the trial is given.

    def get_hparams(self) -> dict[str, Any]:
        """Returns all hyperparameters by name."""
        return dict(self._hyperparameters)

    def get_hparam(self, name: str) -> Any:
        """Returns one hyperparameter.

        Raises:
            ConfigurationError: There is none of that name.
        """
        if name not in self._hyperparameters:
            raise ConfigurationError(
                f"There is no hyperparameter {name!r}. Add it under 'hyperparameters' in the "
                f"configuration, or give --hp {name}=VALUE."
                + nearest_name(name, self._hyperparameters)
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

    def get_initial_batch(self) -> int:
        """Returns the batches completed when this attempt began: 0 unless it was resumed."""
        return self._engine.initial_batch

    # What the trial wraps, in its constructor.

    @property
    def models(self) -> list[torch.nn.Module]:
        """The wrapped models, in the order of wrapping."""
        return self._wrapped.models

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The wrapped optimizers, in the order of wrapping."""
        return self._wrapped.optimizers

    @property
    def lr_schedulers(self) -> list[LRScheduler]:
        """The wrapped schedulers with their step modes, in the order of wrapping."""
        return self._wrapped.lr_schedulers

    @property
    def reducers(self) -> list[WrappedReducer]:
        """The wrapped metric reducers with their names, in the order of wrapping."""
        return self._wrapped.reducers

    def wrap_model(self, model: _Model) -> _Model:
        """Puts a model under trialrun's care: moves it to the device, keeps it in checkpoints.

        Args:
            model: The user's module; it is returned itself, not a wrapper of it.

        Raises:
            InvalidTrialError: It is no module, was wrapped already, or training has begun.
        """
        self._require_set_up("wrap_model")
        self._wrapped.add_model(model)
        return model.to(self.device)

    def wrap_optimizer(self, optimizer: _Optimizer) -> _Optimizer:
        """Puts an optimizer under trialrun's care; ``step_optimizer`` then takes its steps.

        Raises:
            InvalidTrialError: It is no optimizer, was wrapped already, or training has begun.
        """
        self._require_set_up("wrap_optimizer")
        self._wrapped.add_optimizer(optimizer)
        return optimizer

    def wrap_lr_scheduler(
        self, scheduler: _Scheduler, step_mode: StepMode, frequency: int = 1
    ) -> _Scheduler:
        """Puts a learning-rate scheduler under trialrun's care, which then steps it.

        Args:
            scheduler: The scheduler; it is returned itself.
            step_mode: The event that steps it.
            frequency: Step at every ``frequency``-th event, counted from the trial's start.

        Raises:
            InvalidTrialError: The step mode or frequency is wrong, the scheduler's optimizer was
                not wrapped before, or training has begun.
        """
        self._require_set_up("wrap_lr_scheduler")
        self._wrapped.add_lr_scheduler(LRScheduler(scheduler, step_mode, frequency))
        return scheduler

    def wrap_reducer(
        self,
        reducer: _MetricReducer,
        name: str | None = None,
        for_training: bool = True,
        for_validation: bool = True,
    ) -> _MetricReducer:
        """Puts a metric reducer under trialrun's care: its result joins the reported metrics.

        Args:
            reducer: The reducer; it is returned itself.
            name: The metric's name. Without one the reducer returns a dictionary of metrics.
            for_training: Whether its result is reported with the training metrics.
            for_validation: Whether its result is reported with the validation metrics.

        Raises:
            InvalidTrialError: It is no ``MetricReducer``, was wrapped already, or training has
                begun.
        """
        self._require_set_up("wrap_reducer")
        self._wrapped.add_reducer(
            WrappedReducer(
                reducer=reducer,
                name=name,
                for_training=for_training,
                for_validation=for_validation,
            )
        )
        return reducer

    # How the trial trains.

    def backward(
        self,
        loss: torch.Tensor,
        gradient: torch.Tensor | None = None,
        retain_graph: bool = False,
        create_graph: bool = False,
    ) -> None:
        """Computes gradients, as ``loss.backward`` does; call it as often as a batch needs."""
        self._engine.backward(loss, gradient, retain_graph, create_graph)

    def step_optimizer(
        self,
        optimizer: torch.optim.Optimizer,
        clip_grads: ClipGrads | None = None,
        auto_zero_grads: bool = True,
    ) -> None:
        """Takes one step with the gradients of all slots.

        At the last batch of an aggregation window: the slots' gradients of this optimizer's
        parameters are added in one fixed order and averaged over slots and window; then come
        ``clip_grads``, the step, schedulers that follow it, and zeroing. At other batches of the
        window it returns at once. Every slot calls it equally often in a batch.

        Args:
            optimizer: A wrapped optimizer.
            clip_grads: Called with the optimizer's parameters to change their averaged gradients
                in place, such as ``lambda ps: torch.nn.utils.clip_grad_norm_(ps, 1.0)``.
            auto_zero_grads: Whether gradients are cleared after the step.

        Raises:
            InvalidTrialError: The optimizer was not wrapped; zeroing is off within an aggregation
                window; or some slots called this and others did not.
        """
        self._engine.step_optimizer(optimizer, clip_grads, auto_zero_grads)

    def to_device(self, data: Any) -> Any:
        """Returns the data with every tensor in it, however deep, on this process's device."""
        return _batch_contents.to_device(data, self.device)

    # Where the trial is.

    @property
    def slot(self) -> int:
        """The slot that is executing, or for which a loader is built, 0 to ``num_slots`` - 1."""
        return self._engine.slot

    def current_train_batch(self) -> int:
        """Returns the batches completed since the start of the trial."""
        return self._engine.batches_completed

    def current_train_epoch(self) -> int:
        """Returns the epochs completed since the start of the trial."""
        return self._engine.batches_completed // self._engine.epoch_length

    def is_epoch_start(self) -> bool:
        """Returns whether the current batch is the first of its epoch."""
        return self._engine.batches_completed % self._engine.epoch_length == 0

    def is_epoch_end(self) -> bool:
        """Returns whether the current batch is the last of its epoch."""
        return (self._engine.batches_completed + 1) % self._engine.epoch_length == 0

    def set_stop_requested(self, stop_requested: bool) -> None:
        """Asks for the trial to stop at the next batch boundary, from any slot."""
        self._engine.set_stop_requested(stop_requested)

    def get_stop_requested(self) -> bool:
        """Returns whether a slot of this process asked for the trial to stop."""
        return self._engine.get_stop_requested()

    def _require_set_up(self, method: str) -> None:
        if self._engine.is_training:
            raise InvalidTrialError(
                f"{method} was called after training began. Wrap everything in the trial's "
                "__init__."
            )
