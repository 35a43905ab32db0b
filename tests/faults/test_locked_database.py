"""While another program holds the database, training goes on, and every row arrives later."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from trialrun.controller.bookkeeping import (
    AttemptRow,
    CheckpointState,
    Database,
    Recorder,
    _dialects,
    checkpoints_of_trial,
    claim_trial,
    create_experiment,
    recorder,
    request_stop,
)
from trialrun.controller.checkpoints import retention
from trialrun.controller.checkpoints.retention import CheckpointKeeper
from trialrun.controller.checkpoints.store import StoredCheckpoint
from trialrun.controller.config import read_config

from .other_program import OtherProgram

LOCKED_SECONDS = 1.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trialrun.db"


@pytest.fixture
def database(file: Path) -> Database:
    return Database.open(f"sqlite:///{file}")


@pytest.fixture
def attempt(database: Database) -> AttemptRow:
    _, trial = create_experiment(
        database,
        name="waves",
        trial_file=None,
        trial_class="Waves",
        trial_source_hash="",
        config={},
        hyperparameters={},
        seed=1,
        experiments_directory=Path("/home/experiments"),
    )
    claimed = claim_trial(database, trial.id, hostname="here", pid=1, num_processes=1)
    assert claimed is not None
    return claimed


def stored(folder: Path, batches: int) -> StoredCheckpoint:
    path = folder / f"{batches:08d}-0000-4000-8000-000000000000"
    path.mkdir(parents=True)
    return StoredCheckpoint(
        uuid=path.name, batches=batches, digest=f"{batches}", path=path, files={}, metrics=None
    )


def test_a_command_says_that_it_waits_and_for_what(
    database: Database,
    file: Path,
    attempt: AttemptRow,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(_dialects, "_NOTICE_SECONDS", 0.05)
    caplog.set_level(logging.WARNING)
    other = OtherProgram(file)
    release = threading.Timer(LOCKED_SECONDS, other.let_go)
    release.start()
    assert request_stop(database, attempt.id)
    release.join()
    assert [record.getMessage() for record in caplog.records] == [
        f"Waiting for the database {file}, to which another process is writing."
    ]


def test_a_transaction_that_need_not_wait_says_nothing(
    database: Database, attempt: AttemptRow, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert request_stop(database, attempt.id)
    assert caplog.records == []


def test_the_writer_of_checkpoints_waits_once_and_every_record_comes_later(
    database: Database,
    file: Path,
    attempt: AttemptRow,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(retention, "_RECORD_SECONDS", 0.3)
    monkeypatch.setattr(recorder, "_LOCK_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(recorder, "_RETRY_SECONDS", 0.05)
    caplog.set_level(logging.WARNING)
    config = read_config(
        {"max_length": "9ba", "checkpoint_gc": {"save_trial_best": 0, "save_trial_latest": 2}}
    )
    with Recorder(database, attempt) as writer:
        keeper = CheckpointKeeper(database, attempt.trial_id, writer, config)
        keeper.stored(stored(tmp_path, 1))
        keeper.stored(stored(tmp_path, 2))
        other = OtherProgram(file)
        flushed: list[float] = []
        flush = writer.flush
        monkeypatch.setattr(
            writer, "flush", lambda seconds: (flushed.append(seconds), flush(seconds))
        )
        for batches in (3, 4, 5):
            keeper.stored(stored(tmp_path, batches))
        # Nobody has lost a file meanwhile: none of the new ones is on record.
        assert sorted(path.name[:8] for path in tmp_path.glob("0*")) == [
            f"{batches:08d}" for batches in (1, 2, 3, 4, 5)
        ]
        # Only the first has waited.
        assert flushed == [0.3, 0.0, 0.0]
        other.let_go()
        flush(60.0)
        keeper.stored(stored(tmp_path, 6))
        keeper.stored(stored(tmp_path, 7))
    rows = checkpoints_of_trial(database, attempt.trial_id)
    assert {row.batches: row.state for row in rows} == {
        1: CheckpointState.DELETED,
        2: CheckpointState.DELETED,
        3: CheckpointState.DELETED,
        4: CheckpointState.DELETED,
        5: CheckpointState.DELETED,
        6: CheckpointState.COMPLETED,
        7: CheckpointState.COMPLETED,
    }
    assert sorted(path.name[:8] for path in tmp_path.glob("0*")) == ["00000006", "00000007"]
    messages = [record.getMessage() for record in caplog.records if "whole" in record.getMessage()]
    assert [message.partition(": ")[0] for message in messages] == [
        f"The checkpoint of batch {batches} is whole, and will be on record later"
        for batches in (3, 4, 5)
    ]
