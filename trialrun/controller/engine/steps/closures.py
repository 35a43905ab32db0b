"""An optimizer stands still at each evaluation of its closure while all slots make theirs.

``optimizer.step(closure)`` decides by itself how often it calls the closure, and each time it needs
the gradients of all slots. So it runs in a thread of its own, and takes turns with the slots:

    slots      meet, let the optimizer begin     evaluate, meet, sum      evaluate, meet, sum
    optimizer  runs to its first evaluation      runs to its next         runs to its end

Never do two of these threads run at once.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import torch

from trialrun._engine import Closure
from trialrun._errors import InvalidTrialError
from trialrun._wording import type_of
from trialrun.controller.engine.parallel.slots import in_present_context


def requires_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether ``step`` cannot be called without a closure, as that of LBFGS."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def checked_loss(returned: Any) -> torch.Tensor:
    """Returns what a closure returned, as a tensor without a graph.

    Raises:
        InvalidTrialError: It is no number.
    """
    if isinstance(returned, torch.Tensor) and returned.numel() == 1:
        return returned.detach().reshape(())
    if isinstance(returned, int | float):
        return torch.tensor(float(returned), dtype=torch.float64)
    raise InvalidTrialError(
        f"The closure of step_optimizer returned {type_of(returned)}. It must return the "
        "loss, one number: compute it, call context.backward(loss), return it."
    )


class _Abandoned(BaseException):
    """Unwinds the optimizer when a slot has failed."""


class PausedStep:
    """One step of an optimizer, paused at each evaluation of its closure.

    Args:
        take_step: Takes the step with the closure that it is given, and returns the step's result.
        prepare_thread: Called first in the optimizer's thread.
    """

    finished: bool
    """Whether the optimizer has taken its step; otherwise it waits for an evaluation."""
    result: Any
    """What the step returned."""

    def __init__(
        self, take_step: Callable[[Closure], Any], prepare_thread: Callable[[], None]
    ) -> None:
        self.finished = False
        self.result = None
        self._take_step = take_step
        self._prepare_thread = prepare_thread
        self._loss: torch.Tensor | None = None
        self._error: BaseException | None = None
        self._is_abandoned = False
        self._optimizers_turn = threading.Semaphore(0)
        self._slots_turn = threading.Semaphore(0)
        run = in_present_context(self._run)
        self._thread = threading.Thread(target=run, name="optimizer", daemon=True)
        self._thread.start()

    def advance(self, loss: torch.Tensor | None = None) -> None:
        """Lets the optimizer go on to its next evaluation, or to its end.

        Args:
            loss: What the evaluation found that it waits for; None to begin.

        Raises:
            BaseException: Whatever the optimizer raised.
        """
        self._loss = loss
        self._optimizers_turn.release()
        self._slots_turn.acquire()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Unwinds the optimizer where it stands, if it still does."""
        if not self.finished:
            self._is_abandoned = True
            self._optimizers_turn.release()
            self._thread.join()

    def _run(self) -> None:
        try:
            self._prepare_thread()
            self._wait_for_turn()
            self.result = self._take_step(self._evaluate)
        except _Abandoned:
            pass  # The slot's own error is on its way.
        except BaseException as error:
            self._error = error
        finally:
            self.finished = True
            self._slots_turn.release()

    def _evaluate(self) -> torch.Tensor | None:
        self._slots_turn.release()
        self._wait_for_turn()
        return self._loss

    def _wait_for_turn(self) -> None:
        self._optimizers_turn.acquire()
        if self._is_abandoned:
            raise _Abandoned
