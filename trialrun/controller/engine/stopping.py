"""Stop requests, and how all processes agree on them without stalling a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from trialrun._errors import InvalidTrialError
from trialrun.controller.engine.collectives import Collectives, PendingMax


class StopRequest:
    """Whether this process was asked to stop: from outside, or by slots of the trial.

    A request from outside, by a signal or a command, stays. Any thread and any signal handler may
    make it: one assignment, no lock.
    """

    def __init__(self) -> None:
        self.from_outside = False
        self._slots: set[int] = set()

    def set(self) -> None:
        """Asks to stop at the next boundary."""
        self.from_outside = True

    def set_slot(self, slot: int, stop_requested: bool) -> None:
        """Notes what one slot wishes, and takes back nobody else's wish."""
        if stop_requested:
            self._slots.add(slot)
        else:
            self._slots.discard(slot)

    def __bool__(self) -> bool:
        return self.from_outside or bool(self._slots)


class Wishes(Protocol):
    """What this process wishes at a boundary: non-negative integers, always equally many."""

    def __call__(self) -> list[int]:
        """Returns all wishes of this moment."""

    def from_outside(self) -> list[int]:
        """Returns those of this moment that do not come from the trial itself."""


class Agreement:
    """What one process wishes, all do: at the same batch, without a collective that blocks.

    The wishes at the beginning of a batch ride on a maximum over all processes that is under way
    while the batch is computed; at its end the result is there. With one process a wish from
    outside is read at the end itself; the trial's own are read at the beginning for every P, so
    that P does not decide at which batch a trial stops itself.

    Args:
        collectives: The processes.
        wishes: This process's wishes.
        num_steps: Called for the optimizer steps taken so far, which must be equal everywhere.
    """

    def __init__(
        self,
        collectives: Collectives,
        wishes: Wishes,
        num_steps: Callable[[], int],
    ) -> None:
        self._collectives = collectives
        self._wishes = wishes
        self._num_steps = num_steps
        self._pending: PendingMax | None = None
        self._begun: list[int] = []

    def begin(self) -> None:
        """Sends this process's wishes; all processes call it equally often."""
        if self._collectives.size == 1:
            self._begun = self._wishes()
        else:
            # The maximum of a number and of its negative tells whether it is the same everywhere.
            steps = self._num_steps()
            self._pending = self._collectives.start_max([*self._wishes(), steps, -steps])

    def settle(self) -> list[int]:
        """Returns what was agreed since ``begin``: the element-wise maximum of all wishes.

        Raises:
            InvalidTrialError: The processes have taken different numbers of optimizer steps.
        """
        if self._pending is None:
            wishes = self._wishes.from_outside()
            return wishes if wishes == self._begun else list(map(max, self._begun, wishes))
        pending, self._pending = self._pending, None
        *agreed, most, least_negated = pending.result()
        if most != -least_negated:
            raise InvalidTrialError(
                f"One process has taken {-least_negated} optimizer steps and another {most}. Every "
                "slot must call step_optimizer equally often and in the same order; do not make it "
                "depend on a slot's own records."
            )
        return agreed
