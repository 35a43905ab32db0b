"""Imports what an example defines beside its trial."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import trialrun
from trialrun.controller.trial_file import load_trial_class

EXAMPLES = Path(trialrun.__file__).parents[1] / "examples"


def import_example(name: str) -> ModuleType:
    """Returns the module of an example's trial file."""
    trial_class = load_trial_class(EXAMPLES / name / "trial.py", None)
    return sys.modules[trial_class.__module__]
