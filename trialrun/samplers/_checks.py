"""Whole numbers from a user are checked in one way, with one form of message."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def whole_number(name: str, value: object, minimum: int, below: int | None = None) -> int:
    """Returns the value as a Python int, or refuses it.

    Args:
        name: The argument's name, for the message.
        value: What the user gave. Numpy's integers count as whole numbers; booleans do not.
        minimum: The smallest legal value.
        below: The first value that is too large, or None for no upper bound.

    Raises:
        ValueError: The value is not a whole number in the range.
    """
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < minimum or (below is not None and value >= below):  # type: ignore[operator]
        bound = "" if below is None else f" and below {below}"
        raise ValueError(
            f"{name}={value!r} is not a whole number of at least {minimum}{bound}. "
            f"Give such a number for {name}."
        )
    return int(value)  # type: ignore[call-overload, no-any-return]


def whole_numbers(name: str, values: Any) -> NDArray[np.int64]:
    """Returns a list of whole numbers of at least 0 as an array, or refuses it.

    Args:
        name: The argument's name, for the message.
        values: A list, an array or a tensor on the CPU; it may be returned itself.

    Returns:
        Shape (n,).

    Raises:
        ValueError: It is not a list of such numbers.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:  # lists of different lengths
        raise ValueError(
            f"{name} is no list of whole numbers, but one of lists. Give one whole number of at "
            f"least 0 for each entry of {name}."
        ) from error
    if array.ndim == 1 and len(array) == 0:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.max() >= 2**63:
        raise ValueError(
            f"{name} has the shape {array.shape} and the type {array.dtype}. Give one whole number "
            f"of at least 0 and below 2**63 for each entry of {name}."
        )
    if array.min() < 0:
        place = int(array.argmin())
        raise ValueError(
            f"{name}[{place}]={array[place]} is negative. Give whole numbers of at least 0 for "
            f"{name}."
        )
    return array.astype(np.int64, copy=False)
