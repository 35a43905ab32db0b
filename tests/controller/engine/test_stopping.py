from __future__ import annotations

from typing import Any

from thread_collectives import run_on_threads

from trialrun.controller.engine.parallel.collectives import Collectives, SingleProcess
from trialrun.controller.engine.parallel.meetings import Meetings
from trialrun.controller.engine.schedule import BoundaryWishes, Event
from trialrun.controller.engine.stopping import Agreement, StopRequest


class FixedWishes:
    """Wishes that a test sets."""

    def __init__(self, values: list[int]) -> None:
        self.values = values

    def __call__(self) -> list[int]:
        return list(self.values)

    def from_outside(self) -> list[int]:
        return list(self.values)


def meetings_of(process: Collectives, num_wishes: int) -> Meetings:
    return Meetings(process, slots_each=1, steps=["step"], num_wishes=num_wishes)


def test_what_one_process_wishes_all_agree_on() -> None:
    def agree(process: Any) -> list[int]:
        wishes = FixedWishes([int(process.rank == 2), 0, int(process.rank == 0)])
        agreement = Agreement(process, wishes, meetings_of(process, num_wishes=3))
        agreement.begin()
        # A wish that comes up after the beginning waits for the next time.
        wishes.values[1] = 1
        first = agreement.settle()
        agreement.begin()
        assert agreement.settle() == [1, 1, 1]
        return first

    assert run_on_threads(3, agree) == [[1, 0, 1]] * 3


def test_one_process_is_asked_at_the_end_of_the_batch_what_comes_from_outside() -> None:
    stop = StopRequest()
    process = SingleProcess()
    agreement = Agreement(process, BoundaryWishes(stop, None), meetings_of(process, len(Event)))
    agreement.begin()
    stop.set_slot(0, True)
    # The trial's own wish waits for the next beginning, as on several processes.
    assert agreement.settle()[Event.EARLY_END] == 0
    agreement.begin()
    assert agreement.settle()[Event.EARLY_END] == 1
    stop.set_slot(0, False)
    agreement.begin()
    stop.set()
    assert agreement.settle()[Event.STOP] == 1
