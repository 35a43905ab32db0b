"""Callbacks as Determined's users write them, with the two forms that it had in earlier years."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

from trialrun._callback import Callback
from trialrun._errors import nearest_name

__all__ = ["PyTorchCallback"]


class PyTorchCallback(Callback):
    """A ``trialrun.Callback`` that may also be written in two old forms.

    ``on_training_epoch_start`` may leave ``epoch_idx`` out, and ``on_checkpoint_end`` is called
    like ``on_checkpoint_write_end``, before it. Each gives a ``FutureWarning`` when the class is
    made. A method whose name begins with ``on_`` and that is no event gives a ``UserWarning``; of a
    ``trialrun.Callback`` it is refused.
    """

    _further_events = frozenset({"on_checkpoint_end"})

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        start = vars(cls).get("on_training_epoch_start")
        if start is not None and len(inspect.signature(start).parameters) == 1:
            _warn(f"{cls.__name__}.on_training_epoch_start should take epoch_idx.")
            cls.on_training_epoch_start = _without_epoch(start)  # type: ignore[assignment, method-assign]  # the full form of it
        end = vars(cls).get("on_checkpoint_end")
        if end is not None:
            _warn(f"{cls.__name__}.on_checkpoint_end should be called on_checkpoint_write_end.")
            cls.on_checkpoint_write_end = _both(end, cls.on_checkpoint_write_end)  # type: ignore[assignment, method-assign]  # as above
        known = {name for name in dir(Callback) if name.startswith("on_")} | cls._further_events
        for name in sorted({name for name in dir(cls) if name.startswith("on_")} - known):
            if callable(getattr(cls, name)):
                _warn(
                    f"{cls.__name__}.{name} is never called: a PyTorchCallback has no such event."
                    f"{nearest_name(name, known)}",
                    UserWarning,
                )
                cls._further_events |= {name}  # a class that extends this one is not warned again


def _warn(message: str, category: type[Warning] = FutureWarning) -> None:
    warnings.warn(message, category, stacklevel=3)


def _without_epoch(method: Callable[[Any], None]) -> Callable[[Any, int], None]:
    @functools.wraps(method)
    def on_training_epoch_start(self: Any, epoch_idx: int) -> None:
        method(self)

    del on_training_epoch_start.__wrapped__  # its signature is the full one
    return on_training_epoch_start


def _both(
    old: Callable[[Any, str], None], new: Callable[[Any, str], None]
) -> Callable[[Any, str], None]:
    def on_checkpoint_write_end(self: Any, checkpoint_dir: str) -> None:
        old(self, checkpoint_dir)
        new(self, checkpoint_dir)

    return on_checkpoint_write_end
