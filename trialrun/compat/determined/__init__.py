"""What ``import determined as det`` gave a trial file: change that import, and the file runs.

``docs/from-determined.md`` says what is the same, what is better, and what has no meaning here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from trialrun._errors import InvalidTrialError
from trialrun._wording import type_of
from trialrun.compat.determined import errors

if TYPE_CHECKING:
    from trialrun.compat.determined import pytorch

__all__ = ["InvalidHP", "LOG_FORMAT", "errors", "get_cluster_info", "pytorch"]

LOG_FORMAT = "%(levelname)s: %(name)s: %(message)s"
"""For ``logging.basicConfig(format=...)``."""


class InvalidHP(InvalidTrialError):
    """Raised by a trial whose hyperparameters do not go together: the run ends with the message.

    Args:
        msg: What is wrong with them.

    Raises:
        TypeError: The message is no string.
    """

    def __init__(self, msg: str = "The trial was given hyperparameters that it refuses.") -> None:
        if not isinstance(msg, str):
            raise TypeError(f"InvalidHP got {type_of(msg)}; its message is a string.")
        super().__init__(msg)


def get_cluster_info() -> None:
    """Returns None, as for a script that runs outside of a cluster: there is no master to ask."""


def __getattr__(name: str) -> object:
    if name == "pytorch":  # with torch, which not every script needs
        return importlib.import_module("trialrun.compat.determined.pytorch")
    raise AttributeError(f"module 'trialrun.compat.determined' has no attribute {name!r}")
