"""A real database file, with one experiment, one trial and one running attempt."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trialrun.controller.bookkeeping import (
    AttemptRow,
    Database,
    ExperimentRow,
    TrialRow,
    claim_trial,
    create_experiment,
)


def new_experiment(database: Database, name: str = "digits") -> tuple[ExperimentRow, TrialRow]:
    return create_experiment(
        database,
        name=name,
        trial_file=Path("/code/trial.py"),
        trial_class="Digits",
        trial_source_hash="ab12",
        config={"slots": 4},
        hyperparameters={"lr": 0.1},
        seed=2**63 - 1,
        experiments_directory=Path("/home/experiments"),
    )


def new_attempt(database: Database, trial_id: int, **values: int) -> AttemptRow:
    attempt = claim_trial(
        database, trial_id, hostname="here", pid=1, num_processes=1, first_batch=0, **values
    )
    assert attempt is not None
    return attempt


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trialrun.db"


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("empty") / "trialrun.db"
    Database.open(f"sqlite:///{file}")
    return file


@pytest.fixture
def database(file: Path, empty_file: Path) -> Database:
    shutil.copy(empty_file, file)  # faster than running the migrations for each test
    return Database.open(f"sqlite:///{file}")


@pytest.fixture
def trial(database: Database) -> TrialRow:
    return new_experiment(database)[1]


@pytest.fixture
def attempt(database: Database, trial: TrialRow) -> AttemptRow:
    return new_attempt(database, trial.id)
