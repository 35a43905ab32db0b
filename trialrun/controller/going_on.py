"""How an experiment ended, and how a person goes on with it: by a command, or by its script."""

from __future__ import annotations

from trialrun._wording import count
from trialrun.controller.bookkeeping import ExperimentRow, TrialRow


def is_of_script(experiment: ExperimentRow) -> bool:
    """Returns whether ``trialrun.Trainer`` made it, in a process of the user's own.

    Its class is then on record as ``module:Class``, such as ``__main__:Digits``; that of a
    submitted file by its name alone.
    """
    return ":" in experiment.trial_class


def how_to_go_on(experiment: ExperimentRow) -> str:
    """Returns what to type to go on: a command, or what to do with the script."""
    if not is_of_script(experiment):
        return f"trialrun resume {experiment.id}"
    return f'run {_script(experiment)} again, with trainer.fit(..., latest_checkpoint="latest")'


def how_to_train_longer(experiment: ExperimentRow) -> str:
    """Returns what to do where an experiment is complete, and shall be trained on."""
    if not is_of_script(experiment):
        return "submit a new one"
    return (
        f"run {_script(experiment)} again, with trainer.fit(max_length=..., "
        'latest_checkpoint="latest") and a larger max_length'
    )


def _script(experiment: ExperimentRow) -> str:
    # A class that the script imports says nothing of the script itself.
    is_in_script = experiment.trial_file and experiment.trial_class.startswith("__main__:")
    return experiment.trial_file if is_in_script else "the script or notebook"


def how_it_paused(experiment: ExperimentRow, batches: int) -> str:
    """Returns the lines of a command that say that an experiment is paused, and what to type."""
    after = count(batches, "batch")
    return f"Paused experiment {experiment.id} after {after}. Go on with:\n" + how_to_go_on(
        experiment
    )


def how_it_completed(trial: TrialRow, batches: int) -> str:
    """Returns the line that says that a trial is complete: at its length, or by its own wish."""
    total, start = trial.total_batches, f"Completed experiment {trial.experiment_id} after"
    if total is None or batches >= total:
        return f"{start} {count(batches, 'batch')}."
    return f"{start} {batches} of {total} batches: the trial itself asked to end."
