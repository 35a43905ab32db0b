"""Records finished checkpoints and deletes the files of those that no rule keeps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from trialrun._errors import BookkeepingError
from trialrun.controller.bookkeeping import (
    CheckpointRow,
    CheckpointState,
    Database,
    Recorder,
    checkpoints_of_trial,
)
from trialrun.controller.checkpoints.best import best_first
from trialrun.controller.checkpoints.folders import delete_files
from trialrun.controller.checkpoints.store import StoredCheckpoint
from trialrun.controller.config import ExperimentConfig

logger = logging.getLogger(__name__)

_RECORD_SECONDS = 5.0  # for a record to be on the disk, where the database is not locked


class CheckpointKeeper:
    """Keeps the newest and the best checkpoints of a trial.

    Args:
        database: Where checkpoints are recorded.
        trial_id: Whose checkpoints.
        recorder: Writes the records.
        config: Says how many stay, and which metric is searched.
    """

    def __init__(
        self, database: Database, trial_id: int, recorder: Recorder, config: ExperimentConfig
    ) -> None:
        self._database = database
        self._trial_id = trial_id
        self._recorder = recorder
        self._config = config

    def stored(self, checkpoint: StoredCheckpoint) -> None:
        """Records a whole checkpoint, and only then deletes what it makes superfluous."""
        self._recorder.checkpoint(
            uuid=checkpoint.uuid,
            batches=checkpoint.batches,
            digest=checkpoint.digest,
            size_bytes=checkpoint.size_bytes,
            path=checkpoint.path,
            files=checkpoint.files,
            metrics=checkpoint.metrics,
        )
        try:
            # Nobody waits again for a database that cannot be written anyway.
            self._recorder.flush(0.0 if self._recorder.is_held_up else _RECORD_SECONDS)
            self._delete_superfluous()
        except BookkeepingError as error:
            # The record comes when it can be written. Until then a resume would take an older
            # checkpoint, and none of those is deleted.
            logger.warning(
                "The checkpoint of batch %d is whole, and will be on record later: %s",
                checkpoint.batches,
                error,
            )

    def _delete_superfluous(self) -> None:
        rows = checkpoints_of_trial(self._database, self._trial_id, state=CheckpointState.COMPLETED)
        kept = {row.uuid for row in self.to_keep(rows)}
        for row in rows:
            if row.uuid not in kept:
                # The record first: a recorded checkpoint must not lose its files.
                self._recorder.checkpoint_state(row.uuid, CheckpointState.DELETED)
                self._recorder.flush(_RECORD_SECONDS)
                try:
                    delete_files(Path(row.path))
                except OSError as error:
                    logger.warning("Checkpoint %s could not be deleted: %s", row.path, error)

    def to_keep(self, newest_first: Sequence[CheckpointRow]) -> list[CheckpointRow]:
        """Returns the checkpoints that a rule keeps.

        Args:
            newest_first: The trial's whole checkpoints.
        """
        rules, searcher = self._config.checkpoint_gc, self._config.searcher
        best = best_first(newest_first, searcher.metric, searcher.smaller_is_better)
        return [*newest_first[: rules.save_trial_latest], *best[: rules.save_trial_best]]
