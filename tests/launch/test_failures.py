"""Of several failures the first cause is told, and not what followed from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from trialrun.controller.launch.failures import (
    Failure,
    FailureKind,
    failure_file,
    first_failure,
    without_failures,
)


def fail(
    folder: Path, process: int, failed_at: float, kind: FailureKind = FailureKind.USER_CODE
) -> Failure:
    failure = Failure(
        kind=kind,
        message=f"ValueError in slot {process}: «nächstes»",
        traceback="Traceback …",
        process=process,
        failed_at=failed_at,
    )
    failure.write(folder)
    return failure


def test_no_failure(tmp_path: Path) -> None:
    assert first_failure(tmp_path) is None


@pytest.mark.parametrize("kind", FailureKind)
def test_failure_is_read_as_it_was_written(tmp_path: Path, kind: FailureKind) -> None:
    failure = fail(tmp_path, 3, 12.5, kind)
    assert failure_file(tmp_path, 3).is_file()
    assert first_failure(tmp_path) == failure


def test_earliest_failure_comes_first_whatever_its_process(tmp_path: Path) -> None:
    fail(tmp_path, 0, 30.0)
    earliest = fail(tmp_path, 2, 10.0, FailureKind.RULE)
    fail(tmp_path, 1, 20.0)
    assert first_failure(tmp_path) == earliest


def test_lost_peer_comes_last_though_it_was_noticed_first(tmp_path: Path) -> None:
    fail(tmp_path, 0, 10.0, FailureKind.PEER_LOST)
    cause = fail(tmp_path, 1, 20.0)
    fail(tmp_path, 2, 5.0, FailureKind.PEER_LOST)
    assert first_failure(tmp_path) == cause


def test_lost_peer_is_told_where_nothing_else_is(tmp_path: Path) -> None:
    fail(tmp_path, 0, 10.0, FailureKind.PEER_LOST)
    earliest = fail(tmp_path, 1, 5.0, FailureKind.PEER_LOST)
    assert first_failure(tmp_path) == earliest


def test_other_files_are_no_failures(tmp_path: Path) -> None:
    (tmp_path / "process-0.log").write_text("failure", encoding="utf-8")
    assert first_failure(tmp_path) is None


def test_what_processes_printed_is_shown_without_their_failures(tmp_path: Path) -> None:
    lines = ["epoch 1", "Traceback …", "ValueError in slot 0: «nächstes»"]
    assert without_failures(lines, tmp_path) == lines
    fail(tmp_path, 0, 10.0)
    rule = Failure(kind=FailureKind.RULE, message="One.\nTwo.", traceback=None, process=1)
    rule.write(tmp_path)
    assert without_failures(["One.", *lines, "Two."], tmp_path) == [lines[0], lines[2]]
    assert {path.name for path in tmp_path.iterdir()} == {"failure-0.json", "failure-1.json"}
