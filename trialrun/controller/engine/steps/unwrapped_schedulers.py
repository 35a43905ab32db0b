"""Finds learning-rate schedulers of wrapped optimizers that were not wrapped themselves.

Every slot would step one in ``train_batch``, so folded slots would step the same one several times;
and no checkpoint would hold its position. Most of torch's schedulers leave a mark in the
optimizer's groups, but ``ReduceLROnPlateau`` leaves none, nor does a second one over the same
optimizer. So it is noted when a scheduler takes its optimizer.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from trialrun._errors import InvalidTrialError
from trialrun._lr_scheduler import LRScheduler

_TORCH_SCHEDULER: Any = torch.optim.lr_scheduler.LRScheduler


class _NotedOptimizer:
    """The ``optimizer`` of torch's schedulers, which is kept in the object as it would be.

    A descriptor without ``__get__``: reading it finds what is in the object.
    """

    def __init__(self) -> None:
        self.num_noted = 0
        # By their id: a user's class may compare as it likes.
        self._schedulers: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def __set__(self, scheduler: Any, optimizer: Any) -> None:
        vars(scheduler)["optimizer"] = optimizer
        self._schedulers[id(scheduler)] = scheduler
        self.num_noted += 1

    def of(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        """Returns the schedulers that have an optimizer, and are still there."""
        return [s for s in list(self._schedulers.values()) if s.optimizer is optimizer]


_noted = _NotedOptimizer()


def note_schedulers() -> None:
    """Begins to note which schedulers are made; one that nobody holds is forgotten."""
    _TORCH_SCHEDULER.optimizer = _noted


class UnwrappedSchedulers:
    """Looks for schedulers of a trial's optimizers of which trialrun does not know.

    Args:
        optimizers: All wrapped optimizers.
        schedulers: All wrapped schedulers.
    """

    def __init__(
        self, optimizers: Sequence[torch.optim.Optimizer], schedulers: Sequence[LRScheduler]
    ) -> None:
        self._optimizers = optimizers
        self._schedulers = [wrapped.scheduler for wrapped in schedulers]
        self._replaced = [wrapped.replaced for wrapped in schedulers]
        self._num_known = _noted.num_noted

    def require_none(self) -> None:
        """Called when the trial is built.

        Raises:
            InvalidTrialError: The message names the optimizer.
        """
        found = self._find()
        if found is None:
            return
        raise InvalidTrialError(
            f"{found} that was not wrapped: it would step once for each slot of a process, and no "
            "checkpoint would hold it. Call context.wrap_lr_scheduler(scheduler, step_mode) in the "
            "trial's __init__, with StepMode.MANUAL_STEP if the trial steps it itself."
        )

    def require_no_later_one(self) -> None:
        """Called often while the trial trains; it looks only where a scheduler was made since.

        Raises:
            InvalidTrialError: The message names the optimizer.
        """
        if self._num_known == _noted.num_noted:
            return
        num_noted = _noted.num_noted
        found = self._find()
        if found is not None:
            raise InvalidTrialError(
                f"{found} that was made after the trial's __init__, so it is not wrapped: no "
                "checkpoint holds it, and a resumed run would go on with other rates. Make it in "
                "__init__ and call context.wrap_lr_scheduler(scheduler, step_mode) there; "
                "torch.optim.lr_scheduler.SequentialLR lets a schedule begin later."
            )
        self._num_known = num_noted

    def _find(self) -> str | None:
        found = self._describe()
        if found is not None:
            gc.collect()  # One that the trial has dropped may wait for it.
            found = self._describe()
        return found

    def _describe(self) -> str | None:
        followed = [getattr(scheduler, "optimizer", None) for scheduler in self._schedulers]
        if None in followed:
            return None  # One of a class of its own does not say whose rates it sets.
        wrapped = (*self._schedulers, *self._replaced)
        known = {id(part) for scheduler in wrapped for part in _parts(scheduler)}
        for index, optimizer in enumerate(self._optimizers):
            names = [type(s).__name__ for s in _noted.of(optimizer) if id(s) not in known]
            # torch's schedulers keep there, as they are made, the rate with which they begin.
            has_mark = any("initial_lr" in group for group in optimizer.param_groups)
            if not names and has_mark and not any(one is optimizer for one in followed):
                names = ["'initial_lr' is in its parameter groups"]
            if names:
                return (
                    f"Optimizer {index} ({type(optimizer).__name__}) has a learning-rate scheduler "
                    f"({names[0]})"
                )
        return None


def _parts(scheduler: Any) -> Iterator[Any]:
    """Yields a scheduler and those that it steps, such as those in a ``SequentialLR``."""
    seen: set[int] = set()
    waiting = [scheduler]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list | tuple | set):
            waiting += item
        elif hasattr(item, "step") and not isinstance(item, torch.optim.Optimizer):
            yield item
            waiting += getattr(item, "__dict__", {}).values()
