"""A whole number from a user is checked in one way, with one form of message."""

from __future__ import annotations

import numpy as np


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
