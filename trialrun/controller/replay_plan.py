"""What a replay will train again, and with what it will be compared; needs no torch."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

from trialrun._errors import CheckpointError, ConfigurationError, InvalidTrialError
from trialrun.controller.bookkeeping import (
    CheckpointRow,
    Database,
    ExperimentRow,
    TrialRow,
    checkpoints_of_trial,
)
from trialrun.controller.checkpoint_names import named_record
from trialrun.controller.config import ExperimentConfig, not_divisible, read_config
from trialrun.controller.experiments import hash_source
from trialrun.controller.going_on import is_of_script
from trialrun.controller.inference.selection import BEST, LATEST, require_whole
from trialrun.controller.liveness import trial_of_experiment

START = "start"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayPlan:
    """A stretch of a recorded trial.

    Args:
        experiment: The experiment.
        trial: Its trial.
        config: Its configuration, with the trial's hyperparameters.
        source: A file with the text that was submitted: the user's own, or the copy that was kept.
        first: The checkpoint at which it begins, whole; None: at batch 0.
        last: The checkpoint at which it ends.
        recorded: The checkpoints to compare with, the oldest first, ``last`` among them; their
            files may be gone, their digests are not.
    """

    experiment: ExperimentRow
    trial: TrialRow
    config: ExperimentConfig
    source: Path
    first: CheckpointRow | None
    last: CheckpointRow
    recorded: list[CheckpointRow]

    @property
    def first_batch(self) -> int:
        """The batches completed where it begins."""
        return 0 if self.first is None else self.first.batches

    def staged(self, folder: Path) -> Path:
        """Returns the trial's file, from which its neighbours can be imported.

        Where the user's file is no longer what was submitted, that is a copy of the submitted text
        in a folder with links to all that lies beside the user's file.

        Args:
            folder: A new folder is made in it if need be.
        """
        original = Path(self.experiment.trial_file)
        if self.source == original:
            return original
        code = folder / "code"
        code.mkdir()
        for neighbour in original.parent.iterdir() if original.parent.is_dir() else ():
            if neighbour.name not in (original.name, "__pycache__"):
                os.symlink(neighbour, code / neighbour.name)
        shutil.copyfile(self.source, code / original.name)
        return code / original.name


def plan_replay(
    database: Database, experiment_id: int, first: str, last: str, num_processes: int | None
) -> ReplayPlan:
    """Finds what to train again.

    Args:
        database: Where the experiment is recorded.
        experiment_id: Which experiment.
        first: Where to begin: ``start``, or a checkpoint.
        last: The checkpoint at which to end.
        num_processes: P, where one is asked for.

    Raises:
        BookkeepingError: There is no such experiment or checkpoint.
        CheckpointError: A checkpoint is another experiment's, the first lies not before the last,
            or the files of the first are gone.
        ConfigurationError: P does not divide the slots.
        InvalidTrialError: The text that was submitted is gone, or a script trained the trial.
    """
    experiment, trial = trial_of_experiment(database, experiment_id)
    config = read_config(experiment.config).model_copy(
        update={"hyperparameters": trial.hyperparameters}
    )
    if num_processes is not None and (num_processes < 1 or config.slots % num_processes):
        raise ConfigurationError(not_divisible(config.slots, num_processes))
    start = None if first == START else _own_checkpoint(database, experiment, trial, first)
    stop = _own_checkpoint(database, experiment, trial, last)
    begins_at = 0 if start is None else start.batches
    if begins_at >= stop.batches:
        raise CheckpointError(
            f"The stretch would begin at batch {begins_at} (--from {first}) and end at batch "
            f"{stop.batches} (--to {last}): nothing lies between them. Give a checkpoint of a "
            f"later batch as --to; trialrun checkpoint list {experiment.id} shows them."
        )
    if start is not None:
        try:
            require_whole(start)
        except CheckpointError as error:
            raise CheckpointError(f"{error} Or begin at batch 0: --from {START}.") from error
    rows = checkpoints_of_trial(database, trial.id)
    return ReplayPlan(
        experiment=experiment,
        trial=trial,
        config=config,
        source=_submitted_source(experiment),
        first=start,
        last=stop,
        recorded=[row for row in reversed(rows) if begins_at < row.batches <= stop.batches],
    )


def _own_checkpoint(
    database: Database, experiment: ExperimentRow, trial: TrialRow, name: str
) -> CheckpointRow:
    is_relative = name in (BEST, LATEST)
    row = named_record(database, f"{experiment.id}:{name}" if is_relative else name)
    if row.trial_id != trial.id:
        raise CheckpointError(
            f"Checkpoint {row.uuid} belongs to trial {row.trial_id}, not to experiment "
            f"{experiment.id}. trialrun checkpoint list {experiment.id} shows its own."
        )
    return row


def _submitted_source(experiment: ExperimentRow) -> Path:
    """Returns a file with the very text that was submitted."""
    if is_of_script(experiment):
        raise InvalidTrialError(
            f"Experiment {experiment.id} was trained by a script of yours, which alone can make "
            "its trial. Train it again there, and compare the checkpoints with trialrun diff."
        )
    path = Path(experiment.trial_file)
    for candidate in (path, Path(experiment.directory) / path.name):
        if candidate.is_file() and hash_source(candidate) == experiment.trial_source_hash:
            return candidate
    raise InvalidTrialError(
        f"Neither {path} nor the copy of it in {experiment.directory} is what was submitted as "
        f"experiment {experiment.id}: the hash of its text was "
        f"{experiment.trial_source_hash[:12]}…. Restore one of them."
    )
