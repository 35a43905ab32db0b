"""Whether a trial that has failed is started again: a rule over its failures, and nothing else."""

from __future__ import annotations

import dataclasses

from trialrun._wording import count
from trialrun.controller.launch.failures import Failure, FailureKind

_FIRST_DELAY_SECONDS = 1.0
_LONGEST_DELAY_SECONDS = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restart:
    """The trial goes on from its newest whole checkpoint.

    Args:
        number: Which restart of this run, from 1.
        most: How many there may be.
        delay_seconds: How long to wait first.
    """

    number: int
    most: int
    delay_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusal:
    """The trial stays as it is.

    Args:
        remark: Why, as a sentence; empty where the failure itself says so.
    """

    remark: str = ""


class RestartPolicy:
    """Decides after each failure of one run, from a ``submit`` or ``resume`` on.

    A fault (a process that was killed or lost, a hang) is always worth a restart. An exception of
    the trial's own code may come from outside, such as a file server that was away, so it is worth
    one; but a run is exact, so what is raised at the same batch again is raised there for ever. A
    broken rule, and what is raised before the trial's first batch is complete, is for the author.

    Args:
        max_restarts: How many there may be.
    """

    def __init__(self, max_restarts: int) -> None:
        self._max_restarts = max_restarts
        self._num_restarts = 0
        self._num_idle_attempts = 0
        self._last: Failure | None = None

    def decide(self, failure: Failure, *, made_progress: bool) -> Restart | Refusal:
        """Decides what follows a failure.

        Args:
            failure: What has ended the attempt.
            made_progress: Whether the attempt completed a batch.
        """
        last, self._last = self._last, failure
        if failure.kind is FailureKind.RULE:
            return Refusal()
        if failure.kind is FailureKind.USER_CODE:
            if not failure.batches:
                return Refusal()
            if last is not None and _is_same(last, failure):
                return Refusal(
                    remark="It came again at the same batch, and would come every time: a run is "
                    "exact. The trial is not restarted."
                )
        if self._num_restarts >= self._max_restarts:
            if self._max_restarts == 0:
                return Refusal()
            return Refusal(
                remark=f"The trial was restarted {count(self._max_restarts, 'time')} "
                "(max_restarts), and is not again."
            )
        self._num_restarts += 1
        self._num_idle_attempts = 0 if made_progress else self._num_idle_attempts + 1
        return Restart(
            number=self._num_restarts,
            most=self._max_restarts,
            delay_seconds=_delay_seconds(self._num_idle_attempts),
        )


def _is_same(last: Failure, failure: Failure) -> bool:
    return (last.kind, last.error, last.batches) == (failure.kind, failure.error, failure.batches)


def _delay_seconds(num_idle_attempts: int) -> float:
    """Returns 0 after an attempt that completed a batch, then 1, 2, 4, ... up to 30 seconds."""
    if num_idle_attempts == 0:
        return 0.0
    return min(_FIRST_DELAY_SECONDS * 2.0 ** (num_idle_attempts - 1), _LONGEST_DELAY_SECONDS)
