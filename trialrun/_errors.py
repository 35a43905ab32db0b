"""Every error that trialrun raises for a user's mistake is a child of one class."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrialrunError(Exception):
    """Base of all errors of trialrun: says the value, the rule and what to do next."""


class ConfigurationError(TrialrunError):
    """A configuration key, flag, length or hyperparameter is wrong."""


class UnknownHyperparameterError(ConfigurationError, ValueError):
    """A trial asked for a hyperparameter that the configuration does not have."""


class InvalidTrialError(TrialrunError):
    """The trial file, the trial class or what it handed to the context breaks a rule."""


class InvalidDataLoaderError(InvalidTrialError, ValueError):
    """The arguments of a DataLoader do not go together, or its samplers do not fit."""


class UnknownBatchLengthError(InvalidTrialError, TypeError, ValueError):
    """A batch does not show how many records it holds."""


class InvalidMetricError(TrialrunError):
    """A metric is not what it was promised to be: not a number, or under another name."""


class ReducerError(InvalidMetricError):
    """A method of a metric reducer raised; ``__cause__`` is the exception that it raised."""


class CheckpointError(TrialrunError):
    """A checkpoint cannot be written, is damaged, or belongs to another run."""


class BookkeepingError(TrialrunError):
    """The records cannot be read or written, or hold no such experiment."""


class RunConflictError(TrialrunError):
    """The experiment is in a state that forbids the request, e.g. it already runs."""


def nearest_name(name: str, known: Iterable[str], *, lists_all: bool = False) -> str:
    """Returns a sentence that points from a wrong name to the nearest known one.

    Args:
        name: What the user wrote.
        known: The names that exist.
        lists_all: Whether all of them follow the nearest one.

    Returns:
        ``" Did you mean 'slots'?"`` when a known name is near, else ``" Known: a, b."``, else "".
        It starts with a space, so that it can be appended to a message.
    """
    names = sorted(known)
    matches = difflib.get_close_matches(name, names, n=1)
    nearest = f" Did you mean '{matches[0]}'?" if matches else ""
    if names and (lists_all or not matches):
        nearest += f" Known: {', '.join(names)}."
    return nearest
