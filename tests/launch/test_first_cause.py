"""Of all that processes and the system say of a lost attempt, the first cause is told."""

from __future__ import annotations

import signal
from pathlib import Path

from trialrun.controller.launch.failures import Failure, FailureKind
from trialrun.controller.launch.processes import first_cause

KILLED = -signal.SIGKILL


def say(folder: Path, process: int, kind: FailureKind, message: str) -> Failure:
    failure = Failure(kind=kind, message=message, traceback=None, process=process)
    failure.write(folder)
    return failure


def test_a_killed_process_is_the_cause_whatever_another_says_of_it(tmp_path: Path) -> None:
    say(tmp_path, 0, FailureKind.USER_CODE, "RuntimeError: connectFullMesh failed")
    cause = first_cause(tmp_path, 7, {0: 1, 2: KILLED}, {2: KILLED})
    assert (cause.kind, cause.process, cause.batches) == (FailureKind.LOST, 2, 7)
    assert cause.message == (f"Process 2 was killed by SIGKILL. Its output is in {tmp_path}.")


def test_an_exception_is_the_cause_of_what_is_killed_after_it(tmp_path: Path) -> None:
    raised = say(tmp_path, 0, FailureKind.USER_CODE, "ValueError at batch 7")
    assert first_cause(tmp_path, 7, {0: 1, 2: KILLED}, {0: 1}) == raised


def test_a_process_that_ends_in_silence_is_the_cause_of_what_others_miss(
    tmp_path: Path,
) -> None:
    say(tmp_path, 0, FailureKind.PEER_LOST, "The connection was lost.")
    cause = first_cause(tmp_path, 7, {0: 1, 1: 0, 2: 1}, {0: 1, 1: 0})
    assert (cause.kind, cause.process) == (FailureKind.LOST, 1)
    assert cause.message.startswith("Process 1 ended with exit code 0 before the trial was comp")


def test_one_that_was_done_is_not_the_cause(tmp_path: Path) -> None:
    cause = first_cause(tmp_path, 7, {0: 0, 1: KILLED, 2: 0}, {})
    assert (cause.kind, cause.process) == (FailureKind.LOST, 1)
    assert cause.message.startswith("Process 1 was killed by SIGKILL.")


def test_where_all_miss_each_other_the_first_says_why(tmp_path: Path) -> None:
    first = say(tmp_path, 1, FailureKind.PEER_LOST, "Process 1 of 3 could not join the others.")
    for process in (0, 2):
        say(tmp_path, process, FailureKind.PEER_LOST, "The connection was lost.")
    assert first_cause(tmp_path, 7, {0: 1, 1: 1, 2: 1}, {0: 1}) == first
