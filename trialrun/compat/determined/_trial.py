"""``PyTorchTrial``: a trial that may also be made in the ways that Determined's users know."""

from __future__ import annotations

import abc
import inspect
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from trialrun._context import TrialContext
from trialrun._errors import InvalidTrialError
from trialrun._reducers import Reducer
from trialrun._trial import Trial
from trialrun.compat.determined._metrics import as_numbers, without_others

__all__ = ["PyTorchTrial"]

_HPARAMS = "hparams"

_newest: weakref.ref[TrialContext] | None = None


def newest_context(asker: str) -> TrialContext:
    """Returns the context with which a ``PyTorchTrial`` was made last in this process.

    Args:
        asker: The class that is told no context when it is made, for the error.

    Raises:
        InvalidTrialError: None was made, or its context is gone.
    """
    context = None if _newest is None else _newest()
    if context is None:
        raise InvalidTrialError(
            f"{asker} belongs to the PyTorchTrial that is being trained, and there is none. Make "
            "it in the trial's __init__ or later."
        )
    return context


class _Made(abc.ABCMeta):
    """Looks at how a trial is made, before it is."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        global _newest
        for value in (*args, *kwargs.values()):
            if isinstance(value, TrialContext):
                # Where it was in Determined's earlier years, and in many files still is.
                value.experimental.wrap_reducer = value.wrap_reducer  # type: ignore[attr-defined]
                _newest = weakref.ref(value)
                if _lacks_hparams(cls, args, kwargs):
                    kwargs[_HPARAMS] = value.get_hparams()
                break
        return super().__call__(*args, **kwargs)


class PyTorchTrial(Trial, metaclass=_Made):
    """A ``trialrun.Trial`` under the name that Determined's users know.

    A constructor that requires ``hparams`` besides the context, as scripts for Determined's
    ``Trainer`` often have it, gets ``context.get_hparams()`` where it is called without: so
    ``trialrun submit`` trains the trial of such a script too.

    A metric may hold several numbers, such as the outputs of a batch: they are reduced to one, as
    the batches are. ``evaluate_full_dataset`` may return what is no metric. Each gives a warning.
    """

    def _as_metrics(self, returned: Any, source: str) -> Any:
        if not isinstance(returned, Mapping):
            return returned
        context = None if _newest is None else _newest()
        warns = context is None or context.slot == 0
        if source == "evaluate_full_dataset":
            return without_others(returned, warns=warns)
        return as_numbers(returned, source, self._reducer_of(source), warns=warns)

    def _reducer_of(self, source: str) -> Callable[[str], Any]:
        def reducer_of(name: str) -> Any:
            if source == "train_batch":
                return Reducer.AVG
            reducers = self.evaluation_reducer()
            return reducers.get(name) if isinstance(reducers, Mapping) else reducers

        return reducer_of


def _lacks_hparams(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    # The class itself has the signature of _Made.__call__.
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]  # of this very class
    parameter = signature.parameters.get(_HPARAMS)
    if parameter is None or parameter.default is not inspect.Parameter.empty:
        return False
    try:
        return _HPARAMS not in signature.bind_partial(None, *args, **kwargs).arguments
    except TypeError:
        return False  # Python says what is wrong when the constructor is called
