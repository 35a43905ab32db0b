from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from trialrun.controller.checkpoints import folders
from trialrun.controller.checkpoints.folders import (
    delete_files,
    partial_folder,
    remove_leftovers,
)


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "state.pt").write_text(name)


def test_a_folder_that_no_record_knows_is_removed(tmp_path: Path) -> None:
    kept, unknown, other = (str(uuid.UUID(int=number)) for number in range(3))
    make(tmp_path, kept, unknown, other, ".partial-d4")
    assert sorted(remove_leftovers(tmp_path, [kept, other, "gone"])) == [".partial-d4", unknown]
    assert sorted(path.name for path in tmp_path.iterdir()) == [kept, other]
    assert (tmp_path / kept / "state.pt").read_text() == kept
    assert remove_leftovers(tmp_path, [kept, other]) == []


def test_what_is_not_named_as_a_checkpoint_is_somebody_elses(tmp_path: Path) -> None:
    make(tmp_path, "my-export")
    (tmp_path / "notes.txt").write_text("mine")
    assert remove_leftovers(tmp_path, []) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my-export", "notes.txt"]


def test_a_folder_that_was_never_made_has_no_leftovers(tmp_path: Path) -> None:
    assert remove_leftovers(tmp_path / "none", []) == []


def test_a_checkpoint_goes_away_with_its_files(tmp_path: Path) -> None:
    make(tmp_path, "a1", "b2")
    delete_files(tmp_path / "a1")
    assert [path.name for path in tmp_path.iterdir()] == ["b2"]
    delete_files(tmp_path / "a1")  # which is gone already


def test_a_deletion_cut_short_leaves_no_half_checkpoint_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a1")

    def fail(path: Path) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(folders.shutil, "rmtree", fail)
        with pytest.raises(OSError, match="^killed$"):
            delete_files(tmp_path / "a1")
    assert list(tmp_path.iterdir()) == [partial_folder(tmp_path, "a1")]
    assert remove_leftovers(tmp_path, ["a1"]) == [".partial-a1"]
