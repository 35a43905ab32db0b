"""What a script's lines do, in this process: init, a trial, a Trainer, a fit."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trialrun
from trialrun.controller.bookkeeping import (
    AttemptRow,
    CheckpointRow,
    Database,
    attempts_of_trial,
    checkpoints_of_trial,
    training_metrics_of_trial,
    validation_metrics_of_trial,
)
from trialrun.controller.trainer.fitting import TrainingResult
from trialrun.controller.trainer.initialization import open_surroundings

SETTINGS: dict[str, Any] = {"slots": 2, "seed": 7}
FIT: dict[str, Any] = {
    "max_length": "10ba",
    "reporting_period": "3ba",
    "validation_period": "4ba",
    "checkpoint_period": "2ba",
    "checkpoint_policy": "none",
}
KEEP_ALL = {"checkpoint_gc": {"save_trial_latest": 100}}


def load(name: str) -> Any:
    """Returns a trial class of ``tests/trials``."""
    module = importlib.import_module(f"trials.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, trialrun.Trial)
        and value.__module__ == module.__name__
    )


@dataclass
class Scripts:
    """A home, and scripts that train there."""

    home: Path

    def init(self, **arguments: Any) -> Any:
        arguments = {"exp_conf": KEEP_ALL, "home": self.home, **SETTINGS, **arguments}
        return trialrun.init(**arguments)

    def train(
        self, trial_class: Any, settings: dict[str, Any] | None = None, **fit: Any
    ) -> TrainingResult:
        """Runs a whole script."""
        with self.init(**(settings or {})) as context:
            return trialrun.Trainer(trial_class(context), context).fit(**{**FIT, **fit})

    @property
    def database(self) -> Database:
        return Database.open(f"sqlite:///{self.home / 'trialrun.db'}", create=False)

    def attempts(self, trial: int = 1) -> list[AttemptRow]:
        return attempts_of_trial(self.database, trial)

    def checkpoints(self, trial: int = 1) -> list[CheckpointRow]:
        return checkpoints_of_trial(self.database, trial)

    def digests(self, trial: int = 1) -> dict[int, str]:
        """The digest at each batch that has a checkpoint."""
        return {row.batches: row.digest for row in reversed(self.checkpoints(trial))}

    def metrics(self, trial: int = 1) -> list[tuple[int, int, str]]:
        """All metrics, as text in which NaN equals NaN."""
        training = training_metrics_of_trial(self.database, trial)
        validation = validation_metrics_of_trial(self.database, trial)
        return [(row.batches, row.epoch, repr(row.metrics)) for row in (*training, *validation)]


def pause_now() -> None:
    """Asks this process to pause, as a command from elsewhere does."""
    surroundings = open_surroundings()
    assert surroundings is not None  # a script is in its block
    surroundings.runtime.stop_request.set()


def pausing_at(trial_class: Any, batches: int) -> Any:
    """Returns the class, paused after so many batches of the attempt that reaches them."""

    class Pausing(trial_class):  # type: ignore[misc]  # whatever class it is
        def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> Any:
            if batch_idx == batches - 1:
                pause_now()
            return super().train_batch(batch, epoch_idx, batch_idx)

    # To the records it is the class itself.
    Pausing.__module__, Pausing.__qualname__ = trial_class.__module__, trial_class.__qualname__
    return Pausing
