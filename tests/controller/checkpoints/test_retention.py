from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trialrun.controller.bookkeeping import (
    AttemptRow,
    CheckpointState,
    Database,
    Recorder,
    checkpoints_of_trial,
    claim_trial,
    create_experiment,
)
from trialrun.controller.checkpoints import retention
from trialrun.controller.checkpoints.retention import CheckpointKeeper
from trialrun.controller.checkpoints.store import StoredCheckpoint
from trialrun.controller.config import read_config


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database.open(f"sqlite:///{tmp_path / 'trialrun.db'}")


@pytest.fixture
def attempt(database: Database, tmp_path: Path) -> AttemptRow:
    _, trial = create_experiment(
        database,
        name="digits",
        trial_file=Path("/code/trial.py"),
        trial_class="Digits",
        trial_source_hash="ab12",
        config={},
        hyperparameters={},
        seed=1,
        experiments_directory=tmp_path,
    )
    attempt = claim_trial(
        database, trial.id, hostname="here", pid=1, num_processes=1, first_batch=0
    )
    assert attempt is not None
    return attempt


@pytest.fixture
def recorder(database: Database, attempt: AttemptRow) -> Iterator[Recorder]:
    with Recorder(database, attempt) as recorder:
        yield recorder


class Trial:
    """Stores one checkpoint for each value of the metric, at batches 1, 2, ..."""

    def __init__(
        self, database: Database, attempt: AttemptRow, recorder: Recorder, folder: Path
    ) -> None:
        self._database = database
        self._attempt = attempt
        self._recorder = recorder
        self._folder = folder

    def store(self, values: list[float | None], **config: Any) -> tuple[list[int], list[int]]:
        """Returns the batches whose checkpoints are on record as whole, and on the disk."""
        keeper = CheckpointKeeper(
            self._database,
            self._attempt.trial_id,
            self._recorder,
            read_config({"max_length": "9ba", **config}),
        )
        for batches, value in enumerate(values, start=1):
            path = self._folder / f"uuid-{batches}"
            path.mkdir(parents=True)
            (path / "state.pt").write_text("x")
            keeper.stored(
                StoredCheckpoint(
                    uuid=path.name,
                    batches=batches,
                    digest=f"d{batches}",
                    path=path,
                    files={"state.pt": {"size_bytes": 1, "blake3": "ff"}},
                    metrics=None if value is None else {"loss": value, "other": -value},
                )
            )
        rows = checkpoints_of_trial(self._database, self._attempt.trial_id)
        assert [row.batches for row in rows] == list(range(len(values), 0, -1))
        whole = [row.batches for row in rows if row.state is CheckpointState.COMPLETED]
        left = sorted(int(path.name.split("-")[1]) for path in self._folder.iterdir())
        return sorted(whole), left


@pytest.fixture
def trial(database: Database, attempt: AttemptRow, recorder: Recorder, tmp_path: Path) -> Trial:
    return Trial(database, attempt, recorder, tmp_path / "checkpoints")


@pytest.mark.parametrize(
    ("values", "config", "kept"),
    [
        # The newest two and the best.
        ([3.0, 1.0, 2.0, 2.0, 4.0], {}, [2, 4, 5]),
        ([3.0, 1.0, 2.0, 2.0, 4.0], {"searcher": {"smaller_is_better": False}}, [4, 5]),
        ([3.0, 1.0, 2.0, 2.0, 4.0], {"searcher": {"metric": "other"}}, [4, 5]),
        # A metric that does not exist makes none the best.
        ([3.0, 1.0, 2.0, 2.0, 4.0], {"searcher": {"metric": "missing"}}, [4, 5]),
        # Of equal ones the oldest is the best; NaN and checkpoints without metrics never are.
        ([2.0, 1.0, 1.0, math.nan, None], {}, [2, 4, 5]),
        ([math.nan, None, 5.0, None, math.nan], {}, [3, 4, 5]),
        (
            [3.0, 1.0, 2.0, 5.0, 4.0],
            {"checkpoint_gc": {"save_trial_best": 2, "save_trial_latest": 1}},
            [2, 3, 5],
        ),
        (
            [1.0, 2.0, 3.0, 4.0],
            {"checkpoint_gc": {"save_trial_best": 0, "save_trial_latest": 3}},
            [2, 3, 4],
        ),
    ],
)
def test_the_newest_and_the_best_stay(
    trial: Trial, values: list[float | None], config: dict[str, Any], kept: list[int]
) -> None:
    assert trial.store(values, **config) == (kept, kept)


def test_a_folder_that_cannot_be_deleted_stops_nothing(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: Path) -> None:
        raise OSError("busy")

    monkeypatch.setattr(retention, "delete_files", fail)
    recorded, left = trial.store([1.0, 2.0, 3.0, 4.0])
    # The record goes first: what is on record as whole has its files.
    assert (recorded, left) == ([1, 3, 4], [1, 2, 3, 4])
    assert [
        record.message.endswith("uuid-2 could not be deleted: busy") for record in caplog.records
    ] == [True]
