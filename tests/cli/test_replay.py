"""``trialrun replay``: a stretch trained again on other processes, equal or not, and refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from recorded_run import RecordedRun, submit_recorded, train_recorded
from sqlalchemy import update

from trialrun.controller.bookkeeping import CheckpointState, mark_checkpoint
from trialrun.controller.bookkeeping.schema import CheckpointRow
from trialrun.controller.checkpoints.contents import read_contents
from trialrun.controller.checkpoints.digest import digest
from trialrun.controller.checkpoints.folders import delete_files

from .workplace import TRIAL, Workplace

# The trial has a neighbour, and can be nudged: then batch 9 is not what it was.
SOURCE = TRIAL.replace("import torch\n", "import torch\nimport neighbour\n", 1).replace(
    "        inputs, targets = batch\n",
    "        inputs, targets = batch\n        inputs = inputs * neighbour.factor(batch_idx)\n",
    1,
)
NEIGHBOUR = """
from pathlib import Path

def factor(batch_idx):
    is_nudged = Path(__file__).resolve().with_name("nudge").exists()
    return 1.5 if is_nudged and batch_idx == 9 else 1.0
"""
CONFIG: dict[str, Any] = {
    "slots": 4,
    "max_length": "14ba",
    "validation_period": "5ba",
    "checkpoint_policy": "none",
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, RecordedRun]:
    """Paused at batch 7 and gone on with; checkpoints at 4, 7, 8, 12 and 14.

    The files of 7 are deleted, and the digest of 8 is of version 1, as an older trialrun wrote it.
    """
    place = Workplace(tmp_path_factory.mktemp("replay"), source=SOURCE)
    (place.folder / "neighbour.py").write_text(NEIGHBOUR)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place.folder)
        run = submit_recorded(place.folder, place.trial_file, **CONFIG)
        run.attempt(stop_upon=("progress", 6))
        run.attempt()
    by_batch = {row.batches: row for row in run.checkpoints}
    assert sorted(by_batch) == [4, 7, 8, 12, 14]
    forget_files(run, by_batch[7])
    contents = read_contents(Path(by_batch[8].path))
    old = digest(contents.models, contents.state["optimizers"], version=1)
    with run.database.session() as session:
        row = update(CheckpointRow).where(CheckpointRow.uuid == by_batch[8].uuid)
        session.execute(row.values(digest=old))
    return place, run


def forget_files(run: RecordedRun, row: CheckpointRow) -> None:
    """Deletes a checkpoint's files, as the rules of checkpoint_gc do."""
    delete_files(Path(row.path))
    mark_checkpoint(run.database, row.uuid, CheckpointState.DELETED)


def everything(place: Workplace) -> list[str]:
    """All files of the home but the database, and its rows."""
    files = [str(path) for path in place.home.rglob("*") if not path.name.startswith("trialrun.db")]
    return [*sorted(files), place.invoke("show", "1", "--json").out]


def test_a_stretch_comes_again_from_the_start_with_the_submitted_code(
    recorded: tuple[Workplace, RecordedRun],
) -> None:
    place, run = recorded
    before = everything(place)
    place.trial_file.write_text("raise RuntimeError('not what was submitted')\n")
    try:
        result = place.run("replay", "1", "--from", "start", "--to", "latest", "--processes", "2")
    finally:
        place.trial_file.write_text(SOURCE)
    assert result.code == 0, result.err
    assert result.lines[0] == (
        "Experiment 1 again from batch 0 to batch 14, on 2 processes, with the submitted code: 5 "
        "checkpoints to compare"
    )
    shorts = {row.batches: row for row in reversed(run.checkpoints)}
    assert [line.partition(":")[0] for line in result.lines[1:6]] == [f"batch {b}" for b in shorts]
    assert all(": equal, " in line for line in result.lines[1:6])
    # The one of version 1 was compared as such.
    assert re.search(r"^batch 8: equal, [0-9a-f]{12}$", result.out, re.MULTILINE)
    assert result.lines[-1] == "Equal: 5 checkpoints, bit for bit."
    assert everything(place) == before


