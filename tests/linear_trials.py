"""Runs of small variations on ``trials/linear.py``, written in the tests that need them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import Run, make_spec, run_session, write_trial

from trialrun import InvalidTrialError
from trialrun.controller.engine.session import TrialSpec
from trialrun.controller.trial_file import load_trial_class

HEAD = """
import torch
from torch import nn
from trials.linear import Linear
from trialrun import StepMode

"""


def linear_spec(folder: Path, source: str, **config: Any) -> TrialSpec:
    """Returns the specification of a trial that reports every batch, unless told else."""
    # A file that was imported before is not imported again, by its name.
    path = write_trial(folder, HEAD + source, name=f"trial_{folder.name}.py")
    return make_spec(path, **{"reporting_period": "1ba", **config})


def run_linear(folder: Path, source: str, **config: Any) -> tuple[Run, Any]:
    """Returns the run of a trial and its class, whose ``seen`` it may have filled."""
    spec = linear_spec(folder, source, **config)
    return run_session(spec, folder / "checkpoints"), load_trial_class(spec.trial_file, None)


def refusal(folder: Path, source: str, **config: Any) -> str:
    """Returns why a trial was refused."""
    with pytest.raises(InvalidTrialError) as caught:
        run_linear(folder, source, **config)
    return str(caught.value)
