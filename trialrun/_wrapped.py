"""What a trial has put under trialrun's care, and the rules for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from trialrun._adapted_reducers import AdaptedReducer
from trialrun._errors import InvalidTrialError
from trialrun._lr_scheduler import LRScheduler, StepMode
from trialrun._reducers import MetricReducer
from trialrun._wording import type_of


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WrappedReducer:
    """A metric reducer with the name and the reports that it was wrapped for."""

    given: object
    """What the trial updates: the reducer, or what it stands around."""
    reducer: MetricReducer
    name: str | None
    for_training: bool
    for_validation: bool

    @property
    def label(self) -> str:
        """How messages call it."""
        if self.name is not None:
            return self.name
        if isinstance(self.reducer, AdaptedReducer):
            return self.reducer.label
        return type(self.reducer).__name__


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WrappedOptimizer:
    """An optimizer with how its gradients are averaged.

    Args:
        optimizer: The optimizer.
        average_aggregated_gradients: Whether the sum is divided by the batches of a window too.
        allow_shared_parameters: Whether another optimizer may have some of its parameters.
        backward_passes_per_step: What the trial says; any number is added up.
        fp16_compression: What the trial asks for, and does not get.
    """

    optimizer: torch.optim.Optimizer
    average_aggregated_gradients: bool = True
    allow_shared_parameters: bool = False
    backward_passes_per_step: int = 1
    fp16_compression: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AutomaticAmp:
    """What ``use_amp`` was asked for.

    Args:
        dtype: What autocast computes in.
        scaler: Scales every loss; None where the type needs none.
    """

    dtype: torch.dtype
    scaler: torch.amp.GradScaler | None


class Wrapped:
    """The objects that a trial has wrapped, each kind in the order of wrapping.

    The methods check one object each and keep it; they raise ``InvalidTrialError`` where it is not
    of the kind, was wrapped already, or does not fit what was wrapped before.
    """

    models: list[torch.nn.Module]
    optimizers: list[WrappedOptimizer]
    scalers: list[torch.amp.GradScaler]
    amp: AutomaticAmp | None
    lr_schedulers: list[LRScheduler]
    reducers: list[WrappedReducer]

    def __init__(self) -> None:
        self.models = []
        self.optimizers = []
        self.scalers = []
        self.amp = None
        self.lr_schedulers = []
        self.reducers = []

    def add_model(self, model: torch.nn.Module) -> None:
        """Keeps a model."""
        if not isinstance(model, torch.nn.Module):
            raise InvalidTrialError(f"wrap_model got {type_of(model)}; it takes a torch.nn.Module.")
        _require_new(model, self.models, "wrap_model")
        self.models.append(model)

    def add_optimizer(self, wrapped: WrappedOptimizer) -> None:
        """Keeps an optimizer with how its gradients are averaged."""
        optimizer = wrapped.optimizer
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InvalidTrialError(
                f"wrap_optimizer got {type_of(optimizer)}; it takes a torch.optim.Optimizer."
            )
        passes = wrapped.backward_passes_per_step
        if isinstance(passes, bool) or not isinstance(passes, int) or passes < 1:
            raise InvalidTrialError(
                f"backward_passes_per_step={passes!r} is not a whole number of at least 1. Leave "
                "it out: the gradients of any number of backward passes are added up."
            )
        _require_new(optimizer, [o.optimizer for o in self.optimizers], "wrap_optimizer")
        self.optimizers.append(wrapped)

    def add_scaler(self, scaler: torch.amp.GradScaler) -> None:
        """Keeps a gradient scaler."""
        if not isinstance(scaler, torch.amp.GradScaler):
            raise InvalidTrialError(
                f"wrap_scaler got {type_of(scaler)}; it takes a torch.amp.GradScaler."
            )
        if self.amp is not None:
            raise InvalidTrialError(
                "wrap_scaler was called after use_amp, which has a scaler of its own where its "
                "type needs one. Use one of the two; use_amp(dtype, scaler=...) takes yours."
            )
        _require_new(scaler, self.scalers, "wrap_scaler")
        self.scalers.append(scaler)

    def set_amp(self, amp: AutomaticAmp) -> None:
        """Keeps what ``use_amp`` was asked for; its scaler is the only one."""
        if self.amp is not None:
            raise InvalidTrialError("use_amp was called twice. Call it once in __init__.")
        if self.scalers:
            raise InvalidTrialError(
                "use_amp was called after wrap_scaler, but has a scaler of its own where its type "
                "needs one. Use one of the two; use_amp(dtype, scaler=...) takes yours."
            )
        if amp.scaler is not None:
            self.add_scaler(amp.scaler)
        self.amp = amp

    def add_lr_scheduler(self, wrapped: LRScheduler) -> None:
        """Keeps a scheduler with its step mode; one that a function makes is checked then."""
        if not wrapped.has_function:
            self._check_lr_scheduler(wrapped)
        self.lr_schedulers.append(wrapped)

    def make_lr_schedulers(self) -> None:
        """Makes the schedulers that functions make."""
        for wrapped in self.lr_schedulers:
            if wrapped.has_function:
                wrapped.make()
                self._check_lr_scheduler(wrapped)

    def _check_lr_scheduler(self, wrapped: LRScheduler) -> None:
        scheduler, step_mode = wrapped.scheduler, wrapped.step_mode
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            if step_mode is not StepMode.MANUAL_STEP:
                raise InvalidTrialError(
                    f"ReduceLROnPlateau steps on a metric, which {step_mode.name} does not give. "
                    "Wrap it with StepMode.MANUAL_STEP and call its step(metric) yourself."
                )
        others = [s.scheduler for s in self.lr_schedulers if s is not wrapped and s.is_made]
        _require_new(scheduler, others, "wrap_lr_scheduler")
        optimizer = getattr(scheduler, "optimizer", None)
        known = any(optimizer is known.optimizer for known in self.optimizers)
        if not known and (optimizer is not None or step_mode is StepMode.STEP_EVERY_OPTIMIZER_STEP):
            raise InvalidTrialError(
                f"The optimizer of this {type(scheduler).__name__} was not wrapped. Call "
                "wrap_optimizer on it before wrap_lr_scheduler."
            )

    def add_reducer(self, wrapped: WrappedReducer) -> None:
        """Keeps a reducer with its name."""
        name = wrapped.name
        for known in self.reducers:
            if known.given is wrapped.given:
                raise InvalidTrialError(
                    f"wrap_reducer got the same {type(wrapped.given).__name__} twice, as "
                    f"{known.label!r} and as {wrapped.label!r}. Wrap each object once."
                )
            if _share_a_module(known.given, wrapped.given):
                raise InvalidTrialError(
                    f"The metrics of the reducers {known.label!r} and {wrapped.label!r} have one "
                    "in common, which cannot collect for both. Give one of them a copy of it, such "
                    "as metric.clone()."
                )
            shares_a_report = (known.for_training and wrapped.for_training) or (
                known.for_validation and wrapped.for_validation
            )
            if name is not None and known.name == name and shares_a_report:
                raise InvalidTrialError(
                    f"Two reducers are called {name!r}, {type_of(known.given)} and "
                    f"{type_of(wrapped.given)}. Give each metric a name of its own."
                )
        self.reducers.append(wrapped)


def _require_new(item: object, wrapped: Sequence[object], method: str) -> None:
    if any(item is known for known in wrapped):
        raise InvalidTrialError(
            f"{method} got the same {type(item).__name__} twice. Wrap each object once."
        )


def _share_a_module(one: object, other: object) -> bool:
    if not isinstance(one, torch.nn.Module) or not isinstance(other, torch.nn.Module):
        return False
    return not {*one.modules()}.isdisjoint(other.modules())
