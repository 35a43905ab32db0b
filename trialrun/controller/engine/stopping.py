"""Stop requests, and how all processes agree on them without stalling a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from trialrun._errors import InvalidTrialError
from trialrun.controller.engine.collectives import Collectives, PendingMax


class StopRequest:
    """Whether this process was asked to stop: by a signal, a command, or the trial itself.

    Any thread and any signal handler may set it.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Asks to stop at the next boundary."""
        self._event.set()

    def clear(self) -> None:
        """Takes the request back, if the boundary has not been reached."""
        self._event.clear()

    def __bool__(self) -> bool:
        return self._event.is_set()


class Agreement:
    """What one process wishes, all do: at the same batch, without a collective that blocks.

    The wishes at the beginning of a batch ride on a maximum over all processes that is under way
    while the batch is computed; at its end the result is there. With one process the wishes are
    read at the end itself.

    Args:
        collectives: The processes.
        wishes: Called for this process's wishes: non-negative integers, always equally many.
        num_steps: Called for the optimizer steps taken so far, which must be equal everywhere.
    """

    def __init__(
        self,
        collectives: Collectives,
        wishes: Callable[[], Sequence[int]],
        num_steps: Callable[[], int],
    ) -> None:
        self._collectives = collectives
        self._wishes = wishes
        self._num_steps = num_steps
        self._pending: PendingMax | None = None

    def begin(self) -> None:
        """Sends this process's wishes; all processes call it equally often."""
        if self._collectives.size > 1:
            # The maximum of a number and of its negative tells whether it is the same everywhere.
            steps = self._num_steps()
            self._pending = self._collectives.start_max([*self._wishes(), steps, -steps])

    def settle(self) -> list[int]:
        """Returns what was agreed since ``begin``: the element-wise maximum of all wishes.

        Raises:
            InvalidTrialError: The processes have taken different numbers of optimizer steps.
        """
        if self._pending is None:
            return list(self._wishes())
        pending, self._pending = self._pending, None
        *agreed, most, least_negated = pending.result()
        if most != -least_negated:
            raise InvalidTrialError(
                f"One process has taken {-least_negated} optimizer steps and another {most}. Every "
                "slot must call step_optimizer equally often and in the same order; do not make it "
                "depend on a slot's own records."
            )
        return agreed
