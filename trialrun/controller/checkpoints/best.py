"""Which checkpoint is the best: the first whose searched metric no other beats; NaN never is."""

from __future__ import annotations

import math
from collections.abc import Iterable

from trialrun.controller.bookkeeping import CheckpointRow


def is_better(value: float, best: float | None, smaller_is_better: bool) -> bool:
    """Returns whether a value improves on the best so far; a tie does not, NaN never does."""
    if math.isnan(value):
        return False
    if best is None:
        return True
    return value < best if smaller_is_better else value > best


def best_first(
    rows: Iterable[CheckpointRow], metric: str, smaller_is_better: bool
) -> list[CheckpointRow]:
    """Returns the checkpoints that have the metric, the best first; of equal ones the oldest."""

    def key(row: CheckpointRow) -> tuple[float, int]:
        value = (row.metrics or {})[metric]
        return (value if smaller_is_better else -value), row.batches

    scored = [row for row in rows if not math.isnan((row.metrics or {}).get(metric, math.nan))]
    return sorted(scored, key=key)
