from __future__ import annotations

import pytest
from thread_collectives import run_on_threads

from trialrun import RunConflictError, TrialrunError
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.trainer.chief import on_chief


def answers(call: object, num_processes: int = 3) -> list[object]:
    def work(collectives: Collectives) -> object:
        try:
            return on_chief(collectives, call, "test")  # type: ignore[arg-type]
        except Exception as error:
            return type(error), str(error)

    return run_on_threads(num_processes, work)


def test_every_process_gets_what_the_chief_found() -> None:
    asked = []

    def ask() -> dict[str, int]:
        asked.append(1)
        return {"experiment": 4}

    assert answers(ask) == [{"experiment": 4}] * 3
    assert asked == [1]


def test_an_error_of_the_chief_is_an_error_everywhere() -> None:
    def refuse() -> None:
        raise RunConflictError("It runs already.")

    assert answers(refuse) == [(RunConflictError, "It runs already.")] * 3


@pytest.mark.parametrize("num_processes", [1, 2])
def test_what_is_no_error_of_trialruns_own_is_told_to_the_others(num_processes: int) -> None:
    def fail() -> None:
        raise OSError("the disk is full")

    first, *others = answers(fail, num_processes)
    assert first == (OSError, "the disk is full")
    told = (TrialrunError, "Process 0 failed: OSError: the disk is full")
    assert others == [told] * (num_processes - 1)
