"""Processes tell each other what they are about to do before they exchange tensors.

One that takes a step while another has finished the batch would wait for it in a collective for
ever, or add up what does not belong together. So each announces its place: the optimizer or
scheduler that it steps, the scaler that it updates, a call by which slots hand values to each
other, or the end of the batch. All announcements are messages of one kind, in one order; so those
of processes that do different things meet, are compared, and are named.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

from trialrun._distributed import CALLS
from trialrun._errors import InvalidTrialError
from trialrun.controller.engine.parallel.collectives import Collectives, PendingGather

FINISHED = -1
"""The place of a process that has finished the batch; otherwise it is the number of a step, or
the place of a call."""


def place_of_call(call: str) -> int:
    """Returns the place of a process whose slots make a call of ``context.distributed``."""
    return FINISHED - 1 - CALLS.index(call)


class Meetings:
    """What the processes announce to each other; with one process there is nothing to announce.

    An announcement is under way while its process goes on, and is looked at before tensors are
    exchanged. It carries wishes, of which all processes learn the maximum.

    Args:
        collectives: The processes.
        slots_each: Slots of a process.
        steps: For each optimizer, scaler and scheduler what its step is called in an error.
        num_wishes: Wishes that an announcement can carry.
        stretch: What an error calls the code that the processes execute.
    """

    stretch: str
    """What an error calls the code that the processes execute at the moment."""

    def __init__(
        self,
        collectives: Collectives,
        *,
        slots_each: int,
        steps: Sequence[str],
        num_wishes: int,
        stretch: str = "batch",
    ) -> None:
        self._collectives = collectives
        self._slots_each = slots_each
        self._steps = steps
        self._no_wishes = [0] * num_wishes
        self._agreed = self._no_wishes
        self._announced: collections.deque[PendingGather] = collections.deque()
        self.stretch = stretch

    def announce(self, place: int, wishes: Sequence[int] | None = None) -> None:
        """Starts to tell the others; all processes call it equally often, or learn who did not."""
        if self._collectives.size > 1:
            message = [place, *(self._no_wishes if wishes is None else wishes)]
            self._announced.append(self._collectives.start_gather(message))

    def join(self) -> None:
        """Waits until the others have come as far as this process has announced.

        Raises:
            InvalidTrialError: Processes were about to do different things.
        """
        while self._announced:
            places, *wishes = zip(*self._announced.popleft().result(), strict=True)
            self._require_one_place(places)
            self._agreed = list(map(max, self._agreed, map(max, wishes)))

    def agreed(self) -> list[int]:
        """Returns the maximum of what was wished in announcements joined since the last call."""
        agreed, self._agreed = self._agreed, self._no_wishes
        return agreed

    def _require_one_place(self, places: Sequence[int]) -> None:
        if len(set(places)) == 1:
            return
        slots: dict[str | None, list[int]] = {}
        for rank, place in enumerate(places):
            first = rank * self._slots_each
            slots.setdefault(self._label(place), []).extend(range(first, first + self._slots_each))
        raise unequal_steps(slots, self.stretch)

    def _label(self, place: int) -> str | None:
        if place == FINISHED:
            return None
        return self._steps[place] if place >= 0 else CALLS[FINISHED - 1 - place]


def unequal_steps(
    slots: Mapping[str | None, Sequence[int]], stretch: str = "batch"
) -> InvalidTrialError:
    """Returns the error of slots that do different things.

    Args:
        slots: For each step or call, or None for the end, the slots that have come to it.
        stretch: Of what it is the end.
    """
    places = "; ".join(
        f"{_enumerate(numbers)} "
        + (f"finished the {stretch}" if step is None else f"called {step}")
        for step, numbers in slots.items()
    )
    named = [_call(step) for step in slots if step is not None]
    calls = list(dict.fromkeys(named))
    reason = "on the slot" if any(call in CALLS for call in calls) else "on a slot's own records"
    return InvalidTrialError(
        f"The slots of one {stretch} took different steps: {places}. Every slot must call "
        f"{' and '.join(calls)} equally often and in the same order; do not make it depend "
        f"{reason}."
    )


def _call(step: str) -> str:
    """Returns what the trial calls: of "scaler.update on scaler 0" the part before "on"."""
    if step in CALLS:
        return step
    call, _, place = step.partition(" on ")
    return call if place else "step_optimizer"


def _enumerate(numbers: Sequence[int]) -> str:
    return ("slot " if len(numbers) == 1 else "slots ") + ", ".join(map(str, numbers))
