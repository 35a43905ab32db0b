"""Lets a trial prepare its data once on each machine, before any process makes the trial."""

from __future__ import annotations

import hashlib
import inspect
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from trialrun._trial import Trial
from trialrun.controller.engine.parallel.collectives import Collectives


def prepare_data(
    trial_class: type[Trial], hparams: Mapping[str, Any], collectives: Collectives
) -> None:
    """Calls the trial's ``prepare_data`` where it has one; every process returns after that.

    Args:
        trial_class: The user's class.
        hparams: The trial's hyperparameters.
        collectives: The processes, all on one machine.

    Raises:
        Exception: Whatever the user's method raises.
    """
    if trial_class.prepare_data.__func__ is Trial.prepare_data.__func__:  # type: ignore[attr-defined]  # a class method
        return
    if collectives.is_chief:
        with FileLock(_lock_file(trial_class)):
            trial_class.prepare_data(dict(hparams))
    collectives.broadcast(None, "end of prepare_data")


def _lock_file(trial_class: type[Trial]) -> Path:
    """Returns a file that all runs of one user and trial file on this machine have in common."""
    module = inspect.getmodule(trial_class)
    source = getattr(module, "__file__", None) or trial_class.__module__
    name = hashlib.blake2b(os.fsencode(source), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"trialrun-{os.getuid()}-prepare-{name}.lock"
