"""Several datasets in given proportions, exact in every window of one period."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from numbers import Integral, Rational, Real
from typing import Any, Final

import numpy as np

from trialrun.samplers._checks import whole_number
from trialrun.samplers.sequences._derived import Repeated
from trialrun.samplers.sequences._sequence import (
    ENDLESS,
    IndexSequence,
    Records,
    RecordSequence,
    chain,
)

# A float is read as the nearest fraction with at most this denominator: 0.7 as 7/10, and
# 0.3333333333333333 as 1/3. Both are within rounding of it, or the float is refused.
_FLOAT_DENOMINATOR: Final = 10_000
# The pattern is a table of that many entries of 16 bytes.
_MAX_PERIOD: Final = 2**20


class Mixed(RecordSequence):
    """An endless sequence of which each component has its fixed share.

    One period of W positions holds component c exactly ``counts[c]`` times, spread evenly, and is
    repeated as it is: so any W consecutive positions, wherever they begin, hold the proportions
    exactly. Each component goes through passes of its own, so the end of one neither shortens nor
    reshuffles another.

    Records are numbered as in torch's ``ConcatDataset``: those of component 1 follow on those of
    component 0.

    Args:
        components: Sequences of records.
        proportions: For each component a share of at least 0: fractions or floats whose sum is 1,
            or whole numbers, of which 3 and 1 mean three quarters and one quarter.
        dataset_lengths: For each component the length of its dataset, by which the records of the
            next one are shifted. Default: what the component says of itself.

    Raises:
        ValueError: The numbers of arguments differ, a proportion is negative or not finite, their
            sum is not 1, the period would be longer than 2**20, a component with a share is empty
            or skips, or a dataset's length is missing.
    """

    stage = "Mixture"

    def __init__(
        self,
        components: Sequence[IndexSequence[Records]],
        proportions: Iterable[float | Fraction],
        dataset_lengths: Iterable[int] | None = None,
    ) -> None:
        shares = _shares(list(proportions))
        if len(shares) != len(components):
            raise ValueError(
                f"The number of proportions is {len(shares)}, and that of samplers is "
                f"{len(components)}. Give one proportion for each sampler."
            )
        self._components = list(components)
        lengths = _dataset_lengths(components, dataset_lengths)
        self._lengths = lengths
        self._starts = [sum(lengths[:number]) for number in range(len(lengths))]
        self._num_records = whole_number("sum(dataset_lengths)", sum(lengths), 0, ENDLESS + 1)
        self._length = sum(component.length for component in components)
        self._period = _period(shares)
        self._counts = np.array([int(share * self._period) for share in shares], dtype=np.int64)
        # A component without a share is never asked, and may be empty.
        self._endless = {
            number: component if component.is_endless else Repeated(component)
            for number, component in enumerate(components)
            if self._counts[number] > 0
        }
        self._pattern = _spread(self._counts)
        # For the pattern [0, 1, 0, 0]: component 0 has the phases [0, 2, 3].
        self._phases = {number: np.flatnonzero(self._pattern == number) for number in self._endless}
        # For the pattern [0, 1, 0, 0]: the running numbers [0, 0, 1, 2] within each component.
        self._ranks = np.empty_like(self._pattern)
        for phases in self._phases.values():
            self._ranks[phases] = np.arange(len(phases))

    @property
    def length(self) -> int:
        """The sum of the components' lengths, as ``ConcatDataset`` has it."""
        return self._length

    @property
    def num_positions(self) -> int:
        """2**62, where 64 bits end."""
        return ENDLESS

    @property
    def is_endless(self) -> bool:
        """True."""
        return True

    @property
    def num_records(self) -> int:
        """The sum of the datasets' lengths."""
        return self._num_records

    def gather(self, epoch: int, positions: Records) -> Records:
        """Returns the components' records, each shifted to its dataset's first number."""
        records = np.empty_like(positions)
        for number, places, own_positions in self._by_component(positions):
            component = self._endless[number]
            own = component.gather(0, own_positions)
            if component.num_records is None:
                _require_below(self._lengths[number], own, number, component)
            records[places] = own + self._starts[number]
        return records

    def epochs_of(self, epoch: int, positions: Records) -> Records:
        """Returns passes over the components' datasets: each counts its own."""
        epochs = np.empty_like(positions)
        for number, places, own_positions in self._by_component(positions):
            epochs[places] = self._endless[number].epochs_of(0, own_positions)
        return epochs

    def find(self, epoch: int, record: int, start: int, stop: int) -> Records:
        """Returns what the component finds to whose dataset the record belongs."""
        for number, component in self._endless.items():
            own_record = record - self._starts[number]
            if 0 <= own_record < self._lengths[number]:
                first, last = self._num_before(number, start), self._num_before(number, stop)
                periods, ranks = np.divmod(
                    component.find(0, own_record, first, last), self._counts[number]
                )
                return periods * self._period + self._phases[number][ranks]
        return np.empty(0, dtype=np.int64)

    def arguments(self) -> dict[str, Any]:
        """The components, the proportions as whole numbers, and the datasets' lengths."""
        return {
            "components": self._components,
            "proportions": self._counts.tolist(),
            "dataset_lengths": self._lengths,
        }

    def _by_component(self, positions: Records) -> Iterator[tuple[int, Records, Records]]:
        """Yields for each component its number, the places of its items, and its own positions.

        Position p is item ``ranks`` of one component's period p // W.
        """
        periods = positions // self._period
        phases = positions - periods * self._period
        numbers = self._pattern[phases]
        own_positions = periods * self._counts[numbers] + self._ranks[phases]
        for number in self._endless:
            places = np.flatnonzero(numbers == number)
            yield number, places, own_positions[places]

    def _num_before(self, number: int, position: int) -> int:
        """Returns how many items of a component stand before a position."""
        periods, phase = divmod(position, self._period)
        phases = self._phases[number]
        return periods * len(phases) + int(np.searchsorted(phases, phase))


