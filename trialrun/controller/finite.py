"""Numbers that JSON has no word for, as strings that ``float`` reads: NaN, Infinity, -Infinity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def with_words(data: Any) -> Any:
    """Returns JSON data in which every number that is not finite, however deep, is a string."""
    if isinstance(data, float) and not math.isfinite(data):
        return "NaN" if math.isnan(data) else "Infinity" if data > 0 else "-Infinity"
    if isinstance(data, Mapping):
        return {key: with_words(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [with_words(value) for value in data]
    return data
