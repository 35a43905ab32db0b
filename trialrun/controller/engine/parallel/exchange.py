"""Slots hand plain values to each other; it does not matter which process executes which slot.

In ``train_batch`` the slots of a process meet first, as they do at an optimizer's step, and their
process then speaks for them. Code that runs once in each process speaks for all its slots at once.
Elsewhere slots do not come together, and a call is refused rather than left to wait for ever.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from trialrun._errors import InvalidTrialError
from trialrun.controller import plain
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.parallel.meetings import Meetings, place_of_call
from trialrun.controller.engine.parallel.slots import Slots

SET_UP = "set-up"
"""The code that runs before training begins: the trial's constructor, and what builds its data."""


class _Thread(threading.local):
    """What one thread is doing: a loader's thread, in the middle of a batch, is not a slot's."""

    is_in_train_batch = False


class SlotExchange:
    """Where user code may hand values from slot to slot, and how.

    Args:
        collectives: The processes.
        slots_each: Slots of a process.
    """

    thread: _Thread
    """Says whether the present thread executes ``train_batch``."""
    once: str | None
    """What runs once in each process at the moment; None: something else, or nothing."""

    def __init__(self, collectives: Collectives, slots_each: int) -> None:
        self.thread = _Thread()
        self.once = SET_UP
        self._collectives = collectives
        self._slots_each = slots_each
        # What the folded slots of this process have brought, and what all slots have.
        self._brought: list[Any] = []
        self._gathered: list[Any] | None = None

    @contextlib.contextmanager
    def once_in_each_process(self, name: str, meetings: Meetings) -> Iterator[None]:
        """Declares user code that every process runs once, such as a callback.

        Args:
            name: What an error calls it.
            meetings: Where the processes tell each other of the calls in it.
        """
        before = self.once, meetings.stretch, self.thread.is_in_train_batch
        self.once = meetings.stretch = name
        # It may interrupt the slot whose thread has taken a step for all.
        self.thread.is_in_train_batch = False
        try:
            yield
        finally:
            self.once, meetings.stretch, self.thread.is_in_train_batch = before

    def among_slots(
        self, value: Any, call: str, to_all: bool, slots: Slots, meetings: Meetings
    ) -> list[Any] | None:
        """Exchanges what the slots of one batch bring, each in its ``train_batch``."""
        brought = plain.snapshot(value, f"The value given to {call}")
        if slots.current == slots.numbers.start:
            self._brought = []
            meetings.announce(place_of_call(call))
        self._brought.append(brought)

        def act() -> None:
            meetings.join()
            self._gathered = self._gather(self._brought, call, to_all)

        slots.meet(call, act)
        if self._gathered is None or not (to_all or slots.current == 0):
            return None
        return _copy(self._gathered)

    def among_processes(self, value: Any, call: str, meetings: Meetings) -> list[Any]:
        """Exchanges what each process brings for all its slots."""
        brought = plain.snapshot(value, f"The value given to {call}")
        meetings.announce(place_of_call(call))
        meetings.join()
        gathered = self._gather([brought] * self._slots_each, call, to_all=True)
        assert gathered is not None
        return _copy(gathered)

    def _gather(self, brought: list[Any], call: str, to_all: bool) -> list[Any] | None:
        rows = self._collectives.gather(brought, call)
        gathered = None if rows is None else [value for row in rows for value in row]
        if to_all and self._collectives.size > 1:
            gathered = self._collectives.broadcast(gathered, call)
        return gathered


def _copy(gathered: list[Any]) -> list[Any]:
    # One by one, so that no slot shares memory with another, whichever process executes it.
    return [plain.restore(plain.snapshot(value, "value")) for value in gathered]


def refused(call: str, where: str) -> InvalidTrialError:
    """Returns the error of a call that is made where slots do not come together.

    Args:
        call: What the trial has called.
        where: Where it did.
    """
    return InvalidTrialError(
        f"{call} was called {where}, where it would wait for ever. Call it in __init__, in "
        "train_batch or in a callback of every process, and keep what it returns."
    )
