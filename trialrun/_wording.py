"""Words for numbers and for values, as messages and lines for people have them."""

from __future__ import annotations

import re
from typing import Any

# Names that are spoken with a vowel first. Abbreviations are spelt out: an SGD, but a GRU.
_TAKES_AN = re.compile(
    r"[AEFHILMNORSX](?=[A-Z])|(?![A-Z]{2})(?!(?i:eu|one|uint|uni|use))(?i:[aeiou])"
)


def count(number: int, noun: str) -> str:
    """Returns ``1 slot``, ``2 slots``, ``2 processes``, ``2 batches``, ``2 epochs``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}es" if noun.endswith(("s", "tch")) else f"{number} {noun}s"


def with_article(name: str) -> str:
    """Returns ``an Adam``, ``a tuple``, ``an SGD``, ``a GRU``."""
    return f"an {name}" if _TAKES_AN.match(name) else f"a {name}"


def type_of(value: Any) -> str:
    """Returns what a value is that should have been something else.

    For example ``an int``, ``a list``, ``an Adam``; ``None``; for a class ``the class Adam``.
    """
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return with_article(type(value).__name__)


def with_type(value: Any) -> str:
    """Returns a value and what it is: ``3, an int``, ``'yes', a str``, ``None``."""
    return "None" if value is None else f"{value!r}, {type_of(value)}"
