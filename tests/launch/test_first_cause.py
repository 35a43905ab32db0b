"""Of all that processes and the system say of a lost attempt, the first cause is told."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from trialrun.controller.launch.failures import Failure, FailureKind
from trialrun.controller.launch.heartbeats import Heartbeats
from trialrun.controller.launch.supervisor import first_cause
from trialrun.controller.launch.worker import Assignment

KILLED = -signal.SIGKILL


@pytest.fixture
def assignment(tmp_path: Path) -> Assignment:
    heartbeats = Heartbeats(3)
    heartbeats.beat(1, 7)
    # Nothing else of it matters here.
    fields = SimpleNamespace(attempt_folder=tmp_path, num_processes=3, heartbeats=heartbeats)
    return cast(Assignment, fields)


def say(assignment: Assignment, process: int, kind: FailureKind, message: str) -> Failure:
    failure = Failure(kind=kind, message=message, traceback=None, process=process)
    failure.write(assignment.attempt_folder)
    return failure


def test_a_killed_process_is_the_cause_whatever_another_says_of_it(assignment: Assignment) -> None:
    say(assignment, 0, FailureKind.USER_CODE, "RuntimeError: connectFullMesh failed")
    cause = first_cause(assignment, {0: 1, 2: KILLED}, {2: KILLED})
    assert (cause.kind, cause.process, cause.batches) == (FailureKind.LOST, 2, 7)
    assert cause.message == (
        f"Process 2 was killed by SIGKILL. Its output is in {assignment.attempt_folder}."
    )


def test_an_exception_is_the_cause_of_what_is_killed_after_it(assignment: Assignment) -> None:
    raised = say(assignment, 0, FailureKind.USER_CODE, "ValueError at batch 7")
    assert first_cause(assignment, {0: 1, 2: KILLED}, {0: 1}) == raised


def test_a_process_that_ends_in_silence_is_the_cause_of_what_others_miss(
    assignment: Assignment,
) -> None:
    say(assignment, 0, FailureKind.PEER_LOST, "The connection was lost.")
    cause = first_cause(assignment, {0: 1, 1: 0, 2: 1}, {0: 1, 1: 0})
    assert (cause.kind, cause.process) == (FailureKind.LOST, 1)
    assert cause.message.startswith("Process 1 ended with exit code 0 before the trial was comp")


def test_where_all_miss_each_other_the_first_says_why(assignment: Assignment) -> None:
    first = say(assignment, 1, FailureKind.PEER_LOST, "Process 1 of 3 could not join the others.")
    for process in (0, 2):
        say(assignment, process, FailureKind.PEER_LOST, "The connection was lost.")
    assert first_cause(assignment, {0: 1, 1: 1, 2: 1}, {0: 1}) == first
