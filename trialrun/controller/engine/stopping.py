"""Stop requests, and how all processes agree on them without stalling a batch."""

from __future__ import annotations

from typing import Protocol

from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.parallel.meetings import FINISHED, Meetings


class StopRequest:
    """Whether this process was asked to stop: from outside, or by slots of the trial.

    A request from outside, by a signal or a command, pauses the trial, and stays. Any thread and
    any signal handler may make it: one assignment, no lock. A slot's request completes the trial;
    it is part of what the slot knows, and kept in checkpoints.
    """

    def __init__(self) -> None:
        self.from_outside = False
        self._slots: set[int] = set()

    @property
    def from_slots(self) -> bool:
        """Whether a slot of this process asks for it."""
        return bool(self._slots)

    def is_from_slot(self, slot: int) -> bool:
        """Returns whether this slot asks for it."""
        return slot in self._slots

    def set(self) -> None:
        """Asks to stop at the next boundary."""
        self.from_outside = True

    def clear(self) -> None:
        """Takes all wishes back: the next attempt in this process begins without any."""
        self.from_outside = False
        self._slots = set()

    def set_slot(self, slot: int, stop_requested: bool) -> None:
        """Notes what one slot wishes, and takes back nobody else's wish."""
        if stop_requested:
            self._slots.add(slot)
        else:
            self._slots.discard(slot)

    def __bool__(self) -> bool:
        return self.from_outside or self.from_slots


class Wishes(Protocol):
    """What this process wishes at a boundary: non-negative integers, always equally many."""

    def __call__(self) -> list[int]:
        """Returns all wishes of this moment."""

    def from_outside(self) -> list[int]:
        """Returns those of this moment that do not come from the trial itself."""


class Agreement:
    """What one process wishes, all do: at the same batch, without a collective that blocks.

    The wishes at the beginning of a batch ride on an announcement that is under way while the batch
    is computed; at its end the result is there. With one process a wish from
    outside is read at the end itself; the trial's own are read at the beginning for every P, so
    that P does not decide at which batch a trial stops itself.

    Args:
        collectives: The processes.
        wishes: This process's wishes.
        meetings: Where the processes announce what they do.
    """

    def __init__(
        self,
        collectives: Collectives,
        wishes: Wishes,
        meetings: Meetings,
    ) -> None:
        self._collectives = collectives
        self._wishes = wishes
        self._meetings = meetings
        self._begun: list[int] = []

    def begin(self) -> None:
        """Sends this process's wishes; all processes call it equally often."""
        if self._collectives.size == 1:
            self._begun = self._wishes()
        else:
            self._meetings.announce(FINISHED, self._wishes())

    def settle(self) -> list[int]:
        """Returns what was agreed since ``begin``: the element-wise maximum of all wishes.

        Raises:
            InvalidTrialError: Another process took another step than this one.
        """
        if self._collectives.size == 1:
            wishes = self._wishes.from_outside()
            return wishes if wishes == self._begun else list(map(max, self._begun, wishes))
        self._meetings.join()
        return self._meetings.agreed()
