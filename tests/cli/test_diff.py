"""``trialrun diff``: checkpoints by every name, equal and not, and names that lead nowhere."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from recorded_run import RecordedRun, submit_recorded, train_recorded

from trialrun.controller.bookkeeping import CheckpointState, mark_checkpoint

from .workplace import Workplace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Experiment 1 and, with other seeds and the same, 2 and 3; experiment 4 never ran."""
    place = Workplace(tmp_path_factory.mktemp("diff"))
    train_recorded(place.folder, "predicting.py")
    train_recorded(place.folder, "predicting.py", seed=8)
    train_recorded(place.folder, "predicting.py", validation_period="2ba")
    submit_recorded(place.folder, "predicting.py")
    return place


def checkpoint(place: Workplace, experiment: int, batches: int) -> dict[str, str]:
    rows = place.invoke("checkpoint", "list", str(experiment), "--json").json
    return next(row for row in rows if row["batches"] == batches)


def test_the_same_run_twice_is_equal(place: Workplace) -> None:
    result = place.invoke("diff", "1:latest", "3:8")
    assert result.code == 0, result.err
    assert "Equal: " in result.out and "bit for bit.\n" in result.out
    assert "  configuration.validation_period: 4ba and 2ba\n" in result.out
    data = place.invoke("diff", "1:8", "3:latest", "--json").json
    assert (data["equal"], data["first"], data["tensors"]) == (True, None, [])
    assert data["num_compared"] > 4
    assert data["checkpoints"][0]["digest"] == data["checkpoints"][1]["digest"]
    assert data["checkpoints"][0]["uuid"] == checkpoint(place, 1, 8)["uuid"]


def test_another_seed_is_told_with_the_first_tensor_and_how_far_it_is_off(place: Workplace) -> None:
    result = place.invoke("diff", "1:8", "2:8")
    assert result.code == 1
    lines = result.lines
    first, second = checkpoint(place, 1, 8), checkpoint(place, 2, 8)
    assert lines[0] == (
        f"The first: checkpoint {first['uuid']}, trial 1, batch 8, {first['short_digest']}"
    )
    assert lines[1].startswith(f"The second: checkpoint {second['uuid']}, trial 2, batch 8, v2-")
    assert re.match(
        r"The first tensor that differs is model\.0\.\S+ \(float\d\d, .*\) at \[.*\]: \S+ and \S+, "
        r"\d+ units in the last place apart; \d+ of \d+ elements differ, by at most \d+ units",
        lines[2],
    )
    assert "  identity.seed: 7 and 8" in lines
    data = place.invoke("diff", "1:8", "2:8", "--json").json
    assert data["first"]["name"] in lines[2]
    assert {"name": "identity.seed", "first": 7, "second": 8} in data["facts"]


def test_checkpoints_go_by_uuid_and_by_folder_too(place: Workplace, tmp_path: Path) -> None:
    first, second = checkpoint(place, 1, 4), checkpoint(place, 1, 8)
    copy = shutil.copytree(second["path"], tmp_path / "copy")
    by_uuid = place.invoke("diff", first["uuid"][:8], second["uuid"], "--json")
    by_folder = place.invoke("diff", first["path"], str(copy), "--json")
    assert by_uuid.code == by_folder.code == 1
    assert by_folder.json["tensors"] == by_uuid.json["tensors"]
    assert by_folder.json["checkpoints"] == [{"path": first["path"]}, {"path": str(copy)}]
    assert {"name": "batches", "first": 4, "second": 8} in by_folder.json["facts"]
    elsewhere = Workplace(tmp_path / "elsewhere")
    assert elsewhere.invoke("diff", str(copy), second["path"]).code == 0
    assert not elsewhere.home.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("1:5", "Experiment 1 has no checkpoint of batch 5. It has those of batches 4, 8."),
        ("4:5", "Experiment 4 has no checkpoint of batch 5. It has none at all yet."),
        ("4:latest", "Experiment 4 has no checkpoint whose files are there."),
        ("1:newest", "'1:newest' names no checkpoint of experiment 1. After the colon give latest"),
        ("1:", "'1:' names no checkpoint of experiment 1."),
        ("9:latest", "There is no experiment 9"),
        ("0123456", "There is no checkpoint '0123456'"),
        ("final", "'final' is neither a folder nor the UUID of a checkpoint."),
        ("", "'' is neither a folder nor the UUID of a checkpoint."),
    ],
)
def test_a_name_that_leads_nowhere_is_explained(place: Workplace, name: str, message: str) -> None:
    result = place.invoke("diff", "1:8", name)
    assert (result.code, result.out) == (2, "")
    assert f"Error: {message}" in result.err


def test_a_folder_that_is_no_checkpoint_is_refused(place: Workplace, tmp_path: Path) -> None:
    result = place.invoke("diff", "1:8", str(tmp_path))
    assert result.code == 2
    assert f"Checkpoint {tmp_path.name} in {tmp_path.parent} cannot be read: " in result.err


def test_files_that_are_gone_or_damaged_are_not_compared(tmp_path: Path) -> None:
    place = Workplace(tmp_path / "work")
    run: RecordedRun = train_recorded(place.folder, "predicting.py")
    newest, older = run.checkpoints
    mark_checkpoint(run.database, older.uuid, CheckpointState.DELETED)
    result = place.invoke("diff", "1:8", "1:4")
    assert result.code == 2
    assert f"The files of checkpoint {older.uuid} were deleted by the rules" in result.err
    (Path(newest.path) / "state.pt").write_bytes(b"")
    result = place.invoke("diff", "1:8", newest.uuid)
    assert result.code == 2
    assert f"Checkpoint {newest.uuid}: state.pt has 0 bytes" in result.err
