"""What one process does for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trialrun import _errors
from trialrun._errors import TrialrunError
from trialrun.controller.engine.parallel.collectives import Collectives


def on_chief(collectives: Collectives, call: Callable[[], Any], name: str) -> Any:
    """Returns on every process what the call returned on the chief.

    Args:
        collectives: The processes, which all call this.
        call: What the chief does; it returns plain data.
        name: What that is called in an error.

    Raises:
        TrialrunError: The call raised it, on the chief; all processes raise it.
        Exception: The call raised it. Other processes than the chief raise a ``TrialrunError``.
    """
    answer: dict[str, Any] = {}
    failure: Exception | None = None
    if collectives.is_chief:
        try:
            answer = {"value": call()}
        except Exception as error:
            failure = error
            answer = {"error": type(error).__name__, "message": str(error)}
    answer = collectives.broadcast(answer, name)
    if failure is not None:
        raise failure
    if "error" in answer:
        raise _error(answer["error"], answer["message"])
    return answer["value"]


def _error(name: str, message: str) -> TrialrunError:
    kind = getattr(_errors, name, None)
    if isinstance(kind, type) and issubclass(kind, TrialrunError):
        return kind(message)
    return TrialrunError(f"Process 0 failed: {name}: {message}")
