"""What an exception stands for: a fault from outside, or the trial's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from trialrun.controller.engine.parallel.slots import SlotError
from trialrun.controller.launch.explaining import explain
from trialrun.controller.launch.failures import Failure, FailureKind


def explained(error: BaseException, batches: int | None = 6) -> Failure:
    return explain(error, batches=batches, process=1, user_folder=Path("/code"))


@pytest.mark.parametrize(
    "text, ending",
    [
        ("DataLoader worker (pid 71) is killed by signal: Killed. ", "is killed by signal: Killed"),
        (
            "DataLoader worker (pid 71) is killed by signal: Bus error. It is possible that "
            "dataloader's workers are out of shared memory. Please try to raise your limit.",
            "is killed by signal: Bus error",
        ),
        (
            "DataLoader worker (pid 71) exited unexpectedly with exit code 9. Details are lost due "
            "to multiprocessing. Rerunning with num_workers=0 may give better error trace.",
            "exited unexpectedly with exit code 9",
        ),
        ("DataLoader worker (pid(s) 71, 72) exited unexpectedly", "exited unexpectedly"),
    ],
)
def test_a_lost_loader_worker_is_a_lost_process(text: str, ending: str) -> None:
    failure = explained(RuntimeError(text))
    assert failure.kind is FailureKind.LOST
    assert failure.message.startswith(
        "Process 1 lost a loader worker at batch 6: DataLoader worker (pid"
    )
    assert failure.message.endswith(f" {ending}.")
    in_slot = SlotError(2)
    in_slot.__cause__ = RuntimeError(text)
    assert explained(in_slot).kind is FailureKind.LOST
    assert " in slot 2 at batch 6: " in explained(in_slot).message


def test_an_exception_of_a_loader_worker_is_the_trials_own() -> None:
    text = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback ..."
    failure = explained(ValueError(text))
    assert (failure.kind, failure.batches, failure.error) == (
        FailureKind.USER_CODE,
        6,
        "ValueError",
    )


def test_sys_exit_is_meant() -> None:
    assert explained(SystemExit(3)).kind is FailureKind.RULE


def test_set_up_has_no_batch() -> None:
    failure = explained(KeyError("x"), batches=None)
    assert (failure.kind, failure.batches) == (FailureKind.USER_CODE, None)
    assert "while the trial was set up" in failure.message
