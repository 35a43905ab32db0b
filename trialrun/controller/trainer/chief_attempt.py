"""What the chief does besides training: it claims the attempt, records it, and says what it found.

All of it is plain data, since the other processes hear it too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from trialrun._wording import count
from trialrun.controller.bookkeeping import (
    CheckpointRow,
    CheckpointState,
    Database,
    RunState,
    checkpoints_of_trial,
    finish_attempt,
    get_trial,
)
from trialrun.controller.config import ExperimentConfig
from trialrun.controller.engine.loop import Outcome
from trialrun.controller.engine.stopping import StopRequest
from trialrun.controller.going_on import how_it_completed, how_to_go_on
from trialrun.controller.launch.recording import AttemptRecords, recorded
from trialrun.controller.trainer.attempts import ScriptAttempt, ScriptTrial, recorded_failure
from trialrun.controller.trainer.starting import CheckpointName, Start
from trialrun.controller.warm_start import weights_folder


class ChiefAttempt:
    """One attempt, in the order claim, record, conclude.

    Args:
        records: The records of the Trainer's trial.
        stack: What must end with the attempt, whatever ends it.
    """

    def __init__(self, records: ScriptTrial, stack: contextlib.ExitStack) -> None:
        self._records = records
        self._stack = stack
        self._recording = contextlib.ExitStack()
        self._claimed: ScriptAttempt | None = None
        self._database: Database | None = None

    def claim(
        self,
        config: ExperimentConfig,
        latest_checkpoint: CheckpointName,
        *,
        num_processes: int,
        check: Callable[[Start], None],
        batches: Callable[[], int | None],
    ) -> dict[str, Any]:
        """Claims an attempt; returns what all processes must know of it."""
        database = self._database = self._records.database
        claimed = self._claimed = self._stack.enter_context(
            self._records.claimed(
                database, config, latest_checkpoint, num_processes=num_processes, check=check
            )
        )
        self._stack.enter_context(recorded_failure(database, claimed, batches))
        self._stack.enter_context(self._recording)
        start = claimed.start
        return {
            "config": claimed.config.to_json(),
            "checkpoint": None if start is None else str(start.path),
            "metadata": claimed.metadata(),
            "tensorboard": str(claimed.folder.tensorboard),
            "weights": str(weights_folder(claimed.experiment))
            if start is None and claimed.config.from_checkpoint
            else None,
            "remarks": claimed.remarks,
            "lines": [
                f"Experiment {claimed.experiment.id} ({claimed.experiment.name}): seed "
                f"{claimed.trial.seed}, {count(claimed.config.slots, 'slot')} on "
                f"{count(num_processes, 'process')}",
                f"Records: {database.name}",
                "Start: at batch 0"
                if start is None
                else f"Goes on: at batch {start.batches}, checkpoint {start.uuid}",
            ],
        }

    def record(self, stop_request: StopRequest) -> AttemptRecords:
        """Opens what the session writes to."""
        assert self._claimed is not None and self._database is not None  # by ``claim``
        return self._recording.enter_context(
            recorded(self._claimed.recording(self._database), self._claimed.config, stop_request)
        )

    def conclude(self, outcome: Outcome) -> dict[str, Any]:
        """Waits until everything is on the disk, and records the end."""
        claimed, database = self._claimed, self._database
        assert claimed is not None and database is not None  # by ``claim``
        self._recording.close()
        is_completed = outcome is Outcome.COMPLETED
        state = RunState.COMPLETED if is_completed else RunState.PAUSED
        finish_attempt(database, claimed.attempt.id, state)
        newest = self._newest_checkpoint()
        return {
            "experiment": claimed.experiment.id,
            "batches": 0 if newest is None else newest.batches,
            "checkpoint": None if newest is None else newest.path,
            "text": self.closing_line(),
        }

    def closing_line(self) -> str | None:
        """Returns how the attempt ended, in words; None where it failed or was never claimed."""
        claimed, database = self._claimed, self._database
        if claimed is None or database is None:
            return None
        trial, number = get_trial(database, claimed.trial.id), claimed.experiment.id
        newest = self._newest_checkpoint()
        batches = 0 if newest is None else newest.batches
        after = count(batches, "batch")
        to_go_on = f"To go on, {how_to_go_on(claimed.experiment)}."
        lines = {
            RunState.COMPLETED: how_it_completed(trial, batches),
            RunState.PAUSED: f"Paused experiment {number} after {after}. {to_go_on}",
            RunState.KILLED: f"Stopped experiment {number} at once. {to_go_on}",
        }
        return lines.get(trial.state)

    def _newest_checkpoint(self) -> CheckpointRow | None:
        claimed, database = self._claimed, self._database
        assert claimed is not None and database is not None  # by ``claim``
        rows = checkpoints_of_trial(database, claimed.trial.id, state=CheckpointState.COMPLETED)
        return rows[0] if rows else None
