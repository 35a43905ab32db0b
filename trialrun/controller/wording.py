"""Words for numbers, as the lines for people have them."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """Returns ``1 slot``, ``2 slots``, ``2 processes``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}es" if noun.endswith(("s", "ch")) else f"{number} {noun}s"


def completed(experiment: int, batches: int, total: int | None) -> str:
    """Returns the line that says that an experiment is complete.

    Args:
        experiment: Its number.
        batches: Batches completed.
        total: The length that was asked for; None where that is a time.
    """
    if total is None or batches >= total:
        return f"Completed experiment {experiment} after {batches} batches."
    return (
        f"Completed experiment {experiment} after {batches} of {total} batches: the trial itself "
        "asked to end."
    )
