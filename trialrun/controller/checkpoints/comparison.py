"""Compares two checkpoints to the bit: which tensor differs first, where, and by how much.

The order is the digest's: models, then optimizers, by name. Two values are equal when their bits
are; so a NaN equals itself, and 0.0 differs from -0.0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trialrun.controller.checkpoints.contents import CheckpointContents, read_contents
from trialrun.controller.checkpoints.digest import named_values, natural_order
from trialrun.controller.checkpoints.value_distance import Distance, measure_distance

ABSENT = "absent"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueDifference:
    """A tensor, or a number, that is not the same in both.

    Args:
        name: Its full name, such as ``model.0.fc.weight``.
        first: What it is in the first: type and shape of a tensor, a number, or ``absent``.
        second: The same in the second.
        distance: Where and how far apart; None where type or shape differ, or one is absent.
    """

    name: str
    first: str
    second: str
    distance: Distance | None

    def describe(self) -> str:
        """Returns what goes on "The first that differs is ...", for people."""
        if self.distance is None:
            return f"{self.name}: {self.first} in the first, {self.second} in the second"
        return f"{self.name} ({self.first}) {self.distance.describe()}"

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON data."""
        distance = None if self.distance is None else self.distance.to_json()
        return {"name": self.name, "first": self.first, "second": self.second} | (distance or {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactDifference:
    """Something that was recorded about the run, or goes on with it, and is not the same.

    Args:
        name: Its name, such as ``identity.seed``, or where it lies in the state.
        first: Its value in the first; ``absent`` where it has none.
        second: Its value in the second.
    """

    name: str
    first: Any
    second: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two checkpoints do not have in common.

    Args:
        num_values: Tensors and numbers that were compared.
        values: Those that differ, in the digest's order.
        facts: What was recorded about the runs: clock, identity, hyperparameters, versions.
        state: What else goes on after a resume: schedulers, settings of optimizers, the trial's.
    """

    num_values: int
    values: list[ValueDifference]
    facts: list[FactDifference]
    state: list[FactDifference]

    @property
    def is_equal(self) -> bool:
        """Whether the same was learned, to the bit: then the digests are equal."""
        return not self.values

    @property
    def first(self) -> ValueDifference | None:
        """The first tensor or number that differs."""
        return self.values[0] if self.values else None

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON data."""
        return {
            "equal": self.is_equal,
            "num_compared": self.num_values,
            "num_differing": len(self.values),
            "first": None if self.first is None else self.first.to_json(),
            "tensors": [difference.to_json() for difference in self.values],
            "facts": [dataclasses.asdict(difference) for difference in self.facts],
            "state": [dataclasses.asdict(difference) for difference in self.state],
        }


def compare_checkpoints(first: Path, second: Path) -> Comparison:
    """Compares two checkpoints by their folders.

    Raises:
        CheckpointError: One cannot be read.
    """
    return compare_contents(read_contents(first), read_contents(second))


def compare_contents(first: CheckpointContents, second: CheckpointContents) -> Comparison:
    """Compares two checkpoints in memory."""
    values, others = dict(_values(first)), dict(_values(second))
    names = sorted(values.keys() | others.keys(), key=natural_order)
    differing = [
        difference
        for name in names
        if (difference := _compare(name, values.get(name, ABSENT), others.get(name, ABSENT)))
        is not None
    ]
    return Comparison(
        num_values=len(names),
        values=differing,
        facts=_differing(_facts(first.metadata), _facts(second.metadata)),
        state=_differing(_rest(first), _rest(second)),
    )


def compare_state(
    first: CheckpointContents, second: CheckpointContents, left_out: Sequence[str] = ()
) -> list[FactDifference]:
    """Compares what goes on after a resume and is neither hashed by the digest, nor a time.

    Args:
        first: A checkpoint; its models may be left out.
        second: The other.
        left_out: Parts of the state that are not compared, such as ``progress``.
    """
    return [
        difference
        for difference in _differing(_rest(first), _rest(second))
        if difference.name.partition(".")[0] not in left_out
    ]


def _values(contents: CheckpointContents) -> Iterator[tuple[str, Any]]:
    state = contents.state
    return named_values(
        contents.models, state["optimizers"], state.get("non_persistent_buffers", ())
    )


def _compare(name: str, first: Any, second: Any) -> ValueDifference | None:
    before, after = _describe(first), _describe(second)
    distance = None
    if before == after:
        distance = measure_distance(_tensor(first), _tensor(second))
        if distance is None:
            return None
    return ValueDifference(name=name, first=before, second=after, distance=distance)


def _describe(value: Any) -> str:
    """Returns type and shape of a tensor, the type of a fraction, and any other number itself."""
    if isinstance(value, torch.Tensor):
        shape = " x ".join(map(str, value.shape)) or "a scalar"
        return f"{str(value.dtype).removeprefix('torch.')}, {shape}"
    return type(value).__name__ if type(value) in _FRACTIONS else str(value)


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    # What is described by its value alone is equal.
    return torch.tensor(
        value if type(value) in _FRACTIONS else 0, dtype=_FRACTIONS.get(type(value))
    )


_FRACTIONS = {float: torch.float64, complex: torch.complex128}

# What the identity says better, and what no bit depends on.
_UNTOLD = {"seed", "slots", "aggregation_frequency", "intra_op_threads", "hyperparameters"}
_UNTOLD |= {"name", "description", "labels", "silence", "tensorboard", "processes", "determined"}
_CONFIG = "experiment_config"
_FACTS = [
    "batches",
    "identity",
    "hyperparameters",
    "versions",
    "environment",
    "git_commit",
    "trial_class",
    "from_checkpoint",
]


def _facts(metadata: Mapping[str, Any]) -> dict[str, Any]:
    config = {
        key: value for key, value in (metadata.get(_CONFIG) or {}).items() if key not in _UNTOLD
    }
    told = {name: metadata[name] for name in _FACTS if name in metadata}
    return dict(_leaves("", told)) | dict(_leaves("configuration", config))


def _rest(contents: CheckpointContents) -> dict[str, Any]:
    """Returns what is neither compared as a value, nor told as the clock, nor a time."""
    state = contents.state
    rest = {key: value for key, value in state.items() if key not in ("stopwatch", "batches")}
    rest.pop("non_persistent_buffers", None)
    rest["optimizers"] = [
        {key: value for key, value in optimizer.items() if key != "state"}
        for optimizer in state["optimizers"]
    ]
    rest["models"] = [
        {key: value for key, value in model.items() if not isinstance(value, torch.Tensor)}
        for model in contents.models
    ]
    return dict(_leaves("", rest))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    prefix = f"{name}." if name else ""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(f"{prefix}{key}", item)
    elif isinstance(value, list | tuple) and value:
        for position, item in enumerate(value):
            yield from _leaves(f"{prefix}{position}", item)
    else:
        yield name, value


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[FactDifference]:
    return [
        FactDifference(
            name=name,
            first=_told(first.get(name, ABSENT)),
            second=_told(second.get(name, ABSENT)),
        )
        for name in sorted({**first, **second}, key=natural_order)
        if not _is_same(first.get(name, ABSENT), second.get(name, ABSENT))
    ]


def _is_same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return _describe(first) == _describe(second) and measure_distance(first, second) is None
    # By their text, in which a NaN equals itself and 0.0 is not -0.0.
    return type(first) is type(second) and repr(first) == repr(second)


def _told(value: Any) -> Any:
    """Returns a value as JSON data; of a tensor type and shape."""
    if isinstance(value, torch.Tensor):
        return f"tensor ({_describe(value)})"
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
