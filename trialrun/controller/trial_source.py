"""Where the file of an experiment's trial is."""

from __future__ import annotations

from pathlib import Path

from trialrun._errors import InvalidTrialError
from trialrun.controller.bookkeeping import ExperimentRow
from trialrun.controller.going_on import is_of_script


def trial_file_of(experiment: ExperimentRow) -> Path:
    """Returns the user's file where it was submitted, since it may import its neighbours.

    Raises:
        InvalidTrialError: It is gone, and so is the copy that was kept of it; or a script trained
            the trial, which a command cannot import without running it.
    """
    if is_of_script(experiment):
        raise InvalidTrialError(
            f"Experiment {experiment.id} was trained by a script of yours, which alone can make "
            f"its {experiment.trial_class.rpartition(':')[2]}. Load it there with "
            "trialrun.load_trial(UUID, trial_class=...)."
        )
    path = Path(experiment.trial_file)
    return find_trial_file(path, Path(experiment.directory) / path.name)


def working_directory_of(experiment: ExperimentRow) -> Path | None:
    """Returns where the trial's file finds modules besides its own folder, if that is on record."""
    recorded = experiment.working_directory
    return None if recorded is None else Path(recorded)


def find_trial_file(path: Path, copy: Path) -> Path:
    """Returns the file where it was submitted, or the copy of it.

    Raises:
        InvalidTrialError: Both are gone.
    """
    for candidate in (path, copy):
        if candidate.is_file():
            return candidate
    raise InvalidTrialError(f"{path} is gone, and so is its copy {copy}. Restore one of them.")
