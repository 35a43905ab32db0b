"""Which records a batch holds, and which batches hold a record: from what is on record of the run.

The order of the records is a function of what an attempt writes down when it begins, a description
of the sampler chain, so batches to come are known like those of the past. Nothing here loads the
dataset, or torch.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from trialrun._errors import BookkeepingError
from trialrun.controller.bookkeeping import (
    CheckpointRow,
    CheckpointState,
    Database,
    ExperimentRow,
    TrialRow,
    attempts_of_trial,
    checkpoints_of_trial,
)
from trialrun.controller.liveness import order_arrays_folder, trial_of_experiment
from trialrun.controller.order_arrays import OrderArrays
from trialrun.samplers.record_order import (
    BatchRecords,
    DealtBatches,
    DealtRecords,
    RecordOrder,
    RecordUse,
)
from trialrun.samplers.sequences import Description


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordHistory:
    """The training records of one trial, batch by batch, from the first to the last.

    Args:
        order: The order of the records.
        num_records: The length of the training dataset.
        epoch_length: Batches in an epoch.
        batches_completed: The clock when it was written down last.
        total_batches: The trial's length; None when that is a time.
        checkpoints: The trial's checkpoints.
    """

    order: DealtRecords | DealtBatches
    num_records: int
    epoch_length: int
    batches_completed: int
    total_batches: int | None
    checkpoints: list[CheckpointRow]

    @classmethod
    def of_experiment(cls, database: Database, experiment_id: int) -> RecordHistory:
        """Reads what is on record.

        Raises:
            BookkeepingError: There is no such experiment, it has not begun to train, a sampler or
                loader in its order is none of trialrun's own, or a file of the order is missing.
        """
        experiment, trial = trial_of_experiment(database, experiment_id)
        plan = _newest_plan(database, trial)
        if plan is None:
            raise BookkeepingError(
                f"The order of the records of experiment {experiment_id} is not on record: it has "
                "not begun to train, or only with a version that did not write it down. Resume it "
                "first."
            )
        data = plan["data"]
        try:
            order = RecordOrder.from_description(
                data["order"] if "order" in data else _older_form(data, experiment, trial),
                OrderArrays(order_arrays_folder(experiment)).fetch,
            )
        except ValueError as error:
            raise BookkeepingError(
                f"Experiment {experiment_id} orders its records by {data['record_order']}, which "
                f"cannot be made again here. {error}"
            ) from error
        return cls(
            order=order,
            num_records=data["dataset_length"],
            epoch_length=plan["epoch_length"],
            batches_completed=trial.batches_completed,
            total_batches=trial.total_batches,
            checkpoints=checkpoints_of_trial(database, trial.id),
        )

    def batch(self, batch: int, slot: int | None = None) -> dict[int, BatchRecords]:
        """Returns the records of each slot, or of one, in a batch of the past or the future.

        Raises:
            BookkeepingError: The trial has no such batch or slot.
        """
        if self.total_batches is not None and batch >= self.total_batches:
            raise BookkeepingError(
                f"There is no batch {batch}: the trial has {self.total_batches}, counted from 0."
            )
        if slot is not None and slot >= self.order.num_slots:
            raise BookkeepingError(
                f"There is no slot {slot}: the trial has {self.order.num_slots}, counted from 0."
            )
        slots = range(self.order.num_slots) if slot is None else [slot]
        try:
            return {number: self.order.records(batch, number) for number in slots}
        except ValueError as error:  # beyond what 64 bits can count
            raise BookkeepingError(f"There is no batch {batch}: {error}") from error

    def uses(self, record: int) -> list[RecordUse]:
        """Returns every use of a record up to the trial's end, the first one first.

        Where the trial's length is a time, uses to come are those of one more epoch. Draws by
        weight have no inverse: all of the trial's are gone through, 50 million in a second.

        Raises:
            BookkeepingError: The data has no such record.
        """
        if record >= self.num_records:
            raise BookkeepingError(
                f"There is no record {record}: the training data has {self.num_records}, counted "
                "from 0."
            )
        stop = self.total_batches
        if stop is None:
            stop = self.batches_completed + self.epoch_length
        return list(self.order.uses(record, start_batch=0, stop_batch=stop))

    def is_past(self, use: RecordUse) -> bool:
        """Whether the batch is completed."""
        return use.batch < self.batches_completed

    def checkpoint_before(self, use: RecordUse) -> CheckpointRow | None:
        """Returns the newest whole checkpoint that has learned nothing of this use or later ones.

        A checkpoint at K batches has learned from the batches [0, K).
        """
        candidates = [
            row
            for row in self.checkpoints
            if row.batches <= use.batch and row.state is CheckpointState.COMPLETED
        ]
        return max(candidates, key=lambda row: (row.batches, row.created_at), default=None)


def _newest_plan(database: Database, trial: TrialRow) -> dict[str, Any] | None:
    plans = [attempt.plan or {} for attempt in attempts_of_trial(database, trial.id)]
    return next((plan for plan in reversed(plans) if "data" in plan), None)


def _older_form(data: dict[str, Any], experiment: ExperimentRow, trial: TrialRow) -> Description:
    """Returns the description where an older version wrote down only whether it shuffled.

    Raises:
        ValueError: A sampler of the trial's own decided.
    """
    if data["is_shuffled"] is None:
        raise ValueError(
            "An older version of trialrun wrote only the name down. Resume the experiment, which "
            "puts the whole chain on record, or ask the sampler itself: sampler.take(start, stop)."
        )
    source: Description = {
        "stage": "Sequential",
        "version": 1,
        "arguments": {"length": data["dataset_length"]},
    }
    if data["is_shuffled"]:
        source = {
            "stage": "Shuffle",
            "version": data["shuffle_version"],
            "arguments": {"inner": source, "seed": trial.seed},
        }
    return {
        "records": source,
        "num_slots": experiment.config["slots"],
        "batch_size": data["batch_size"],
    }
