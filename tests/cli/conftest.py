"""Runs that many tests look at; each costs seconds, so each is made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from .workplace import Result, Workplace


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path / "work")


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, Result]:
    """The trial of ``Workplace``, trained without a stop in one process."""
    place = Workplace(tmp_path_factory.mktemp("straight"))
    return place, place.run("submit", "trial.py", "--processes", "1")
