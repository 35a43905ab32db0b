"""What goes on record of a sequence, and the same sequence made of it again.

A description is JSON data: for Shuffle(Weighted([1, 0, 2], 5, seed=3), seed=4)

    {"stage": "Shuffle", "version": 1, "arguments": {"seed": 4, "inner":
        {"stage": "Weighted", "version": 1, "arguments":
            {"weights": {"array": NAME}, "num_samples": 5, "seed": 3}}}}

Arrays have one entry for each record of a dataset, so that they are kept apart, under a name which
whoever keeps them gives. A sequence that is not of this package is ``{"unknown": STAGE}``: what it
does is known only to code that is not on record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trialrun.samplers.sequences._batched import Batched
from trialrun.samplers.sequences._derived import Dealt, Repeated, Shuffled, Skipped
from trialrun.samplers.sequences._length_groups import LengthGrouped
from trialrun.samplers.sequences._listed import Listed
from trialrun.samplers.sequences._mixed import Mixed
from trialrun.samplers.sequences._sequence import IndexSequence
from trialrun.samplers.sequences._sources import Count, Subset
from trialrun.samplers.sequences._weighted import Weighted

Array: TypeAlias = NDArray[Any]
Description: TypeAlias = dict[str, Any]

_KINDS: Final[dict[str, type[IndexSequence[Any]]]] = {
    kind.stage: kind
    for kind in (
        Batched,
        Count,
        Dealt,
        LengthGrouped,
        Listed,
        Mixed,
        Repeated,
        Shuffled,
        Skipped,
        Subset,
        Weighted,
    )
}


def describe(sequence: IndexSequence[Any], keep: Callable[[Array], str]) -> Description:
    """Returns the description of a sequence.

    Args:
        sequence: Any sequence.
        keep: Keeps an array, and returns the name by which it is found again.
    """
    # A subclass may do something else, and anybody may call a stage "Shuffle".
    if _KINDS.get(sequence.stage) is not type(sequence):
        return unknown(sequence.stage)
    arguments = sequence.arguments()
    return {
        "stage": sequence.stage,
        "version": sequence.version,
        "arguments": {name: _describe(value, keep) for name, value in arguments.items()},
    }


def unknown(stage: str) -> Description:
    """Returns the description of what orders records in a way that is not on record."""
    return {"unknown": stage}


def is_complete(description: Description) -> bool:
    """Returns whether the description holds all that decides the items of the sequence."""
    return "unknown" not in description and all(
        is_complete(value)
        for value in _nested(list(description["arguments"].values()))
        if "array" not in value
    )


def _nested(values: list[Any]) -> list[Description]:
    found: list[Description] = []
    for value in values:
        if isinstance(value, list):
            found += _nested(value)
        elif isinstance(value, dict):
            found.append(value)
    return found


def from_description(description: Description, fetch: Callable[[str], Array]) -> IndexSequence[Any]:
    """Returns the sequence that was described: it gives the same items.

    Args:
        description: What ``describe`` returned, after any way through JSON.
        fetch: Returns the array that was kept under a name.

    Raises:
        ValueError: A stage is not of this package, or has another version; the message names it.
    """
    if "unknown" in description:
        raise ValueError(
            f"The stage {description['unknown']} is none of trialrun's own, and only its name is "
            "on record."
        )
    stage, version = description["stage"], description["version"]
    kind = _KINDS.get(stage)
    if kind is None:
        raise ValueError(
            f"The stage {stage} is not known to this version of trialrun. Use the version that "
            "wrote the description."
        )
    if version != kind.version:
        raise ValueError(
            f"The stage {stage} was described by version {version} of its algorithm; this trialrun "
            f"has version {kind.version}. Use the version that wrote the description."
        )
    arguments = description["arguments"]
    return kind(**{name: _undescribe(value, fetch) for name, value in arguments.items()})


def _describe(value: Any, keep: Callable[[Array], str]) -> Any:
    if isinstance(value, IndexSequence):
        return describe(value, keep)
    if isinstance(value, np.ndarray):
        return {"array": keep(value)}
    if isinstance(value, list):
        return [_describe(item, keep) for item in value]
    return value


def _undescribe(value: Any, fetch: Callable[[str], Array]) -> Any:
    if isinstance(value, dict):
        return fetch(value["array"]) if "array" in value else from_description(value, fetch)
    if isinstance(value, list):
        return [_undescribe(item, fetch) for item in value]
    return value
