"""Lengths and periods as Determined writes them: ``{epochs: 2}``, ``{batches: 900}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from trialrun._errors import ConfigurationError

UNITS = ("batches", "records", "epochs")

_WHOLE_NUMBER = pydantic.TypeAdapter(Annotated[int, pydantic.Field(ge=0)])


def whole_number(key: str, value: Any, least: int = 0) -> int:
    """Returns a whole number.

    Raises:
        ConfigurationError: The value is none, or less than it may be.
    """
    try:
        number = _WHOLE_NUMBER.validate_python(value)
    except pydantic.ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ConfigurationError(f"Configuration key {key!r} is {value!r}: {reason}") from None
    if number < least:
        raise ConfigurationError(
            f"Configuration key {key!r} is {value!r}: it must be at least {least}."
        )
    return number


def read_length(key: str, value: Any, global_batch_size: Any) -> str | None:
    """Returns a length as trialrun writes it, such as ``2ep``; None for a length of zero.

    Determined counts records in whole global batches: 1000 records are 15 batches of 64; fewer
    records than one batch holds are one batch.

    Args:
        key: What the user wrote it under.
        value: What the user wrote.
        global_batch_size: The hyperparameter, or None where there is none.

    Raises:
        ConfigurationError: The value is no such length, or counts records of an unknown batch size.
    """
    if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in UNITS:
        raise ConfigurationError(
            f"Configuration key {key!r} is {value!r}: it must hold one of {', '.join(UNITS)} with "
            "a whole number, such as {epochs: 2}."
        )
    ((unit, written),) = value.items()
    number = whole_number(f"{key}.{unit}", written)
    if number == 0:
        return None
    if unit == "epochs":
        return f"{number}ep"
    if unit == "batches":
        return f"{number}ba"
    if isinstance(global_batch_size, bool) or not isinstance(global_batch_size, int):
        raise ConfigurationError(
            f"Configuration key '{key}.records' is {number}, but the hyperparameter "
            f"global_batch_size is {global_batch_size!r}, so nobody knows how many batches that "
            "is. Set it to the records of one batch over all slots."
        )
    return f"{max(number // max(global_batch_size, 1), 1)}ba"
