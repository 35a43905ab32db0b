from __future__ import annotations

from pathlib import Path

import pytest

from trialrun._errors import BookkeepingError
from trialrun.controller.bookkeeping import (
    AttemptRow,
    CheckpointState,
    Database,
    Recorder,
    checkpoints_of_trial,
    get_checkpoint,
    mark_checkpoint,
)

UUIDS = [
    "aaaa1111-0000-4000-8000-000000000001",
    "aaaa2222-0000-4000-8000-000000000002",
    "bb_%3333-0000-4000-8000-000000000003",
]


@pytest.fixture
def recorded(database: Database, attempt: AttemptRow) -> AttemptRow:
    with Recorder(database, attempt) as recorder:
        for uuid, batches in zip(UUIDS, (10, 30, 20), strict=True):
            recorder.checkpoint(
                uuid=uuid,
                batches=batches,
                digest="d1",
                size_bytes=2**40,
                path=Path("/checkpoints") / uuid,
                files={"model.safetensors": {"size_bytes": 2**40, "blake3": "ff"}},
                metrics={"loss": 0.5} if batches == 10 else None,
            )
    return attempt


def test_checkpoints_are_listed_newest_first(database: Database, recorded: AttemptRow) -> None:
    rows = checkpoints_of_trial(database, recorded.trial_id)
    assert [row.batches for row in rows] == [30, 20, 10]
    assert [row.metrics for row in rows] == [None, None, {"loss": 0.5}]
    assert rows[0].files == {"model.safetensors": {"size_bytes": 2**40, "blake3": "ff"}}
    assert (rows[0].digest, rows[0].size_bytes, rows[0].attempt_id) == ("d1", 2**40, recorded.id)
    assert rows[0].path == f"/checkpoints/{UUIDS[1]}"


def test_marked_checkpoint_leaves_the_list_of_good_ones(
    database: Database, recorded: AttemptRow
) -> None:
    mark_checkpoint(database, UUIDS[1], CheckpointState.DAMAGED)
    good = checkpoints_of_trial(database, recorded.trial_id, state=CheckpointState.COMPLETED)
    assert [row.batches for row in good] == [20, 10]
    assert get_checkpoint(database, UUIDS[1]).state is CheckpointState.DAMAGED


def test_marking_an_unknown_checkpoint_is_an_error(database: Database) -> None:
    with pytest.raises(BookkeepingError, match="no checkpoint 'zzzz' to mark as DELETED"):
        mark_checkpoint(database, "zzzz", CheckpointState.DELETED)


@pytest.mark.parametrize("uuid", [UUIDS[0], "aaaa1", "AAAA1111", UUIDS[0].upper()])
def test_checkpoint_is_found_by_its_beginning(
    database: Database, recorded: AttemptRow, uuid: str
) -> None:
    assert get_checkpoint(database, uuid).uuid == UUIDS[0]


@pytest.mark.parametrize(
    ("uuid", "message"),
    [
        ("aaa", "'aaa' is too short for a checkpoint: give at least the first 4 characters"),
        ("aaaa", f"'aaaa' is the beginning of several checkpoints: {UUIDS[0]}, {UUIDS[1]}. Give"),
        ("cccc", "There is no checkpoint 'cccc'. `trialrun checkpoint list` shows"),
        ("aaa_", "There is no checkpoint 'aaa_'"),
        ("%%%%", "There is no checkpoint '%%%%'"),
    ],
)
def test_beginning_that_names_not_exactly_one_is_an_error(
    database: Database, recorded: AttemptRow, uuid: str, message: str
) -> None:
    with pytest.raises(BookkeepingError) as raised:
        get_checkpoint(database, uuid)
    assert message in str(raised.value)
