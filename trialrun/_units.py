"""Lengths and periods carry their unit: ``Batch(5000)``, ``Epoch(20)``, ``Time(7200)``."""

from __future__ import annotations

import dataclasses
import re
from typing import ClassVar, TypeAlias

from trialrun._errors import ConfigurationError


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """A number of batches: global steps of the loop, in which every slot does its share."""

    value: int
    suffix: ClassVar[str] = "ba"

    def __post_init__(self) -> None:
        _require_positive_integer(self.value, "Batch")

    def __str__(self) -> str:
        return f"{self.value}{self.suffix}"


@dataclasses.dataclass(frozen=True, slots=True)
class Epoch:
    """A number of epochs: ceil(records / global batch size) batches each."""

    value: int
    suffix: ClassVar[str] = "ep"

    def __post_init__(self) -> None:
        _require_positive_integer(self.value, "Epoch")

    def __str__(self) -> str:
        return f"{self.value}{self.suffix}"


@dataclasses.dataclass(frozen=True, slots=True)
class Time:
    """A stretch of training time in seconds, added up over all attempts of a trial.

    Where a run ends or reports then depends on the machine's speed, so two runs of one length in
    time are not promised to be equal. Batches and epochs are.
    """

    seconds: float

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ConfigurationError(f"Time({self.seconds!r}) is not a positive number of seconds.")

    def __str__(self) -> str:
        for suffix, size in (("h", 3600), ("min", 60)):
            if self.seconds % size == 0:
                return f"{self.seconds / size:g}{suffix}"
        return f"{self.seconds:g}s"


Unit: TypeAlias = Batch | Epoch | Time

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", re.IGNORECASE)


def parse_unit(text: str) -> Unit:
    """Reads a length or period such as ``20ep``, ``5000ba``, ``90min`` or ``2h``.

    Args:
        text: A number followed by ``ba`` (batches), ``ep`` (epochs), ``s``, ``min``, ``h`` or
            ``d`` (time).

    Returns:
        The unit with its value.

    Raises:
        ConfigurationError: The text is no such length.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ConfigurationError(_not_a_length(text))
    number, suffix = match.group(1), match.group(2).lower()
    if suffix in _SECONDS:
        return Time(float(number) * _SECONDS[suffix])
    if suffix not in (Batch.suffix, Epoch.suffix) or "." in number:
        raise ConfigurationError(_not_a_length(text))
    return Batch(int(number)) if suffix == Batch.suffix else Epoch(int(number))


def _not_a_length(text: str) -> str:
    return (
        f"{text!r} is not a length. Write a whole number of batches or epochs, or a time, with "
        "its unit: 5000ba, 20ep, 90min, 2h."
    )


def _require_positive_integer(value: object, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name}({value!r}) is not a whole number of at least 1.")
