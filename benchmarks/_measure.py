"""Interleaved runs and ratios of medians: no benchmark here rests on one absolute time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping


def interleave(
    contestants: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Runs the contestants in turn, so that a slow moment of the machine meets all of them.

    Args:
        contestants: For each name a function that returns seconds.
        rounds: How often each runs; one more run before that is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            seconds = run()
            if number:
                times[name].append(seconds)
    return times


def print_ratios(times: Mapping[str, list[float]], baseline: str, unit: str, scale: float) -> None:
    """Prints median, spread and the ratio to the baseline, of medians and of pairs.

    Args:
        times: Seconds of each run.
        baseline: The name of what the others are divided by.
        unit: Of the printed figures.
        scale: What seconds are multiplied by to give the unit.
    """
    base = statistics.median(times[baseline])
    width = max(map(len, times))
    print(f"{'':{width}}  {'median':>10}  {'min':>10}  {'max':>10}  ratio")
    for name, values in times.items():
        median = statistics.median(values)
        print(
            f"{name:{width}}  {median * scale:>7.1f} {unit}  {min(values) * scale:>7.1f} {unit}  "
            f"{max(values) * scale:>7.1f} {unit}  {median / base:.3f}"
        )
