from __future__ import annotations

import errno
from pathlib import Path

import pytest

from trialrun import TrialrunError
from trialrun.controller.whole_folder import written_whole


def test_a_folder_is_there_only_when_all_is_written(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out"
    with written_whole(target) as aside:
        (aside / "file").write_text("text")
        assert not target.exists()
    assert (target / "file").read_text() == "text"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_what_is_broken_off_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        with written_whole(tmp_path / "out") as aside:
            (aside / "file").touch()
            raise error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        TrialrunError,
        match=rf"^{tmp_path}/out could not be written: No space left on device\. Nothing of it was",
    ):
        with written_whole(tmp_path / "out") as aside:
            (aside / "file").touch()
            raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_what_somebody_else_has_written_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(TrialrunError, match=r"could not be written: Directory not empty\."):
        with written_whole(tmp_path / "out") as aside:
            (aside / "file").write_text("mine")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "file").write_text("theirs")
    assert (tmp_path / "out" / "file").read_text() == "theirs"
