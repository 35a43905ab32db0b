"""The text of an experiment's trial: where it is, and whether it is what was submitted."""

from __future__ import annotations

import hashlib
from pathlib import Path

from trialrun._errors import InvalidTrialError
from trialrun.controller.bookkeeping import ExperimentRow


def trial_file_of(experiment: ExperimentRow) -> Path:
    """Returns the user's file where it was submitted, since it may import its neighbours.

    Raises:
        InvalidTrialError: It is gone, and so is the copy that was kept of it.
    """
    path = Path(experiment.trial_file)
    return find_trial_file(path, Path(experiment.directory) / path.name)


def find_trial_file(path: Path, copy: Path) -> Path:
    """Returns the file where it was submitted, or the copy of it.

    Raises:
        InvalidTrialError: Both are gone.
    """
    for candidate in (path, copy):
        if candidate.is_file():
            return candidate
    raise InvalidTrialError(f"{path} is gone, and so is its copy {copy}. Restore one of them.")


def source_warnings(experiment: ExperimentRow) -> list[str]:
    """Returns a sentence where the trial's file has changed since it was submitted."""
    path = Path(experiment.trial_file)
    if path.is_file() and hash_source(path) != experiment.trial_source_hash:
        return [
            f"{path} has changed since experiment {experiment.id} was submitted: results may "
            f"differ from an uninterrupted run. The submitted text is in {experiment.directory}."
        ]
    return []


def hash_source(path: Path) -> str:
    """Returns a hash of a file's text."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
