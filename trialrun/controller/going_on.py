"""How a person goes on with an experiment: by a command, or by the script that trained it."""

from __future__ import annotations

from trialrun.controller.bookkeeping import ExperimentRow


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
