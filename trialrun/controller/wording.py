"""Words for numbers, as the lines for people have them."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """Returns ``1 slot``, ``2 slots``, ``2 processes``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}es" if noun.endswith(("s", "ch")) else f"{number} {noun}s"
