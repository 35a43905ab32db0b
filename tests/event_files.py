"""Reads TensorBoard's event files back, as TensorBoard does."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

Points = list[tuple[int, float]]


def scalars(folder: Path) -> dict[str, Points]:
    """Returns what TensorBoard shows: for each name its steps and values."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def num_events(folder: Path, name: str) -> int:
    """Returns how many events of a name the files hold, shown or hidden."""
    return sum(
        value.tag == name
        for path in folder.iterdir()
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    )


def rounded(points: list[tuple[int, float]]) -> Points:
    """Returns expected points in the precision of an event, which is single."""
    return [(step, pytest.approx(value, rel=1e-6)) for step, value in points]
