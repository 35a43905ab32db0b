from __future__ import annotations

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
    make(tmp_path, "a1", "b2", "c3", ".partial-d4")
    assert sorted(remove_leftovers(tmp_path, ["a1", "c3", "gone"])) == [".partial-d4", "b2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a1", "c3"]
    assert (tmp_path / "a1" / "state.pt").read_text() == "a1"
    assert remove_leftovers(tmp_path, ["a1", "c3"]) == []


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
