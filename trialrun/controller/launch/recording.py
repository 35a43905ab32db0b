"""How the chief of an attempt records it: metrics and checkpoints, each on a thread of its own."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from trialrun._errors import CheckpointError
from trialrun.controller.bookkeeping import Database, Recorder, get_attempt
from trialrun.controller.checkpoints.retention import CheckpointKeeper
from trialrun.controller.checkpoints.store import CheckpointStore, StoredCheckpoint
from trialrun.controller.config import ExperimentConfig
from trialrun.controller.engine.session import TrialSession
from trialrun.controller.engine.stopping import StopRequest
from trialrun.controller.launch.joining import describe_device
from trialrun.controller.order_arrays import OrderArrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """Where the chief records an attempt."""

    database_url: str
    attempt_id: int
    checkpoints: Path
    order_arrays: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttemptRecords:
    """What the chief's session writes to.

    Args:
        recorder: Takes metrics and the clock.
        store: Takes checkpoints.
        order_arrays: Keeps the arrays by which samplers order the records.
    """

    recorder: Recorder
    store: CheckpointStore
    order_arrays: OrderArrays

    def training_starts(self, session: TrialSession, device: torch.device) -> None:
        """Records how the attempt will run, and that it begins."""
        self.recorder.plan(
            {
                **session.plan.to_json(),
                "data": session.describe_data(self.order_arrays.keep),
                "identity": session.identity.to_json(),
                "environment": session.environment.to_json(),
            },
            total_batches=session.plan.total_batches,
            device=describe_device(device),
        )
        self.recorder.training_started()


@contextlib.contextmanager
def recorded(
    recording: Recording,
    config: ExperimentConfig,
    stop_request: StopRequest,
    on_progress: Callable[[], None] = lambda: None,
) -> Iterator[AttemptRecords]:
    """Records an attempt; when the block ends, however it ends, all of it is on the disk.

    Args:
        recording: Where.
        config: Which checkpoints stay.
        stop_request: Set when somebody asks the attempt to stop.
        on_progress: Called, on another thread, when a checkpoint is on the disk.

    Raises:
        CheckpointError: The last checkpoint could not be written.
        BookkeepingError: The records could not.
    """
    database = Database.open(recording.database_url, create=False)
    attempt = get_attempt(database, recording.attempt_id)
    with Recorder(database, attempt, on_stop=lambda _: stop_request.set()) as recorder:
        keeper = CheckpointKeeper(database, attempt.trial_id, recorder, config)

        def stored(checkpoint: StoredCheckpoint) -> None:
            on_progress()
            keeper.stored(checkpoint)

        store = CheckpointStore(recording.checkpoints, stored)
        try:
            yield AttemptRecords(
                recorder=recorder,
                store=store,
                order_arrays=OrderArrays(recording.order_arrays, writer=str(attempt.trial_id)),
            )
        except BaseException:
            # The newest checkpoint is finished also when the trial has failed.
            store.close()
            raise
        failure = store.close()
        if failure is not None:
            raise CheckpointError(
                f"The last checkpoint could not be written: {failure}. The older ones are whole; "
                "make room and resume."
            ) from failure
