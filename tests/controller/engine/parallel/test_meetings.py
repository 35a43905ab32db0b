"""Processes whose slots step unequally are told so, whatever they wait for; none waits for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from process_launch import Launcher
from support import make_spec, run_session
from thread_collectives import run_on_threads

from trialrun import InvalidTrialError
from trialrun.controller.engine.parallel.collectives import Collectives, SingleProcess
from trialrun.controller.engine.parallel.meetings import FINISHED, Meetings

STEPS = ["step A", "step B"]


def meetings_of(process: Collectives) -> Meetings:
    return Meetings(process, slots_each=2, steps=STEPS, num_wishes=2)


def message(places: str) -> str:
    call = "scheduler.step" if "scheduler.step" in places else "step_optimizer"
    return (
        f"The slots of one batch took different steps: {places}. Every slot must call "
        f"{call} equally often and in the same order; do not make it depend on a slot's own "
        "records."
    )


@pytest.mark.parametrize(
    "places, named",
    [
        ([0, FINISHED], "slots 0, 1 called step A; slots 2, 3 finished the batch"),
        ([FINISHED, 1], "slots 0, 1 finished the batch; slots 2, 3 called step B"),
        ([1, 0, 1], "slots 0, 1, 4, 5 called step B; slots 2, 3 called step A"),
    ],
)
def test_all_processes_name_who_does_what(places: list[int], named: str) -> None:
    def meet(process: Any) -> str:
        meetings = meetings_of(process)
        meetings.announce(FINISHED)
        meetings.announce(places[process.rank])
        with pytest.raises(InvalidTrialError) as caught:
            meetings.join()
        return str(caught.value)

    assert run_on_threads(len(places), meet) == [message(named)] * len(places)


def test_wishes_are_kept_until_they_are_asked_for() -> None:
    def meet(process: Any) -> list[list[int]]:
        meetings = meetings_of(process)
        meetings.announce(FINISHED, [process.rank, 0])
        meetings.announce(0)
        meetings.join()
        meetings.announce(1)
        meetings.join()
        return [meetings.agreed(), meetings.agreed()]

    assert run_on_threads(3, meet) == [[[2, 0], [0, 0]]] * 3


def test_one_process_announces_nothing() -> None:
    class Silent(SingleProcess):
        def start_gather(self, values: Any) -> Any:
            raise AssertionError(values)

    meetings = meetings_of(Silent())
    meetings.announce(0)
    meetings.announce(FINISHED)
    meetings.join()


class Uneven:
    """A run whose slot 1 steps otherwise than slot 0."""

    def __init__(self, way: str, has_buffers: bool, folder: Path) -> None:
        hyperparameters = {"way": way, "has_buffers": has_buffers}
        self._spec = make_spec("uneven.py", hyperparameters=hyperparameters)
        self._folder = folder

    def __call__(self, collectives: Collectives) -> Any:
        return run_session(self._spec, self._folder, collectives=collectives)


SGD = "step_optimizer on optimizer 0 (SGD)"
STEP_LR = "scheduler.step on LR scheduler 0 (StepLR)"
ADAM = "step_optimizer on optimizer 1 (Adam)"


@pytest.mark.parametrize(
    "way, has_buffers, named",
    [
        ("skips", True, f"slot 0 called {ADAM}; slot 1 finished the batch"),
        ("never", False, f"slot 0 called {SGD}; slot 1 finished the batch"),
        ("once more", False, f"slot 0 finished the batch; slot 1 called {ADAM}"),
        ("schedules", False, f"slot 0 called {STEP_LR}; slot 1 finished the batch"),
        ("swaps", True, f"slot 0 called {SGD}; slot 1 called {ADAM}"),
    ],
)
def test_slots_of_two_processes_that_step_unequally_are_named(
    way: str, has_buffers: bool, named: str, launcher: Launcher, tmp_path: Path
) -> None:
    # Processes that are told go on to their end, so that the launcher has a result of each.
    results = launcher.launch(2, [Uneven(way, has_buffers, tmp_path)])
    assert results == [[f"InvalidTrialError: {message(named)}"]] * 2
    folded = Uneven(way, has_buffers, tmp_path)
    with pytest.raises(InvalidTrialError) as caught:
        folded(SingleProcess())
    assert str(caught.value) == message(named)
