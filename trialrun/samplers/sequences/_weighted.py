"""Draws with replacement, each record as often as its weight says."""

from __future__ import annotations

import reprlib
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from trialrun.samplers._checks import whole_number
from trialrun.samplers.addresses import Stream, root_key, scattered_words
from trialrun.samplers.sequences._sequence import (
    ENDLESS,
    RECORDS_PER_BLOCK,
    Records,
    RecordSequence,
)


class Weighted(RecordSequence):
    """Draw p of a run is a function of (weights, seed, p), whatever was drawn before.

    Draws count on over the passes: draw i of pass e is draw e * num_samples + i of the run. A draw
    is a search in the running sums of the weights, so it costs the logarithm of their number.
    Memory: 16 bytes for each weight.

    Args:
        weights: Shape (N,), one for each record of the dataset, at least 0, in any unit.
        num_samples: The draws of one pass.
        seed: The trial's seed, any non-negative whole number.

    Raises:
        ValueError: A weight is no number, negative or not finite, all are zero, their sum is
            infinite, or another argument is out of range.
    """

    stage = "Weighted"

    def __init__(self, weights: Any, num_samples: int, seed: int) -> None:
        self._weights = _as_weights(weights)
        # Summed one after the other, so that the rounding is the same everywhere.
        with np.errstate(over="ignore"):
            self._sums = np.cumsum(self._weights)
        if not np.isfinite(self._sums[-1]):
            raise ValueError(
                "The sum of the weights is infinite. Divide all weights by one number."
            )
        self._last = int(np.flatnonzero(self._weights)[-1])
        self._num_samples = whole_number("num_samples", num_samples, 1, ENDLESS + 1)
        self._seed = whole_number("seed", seed, 0)
        self._key = root_key(seed, Stream.WEIGHTED)

    @property
    def length(self) -> int:
        """``num_samples``."""
        return self._num_samples

    @property
    def num_records(self) -> int:
        """N."""
        return len(self._sums)

    def gather(self, epoch: int, positions: Records) -> Records:
        """Returns the draws at those positions of a pass."""
        # Weights [2, 0, 1] have the sums [2, 2, 3]: 1.9 is record 0, 2.0 is record 2.
        records = np.searchsorted(self._sums, self._draws(epoch, positions), side="right")
        # The product may be rounded up to the whole sum, where weights are below 1e-307.
        records = np.minimum(records, self._last)
        return cast(Records, records.astype(np.int64, copy=False))

    def find(self, epoch: int, record: int, start: int, stop: int) -> Records:
        """Returns the draws of the record, by going through all draws of the window in blocks.

        A draw costs about 15 ns: whether it falls between two of the sums needs no search.
        """
        found = [np.empty(0, dtype=np.int64)]
        if record > self._last or self._weights[record] == 0:
            return found[0]
        low = self._sums[record - 1] if record > 0 else -np.inf
        high = np.inf if record == self._last else self._sums[record]
        for first in range(start, stop, RECORDS_PER_BLOCK):
            positions = np.arange(first, min(first + RECORDS_PER_BLOCK, stop), dtype=np.int64)
            draws = self._draws(epoch, positions)
            found.append(positions[(low <= draws) & (draws < high)])
        return np.concatenate(found)

    def arguments(self) -> dict[str, Any]:
        """The weights, the draws of a pass and the seed."""
        return {
            "weights": self._weights,
            "num_samples": self._num_samples,
            "seed": self._seed,
        }

    def _draws(self, epoch: int, positions: Records) -> NDArray[np.float64]:
        """Returns numbers in [0, sum of the weights), of which each falls to a record."""
        # Far beyond any run, draws are counted modulo 2**64.
        first = np.uint64(epoch * self._num_samples % 2**64)
        words = scattered_words(self._key, (positions.view(np.uint64) + first).view(np.int64))
        # 53 bits are what a double holds: fractions in [0, 1).
        fractions = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return cast(NDArray[np.float64], fractions * self._sums[-1])


def _as_weights(values: Any) -> NDArray[np.float64]:
    try:
        # A copy, because a user's array may change later.
        weights = np.array(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"weights={reprlib.repr(values)} is no list of numbers: {error}. Give one finite "
            "number of at least 0 for each record."
        ) from error
    if weights.ndim != 1 or len(weights) == 0:
        raise ValueError(
            f"weights has the shape {weights.shape}. Give one weight for each record, in one "
            "dimension."
        )
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise ValueError(
            f"weights[{wrong[0]}]={weights[wrong[0]]} is not a finite number of at least 0. Give "
            "such a weight for each record."
        )
    if not weights.any():
        raise ValueError(
            f"No weight (of {len(weights)}) is above 0, so no record could be drawn. Give at least "
            "one record a weight above 0."
        )
    return weights
