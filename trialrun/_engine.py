"""What a trial's context asks of whoever executes the trial.

The controller implements this; the context hands the trial's calls on to it. So the classes that
users import know nothing of processes, reductions or checkpoints.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch

    from trialrun._construction import Construction

ClipGrads = Callable[[Iterable["torch.nn.Parameter"]], object]
"""Changes gradients in place: gets the parameters, whose gradients are summed and averaged."""

BackwardInputs: TypeAlias = "torch.Tensor | Sequence[torch.Tensor]"
"""The leaves of which ``backward`` computes gradients."""

Closure = Callable[[], Any]
"""Computes a loss and its gradients, and returns the loss."""


class Engine(abc.ABC):
    """Executes the slots of a trial and keeps its clock."""

    def trial_begins(self, construction: Construction) -> None:  # noqa: B027 - may do nothing
        """Called before the trial's constructor runs."""

    @property
    @abc.abstractmethod
    def is_built(self) -> bool:
        """Whether the trial's constructor is over, so that only reducers can still be wrapped."""

    @property
    @abc.abstractmethod
    def is_training(self) -> bool:
        """Whether training has begun, so that nothing can be wrapped any more."""

    @property
    @abc.abstractmethod
    def slot(self) -> int:
        """The slot that is executing, 0 to slots - 1."""

    @property
    @abc.abstractmethod
    def initial_batch(self) -> int:
        """Batches completed when this attempt began."""

    @property
    @abc.abstractmethod
    def batches_completed(self) -> int:
        """The clock."""

    @property
    @abc.abstractmethod
    def epoch_length(self) -> int:
        """Batches in an epoch."""

    @property
    @abc.abstractmethod
    def aggregation_frequency(self) -> int:
        """Batches in an aggregation window."""

    @property
    @abc.abstractmethod
    def total_batches(self) -> int:
        """The trial's length, a whole number of windows; an error where it is not known."""

    @abc.abstractmethod
    def backward(
        self,
        loss: torch.Tensor,
        gradient: torch.Tensor | None,
        retain_graph: bool,
        create_graph: bool,
        inputs: BackwardInputs | None,
    ) -> None:
        """Adds the gradients of the loss to those of the executing slot."""

    @abc.abstractmethod
    def step_optimizer(
        self,
        optimizer: torch.optim.Optimizer,
        clip_grads: ClipGrads | None,
        auto_zero_grads: bool,
        scaler: torch.amp.GradScaler | None,
        closure: Closure | None,
    ) -> Any:
        """Sums the slots' gradients, averages, unscales, clips, steps and zeroes, once for all."""

    @abc.abstractmethod
    def exchange(self, value: Any, call: str, *, to_all: bool) -> list[Any] | None:
        """Hands values from slot to slot; every slot calls it equally often.

        Args:
            value: The executing slot's value, plain data.
            call: What the trial has called, one of ``_distributed.CALLS``.
            to_all: Whether all slots need the values, or slot 0 alone.

        Returns:
            The values of all slots in slot order, copied for the executing slot; None where only
            slot 0 needs them and this is another.
        """

    @abc.abstractmethod
    def set_stop_requested(self, stop_requested: bool) -> None:
        """Asks all processes to stop at the next batch boundary."""

    @abc.abstractmethod
    def get_stop_requested(self) -> bool:
        """Returns whether this process asked to stop."""