def _shares(proportions: list[float | Fraction]) -> list[Fraction]:
    shares = [_fraction(number, value) for number, value in enumerate(proportions)]
    total = sum(shares, Fraction(0))
    if total > 0 and all(isinstance(value, Integral) for value in proportions):
        return [share / total for share in shares]
    if total != 1:
        raise ValueError(
            f"The proportions {', '.join(map(str, proportions))} have the sum {float(total):.6g}. "
            "Give proportions whose sum is 1, or whole numbers such as 3 and 1."
        )
    return shares


def _fraction(number: int, value: float | Fraction) -> Fraction:
    if not isinstance(value, Real) or not math.isfinite(value) or value < 0:
        raise ValueError(
            f"proportions[{number}]={value!r} is not a finite number of at least 0. Give such a "
            "share for each sampler."
        )
    if isinstance(value, Rational):
        return Fraction(value)
    share = Fraction(float(value)).limit_denominator(_FLOAT_DENOMINATOR)
    if not math.isclose(share, float(value), rel_tol=1e-12):
        raise ValueError(
            f"proportions[{number}]={value!r} is no fraction with a denominator of at most "
            f"{_FLOAT_DENOMINATOR}. Round it, or give a fractions.Fraction."
        )
    return share


def _period(shares: list[Fraction]) -> int:
    period = math.lcm(*(share.denominator for share in shares))
    if period > _MAX_PERIOD:
        raise ValueError(
            f"The proportions {', '.join(map(str, shares))} repeat only after {period} positions, "
            f"more than {_MAX_PERIOD}. Round them to a common denominator."
        )
    return period


def _dataset_lengths(
    components: Sequence[IndexSequence[Records]], given: Iterable[int] | None
) -> list[int]:
    lengths = [component.num_records for component in components] if given is None else list(given)
    if len(lengths) != len(components):
        raise ValueError(
            f"The number of dataset_lengths is {len(lengths)}, and that of samplers is "
            f"{len(components)}. Give one length for each sampler."
        )
    return [
        _dataset_length(number, component, length)
        for number, (component, length) in enumerate(zip(components, lengths, strict=True))
    ]


def _dataset_length(number: int, component: IndexSequence[Records], length: int | None) -> int:
    if length is None:
        raise ValueError(
            f"{chain(component.stages)} does not know the length of its dataset, by which the "
            "records of the next one are shifted. Give dataset_lengths."
        )
    # Fewer records than the component has would let two datasets share a number.
    return whole_number(
        f"dataset_lengths[{number}]", length, component.min_num_records, ENDLESS + 1
    )


def _require_below(
    length: int, records: Records, number: int, component: IndexSequence[Records]
) -> None:
    """Refuses what only shows when it is read, of a sampler of which nothing else is known."""
    if len(records) and records.max() >= length:
        raise ValueError(
            f"dataset_lengths[{number}]={length}, and {component} gave the record {records.max()}, "
            "which would be one of the next dataset. Give the dataset's length."
        )


def _spread(counts: Records) -> Records:
    """Returns one period: the component at each position, each spread evenly.

    Item j of a component with count c is due at (2 * j + 1) / (2 * c) of the period: the counts
    [3, 1] are due at [1/6, 3/6, 5/6] and [1/2], which gives [0, 0, 1, 0]. Doubles are exact enough:
    fractions with terms below 2**22 are equal or differ by more than 2**-44.
    """
    numbers = np.repeat(np.arange(len(counts)), counts)
    items = np.concatenate([np.arange(count) for count in counts.tolist()])
    due = (2 * items + 1) / (2 * counts[numbers])
    return numbers[np.argsort(due, kind="stable")]
