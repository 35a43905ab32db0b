"""A folder with the trial, its configuration, and a home of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from trialrun._errors import BookkeepingError
from trialrun.controller.bookkeeping import (
    AttemptRow,
    CheckpointState,
    Database,
    attempts_of_trial,
    checkpoints_of_trial,
    get_trial,
    list_experiments,
    training_metrics_of_trial,
    validation_metrics_of_trial,
)
from trialrun.controller.checkpoints.manifest import verify

from .commands import Command, Shell

# 37 records in global batches of 8: 5 batches an epoch, 60 in all. Windows of two: stops are there.
CONFIG = """
hyperparameters: {pause_seconds: %s}
slots: 4
max_length: 12ep
aggregation_frequency: 2
reporting_period: 3ba
validation_period: 1ep
checkpoint_period: %s
checkpoint_policy: none
checkpoint_gc: {save_trial_latest: 3}
max_restarts: 1000
hang_timeout: 1min
seed: 11
"""
NUM_BATCHES = 60

Outcome = tuple[dict[int, str], list[tuple[str, int, dict[str, float]]]]
"""The digest of each checkpoint by its batch, and all metrics."""


class Place:
    """Where a trial is typed to be trained.

    Args:
        shell: Types the commands.
        folder: Made for it.
        checkpoint_period: How often; all else of the configuration is the same everywhere.
        pause_seconds: How long each slot takes for a batch, at least.
    """

    def __init__(
        self, shell: Shell, folder: Path, checkpoint_period: str, pause_seconds: float = 0.005
    ) -> None:
        folder.mkdir()
        shutil.copy(Path(__file__).with_name("faulty_trial.py"), folder / "trial.py")
        (folder / "trial.yaml").write_text(
            CONFIG % (pause_seconds, checkpoint_period), encoding="utf-8"
        )
        self._shell = shell
        self._folder = folder
        self._home = folder / "home"
        self._database: Database | None = None

    def start(self, num_processes: int) -> Command:
        """Submits the trial, or goes on with it where it is on record."""
        what = ("resume", "1") if self.is_submitted else ("submit", "trial.py")
        arguments = (*what, "--processes", str(num_processes))
        return self._shell.start(*arguments, home=self._home, folder=self._folder)

    @property
    def database_file(self) -> Path:
        return self._home / "trialrun.db"

    def batches_completed(self) -> int:
        return get_trial(self.database, 1).batches_completed if self.is_submitted else 0

    def checkpoint_folders(self) -> set[str]:
        """Those that are whole on the disk."""
        folder = self._home / "experiments/1/trials/1/checkpoints"
        return {path.name for path in folder.iterdir() if not path.name.startswith(".")}

    def attempts(self) -> list[AttemptRow]:
        return attempts_of_trial(self.database, 1)

    def processes(self) -> list[int]:
        """Returns all that write to this place's logs: training processes, loader workers."""
        found = []
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if Path(os.readlink(process / "fd/1")).is_relative_to(self._home):
                    found.append(int(process.name))
        return found

    def describe(self, attempt: AttemptRow) -> str:
        """Returns why an attempt failed, and what its processes wrote."""
        folder = self._home / f"experiments/1/trials/1/attempts/{attempt.number}"
        logs = "".join(f"\n{log.name}:\n{log.read_text()}" for log in folder.glob("process-*.log"))
        return f"{attempt.error}{logs}"

    @property
    def is_submitted(self) -> bool:
        try:
            return bool(list_experiments(self.database))
        except BookkeepingError:  # it is just being made
            return False

    def num_attempts_training(self) -> int:
        """Attempts that have come as far as the first batch."""
        if not self.is_submitted:
            return 0
        return sum(row.training_started_at is not None for row in self.attempts())

    @property
    def database(self) -> Database:
        if self._database is None:
            self._database = Database.open(f"sqlite:///{self.database_file}", create=False)
        return self._database

    def outcome(self) -> Outcome:
        """What a complete run has left; everything in it is whole."""
        database = self.database
        trial = get_trial(database, 1)
        assert trial.state.name == "COMPLETED"
        assert trial.batches_completed == NUM_BATCHES
        assert not [row for row in attempts_of_trial(database, 1) if row.state.is_running]
        checkpoints = checkpoints_of_trial(database, 1)
        whole = [row for row in checkpoints if row.state is CheckpointState.COMPLETED]
        for row in whole:
            verify(Path(row.path), row.files)
        folders = {path.name for path in Path(whole[0].path).parent.iterdir()}
        assert folders == {row.uuid for row in whole}
        training = training_metrics_of_trial(database, 1)
        validation = validation_metrics_of_trial(database, 1)
        metrics = [("training", row.batches, row.metrics) for row in training]
        metrics += [("validation", row.batches, row.metrics) for row in validation]
        digests = {row.batches: row.digest for row in checkpoints}
        # What was trained again, after a fault, gave the same.
        assert {(row.batches, row.digest) for row in checkpoints} == set(digests.items())
        return digests, metrics
