"""How a trial was constructed, told to the context that it was constructed with.

So the random numbers of a constructor do not depend on who calls it, or on what was drawn before;
and another trial can be made in the same way.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trialrun._context import TrialContext
    from trialrun._trial import Trial


@dataclasses.dataclass(frozen=True, kw_only=True)
class Construction:
    """One call of a trial's class.

    Args:
        trial: The object that the call makes.
        context: The context among its arguments.
        arguments: All arguments by position.
        keywords: All arguments by name.
    """

    trial: Trial
    context: TrialContext
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def repeat(self, context: TrialContext) -> Trial:
        """Returns a new trial, made with the same arguments but another context.

        A module among the arguments is copied: training the new trial must not change it.
        """
        # One memory for all: an optimizer among them stays that of the module.
        copied: dict[int, Any] = {id(self.context): context}

        def for_another(value: Any) -> Any:
            has_state = value is self.context or hasattr(value, "load_state_dict")
            return copy.deepcopy(value, copied) if has_state else value

        return type(self.trial)(
            *map(for_another, self.arguments),
            **{name: for_another(value) for name, value in self.keywords.items()},
        )


class TrialOwner(abc.ABC):
    """What trials are constructed with: the context."""

    @abc.abstractmethod
    def trial_begins(self, construction: Construction) -> None:
        """Called before the trial's ``__init__``."""
