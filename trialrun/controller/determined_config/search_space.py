"""Hyperparameters as Determined writes them: values, and spaces from which a search would choose.

lr: 0.1                                              a value
lr: {type: const, val: 0.1}                          the same value
lr: {type: log, base: 10, minval: -4, maxval: -1}    10**-4 to 10**-1
optimizer: {lr: {type: double, ...}, momentum: 0.9}  a mapping, of values and spaces

Both ends of a space belong to it.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeAlias

import pydantic

from trialrun._errors import ConfigurationError, nearest_name
from trialrun.controller.config import parse_hyperparameter

Number: TypeAlias = Annotated[float, pydantic.Field(allow_inf_nan=False)]


class _Kind(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    type: str


class _Const(_Kind):
    val: Any


class _Range(_Kind):
    minval: Any
    maxval: Any
    count: Annotated[int, pydantic.Field(ge=1)] | None = None

    @pydantic.model_validator(mode="after")
    def _ascending(self) -> _Range:
        if not self.minval < self.maxval:
            raise ValueError(f"minval={self.minval!r} is not less than maxval={self.maxval!r}.")
        return self


class _Int(_Range):
    minval: int
    maxval: int

    def example(self) -> Any:
        return (self.minval + self.maxval) // 2


class _Double(_Range):
    minval: Number
    maxval: Number

    def example(self) -> Any:
        return _rounded(self.minval / 2 + self.maxval / 2)


class _Log(_Range):
    minval: Number
    maxval: Number
    base: Annotated[Number, pydantic.Field(gt=0)]

    @pydantic.model_validator(mode="after")
    def _has_values(self) -> _Log:
        for exponent in (self.minval, self.maxval):
            try:
                self.base**exponent
            except OverflowError:
                raise ValueError(
                    f"{self.base:g} to the power of {exponent:g} is no finite number. minval and "
                    "maxval are exponents."
                ) from None
        return self

    def example(self) -> Any:
        return _rounded(self.base ** ((self.minval + self.maxval) / 2))


class _Categorical(_Kind):
    vals: Annotated[list[Any], pydantic.Field(min_length=1)]

    def example(self) -> Any:
        return self.vals[0]


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


_KINDS: Mapping[str, type[_Kind]] = {
    "const": _Const,
    "int": _Int,
    "double": _Double,
    "log": _Log,
    "categorical": _Categorical,
}


@dataclasses.dataclass(frozen=True)
class Searched:
    """A hyperparameter for which a search would choose a value."""

    name: str
    """What ``--hp`` calls it."""
    type: str
    example: Any
    """One value of the space, in its middle."""

    @property
    def flag(self) -> str:
        """The flag that gives it the example's value."""
        text = f"{self.name}={self.example}"
        if not _reads_as(text, self.example):
            text = f"{self.name}={json.dumps(self.example, default=str)}"  # which is YAML too
        return f"--hp {shlex.quote(text)}"


def _reads_as(text: str, value: Any) -> bool:
    try:
        return isinstance(value, str) and parse_hyperparameter(text, {})[1] == value
    except ConfigurationError:
        return False


def read_space(
    hyperparameters: Mapping[str, Any],
) -> tuple[dict[str, Any], list[Searched], list[str]]:
    """Reads hyperparameters.

    Args:
        hyperparameters: As a Determined configuration has them.

    Returns:
        The plain values, those to be searched left out; those to be searched; and one sentence for
        each problem.
    """
    reader = _Reader([], [])
    values = reader.mapping(hyperparameters, "")
    return values, reader.searched, reader.problems


_NOTHING = object()


@dataclasses.dataclass(frozen=True)
class _Reader:
    searched: list[Searched]
    problems: list[str]
    fills_in: bool = False
    """Whether a space becomes its example, else it is left out."""

    def mapping(self, mapping: Mapping[str, Any], path: str) -> dict[str, Any]:
        values = {name: self.value(value, f"{path}{name}") for name, value in mapping.items()}
        return {name: value for name, value in values.items() if value is not _NOTHING}

    def value(self, value: Any, name: str) -> Any:
        if isinstance(value, list):
            return self._plain(value, name)
        if not isinstance(value, dict):
            return value
        if "type" not in value:
            return self.mapping(value, f"{name}.")
        return self._typed(value, name)

    def _plain(self, items: list[Any], name: str) -> Any:
        """A list is given as a whole by ``--hp``, so a space in it is one of the whole list."""
        inner = _Reader([], self.problems, fills_in=True)
        values = [inner.value(item, name) for item in items]
        return self._open(Searched(name, "list", values)) if inner.searched else values

    def _typed(self, value: dict[str, Any], name: str) -> Any:
        kind = _KINDS.get(value["type"]) if isinstance(value["type"], str) else None
        if kind is None:
            self.problems.append(
                f"Configuration key 'hyperparameters.{name}.type' is {value['type']!r}: a "
                f"hyperparameter with a type is one of {', '.join(_KINDS)}."
                + _nearest(str(value["type"]))
            )
            return _NOTHING
        try:
            read = kind.model_validate(value)
        except pydantic.ValidationError as error:
            self.problems.extend(_explain(problem, name, kind) for problem in error.errors())
            return _NOTHING
        if isinstance(read, _Const):
            return read.val
        assert isinstance(read, _Int | _Double | _Log | _Categorical)
        return self._open(Searched(name, read.type, read.example()))

    def _open(self, searched: Searched) -> Any:
        self.searched.append(searched)
        return searched.example if self.fills_in else _NOTHING


def _nearest(name: str) -> str:
    sentence = nearest_name(name, _KINDS)
    return sentence if "Did you mean" in sentence else ""


def _explain(problem: Any, name: str, kind: type[_Kind]) -> str:
    key = ".".join(["hyperparameters", name, *map(str, problem["loc"])])
    if problem["type"] == "extra_forbidden":
        return f"Unknown key {key!r} in a Determined configuration." + nearest_name(
            str(problem["loc"][-1]), kind.model_fields
        )
    if problem["type"] == "missing":
        return f"The configuration key {key!r} is missing: a hyperparameter of this type has it."
    message = problem["msg"].removeprefix("Value error, ")
    return f"Configuration key {key!r} is {problem['input']!r}: {message}"


def refusal(searcher: str, searched: Iterable[Searched]) -> str:
    """Returns the message for a configuration that asks for a search.

    Args:
        searcher: The value of ``searcher.name``.
        searched: What it would search for; at least one.
    """
    names = ", ".join(f"{each.name} ({each.type})" for each in searched)
    flags = " ".join(each.flag for each in searched)
    return (
        f"searcher.name is {searcher!r}, and values are open for {names}. trialrun has no search "
        "yet: it trains one trial. To train one point of the space, give each of them a value, "
        f"such as: {flags} (or write values into the file, and searcher.name: single)."
    )