def test_the_first_checkpoint_that_differs_ends_it_with_the_tensor(
    recorded: tuple[Workplace, RecordedRun],
) -> None:
    place, run = recorded
    (place.folder / "nudge").touch()
    try:
        result = place.run("replay", "1", "--from", "1:8", "--to", "1:14")
        twelfth = run.checkpoints[1]
        forget_files(run, twelfth)
        as_json = place.run("replay", "1", "--from", "1:4", "--to", "1:14", "--json")
    finally:
        (place.folder / "nudge").unlink()
    assert result.code == 1
    assert result.lines[1].startswith("batch 12: different, v2-")
    assert result.lines[2] == (
        f"The bits parted between batch 8 and batch 12, checkpoint {twelfth.uuid}."
    )
    assert re.match(
        r"The first tensor that differs is model\.0\.0\.bias \(float32, 8\) at \[\d\]: ",
        result.lines[3],
    )
    assert as_json.code == 1
    data = as_json.json
    assert data["parted"] == {"after": 8, "at": 12}
    assert [each["equal"] for each in data["checkpoints"]] == [True, True, False]
    # The files of 12 are gone now, its digest is not.
    assert (data["equal"], data["difference"], data["error"]) == (False, None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--from", "1:8", "--to", "1:4"),
            "The stretch would begin at batch 8 (--from 1:8) and end at batch 4 (--to 1:4): "
            "nothing lies between them. Give a checkpoint of a later batch as --to",
        ),
        (("--from", "latest", "--to", "latest"), "The stretch would begin at batch 14 (--from lat"),
        (("--from", "1:7", "--to", "1:14"), "were deleted by the rules of checkpoint_gc. Choose"),
        (("--from", "1:7", "--to", "1:14"), "list. Or begin at batch 0: --from start."),
        (("--from", "start", "--to", "start"), "There is no checkpoint 'start'"),
        (("--from", "start", "--to", "01234567"), "There is no checkpoint '01234567'"),
        (("--from", "start", "--to", "1:5"), "Experiment 1 has no checkpoint of batch 5."),
        (
            ("--from", "start", "--to", "1:14", "--processes", "3"),
            "4 slots cannot be executed by 3",
        ),
        (("--to", "1:14"), "Missing option '--from'"),
    ],
)
def test_a_stretch_that_cannot_be_is_refused(
    recorded: tuple[Workplace, RecordedRun], arguments: tuple[str, ...], message: str
) -> None:
    result = recorded[0].invoke("replay", "1", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_a_checkpoint_of_another_experiment_is_refused(tmp_path: Path) -> None:
    place = Workplace(tmp_path / "work")
    train_recorded(place.folder, "predicting.py")
    other = train_recorded(place.folder, "predicting.py", seed=8)
    uuid = other.latest.uuid
    for arguments in (("--from", uuid, "--to", "latest"), ("--from", "start", "--to", "2:latest")):
        result = place.invoke("replay", "1", *arguments)
        assert result.code == 2
        assert f"Checkpoint {uuid} belongs to trial 2, not to experiment 1. trialrun" in result.err
    assert (
        "There is no experiment 3"
        in place.invoke("replay", "3", "--from", "start", "--to", "latest").err
    )


def test_code_that_is_neither_the_submitted_one_nor_its_copy_is_refused(tmp_path: Path) -> None:
    place = Workplace(tmp_path / "work")
    shutil.copy(Path(__file__).parent.parent / "trials" / "predicting.py", place.folder)
    run = train_recorded(place.folder, place.folder / "predicting.py")
    for path in (place.folder / "predicting.py", Path(run.experiment.directory) / "predicting.py"):
        path.write_text(path.read_text() + "\n# later\n")
    result = place.invoke("replay", "1", "--from", "start", "--to", "latest")
    assert result.code == 2
    assert f"Neither {place.folder / 'predicting.py'} nor the copy of it in " in result.err
    assert f"the hash of its text was {run.experiment.trial_source_hash[:12]}…" in result.err
