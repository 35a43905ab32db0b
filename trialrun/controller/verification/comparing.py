"""What a run left behind, and where it first parts from the straight one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from trialrun._wording import count
from trialrun.controller.bookkeeping import (
    CheckpointState,
    Database,
    checkpoints_of_trial,
    get_trial,
    training_metrics_of_trial,
    validation_metrics_of_trial,
)
from trialrun.controller.checkpoints.comparison import compare_checkpoints, compare_state
from trialrun.controller.checkpoints.contents import CheckpointContents, read_state
from trialrun.controller.verification.diary import Diaries, read_diaries


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecords:
    """What one run left behind.

    Args:
        batches: How long it was.
        digests: By batch.
        checkpoints: Their folders, by batch.
        metrics: As text, in which NaN equals itself, by kind and batch.
        diaries: What its slots were given.
    """

    batches: int
    digests: dict[int, str]
    checkpoints: dict[int, Path]
    metrics: dict[tuple[str, int], str]
    diaries: Diaries


def read_records(database: Database, trial_id: int, diaries: Path) -> RunRecords:
    """Reads what is on record of a trial, and in its diaries."""
    rows = checkpoints_of_trial(database, trial_id, state=CheckpointState.COMPLETED)
    metrics = {
        (kind, row.batches): repr(sorted(row.metrics.items()))
        for kind, metric_rows in (
            ("training", training_metrics_of_trial(database, trial_id)),
            ("validation", validation_metrics_of_trial(database, trial_id)),
        )
        for row in metric_rows
    }
    return RunRecords(
        batches=get_trial(database, trial_id).batches_completed,
        # The youngest first: of several at a batch it is the one that counts.
        digests={row.batches: row.digest for row in reversed(rows)},
        checkpoints={row.batches: Path(row.path) for row in reversed(rows)},
        metrics=metrics,
        diaries=read_diaries(diaries),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parting:
    """Where a run first differs from the straight one, in each respect; None: nowhere.

    Args:
        records: What slots were given.
        metrics: What was reported.
        weights: What was learned.
        length: How long it was.
        state: What else checkpoints hold: of schedulers, callbacks, reducers and the trial itself.
        state_name: The name of that, such as ``trial.scale``.
    """

    records: str | None
    metrics: str | None
    weights: str | None
    length: str | None
    state: str | None = None
    state_name: str | None = None

    @property
    def is_nowhere(self) -> bool:
        """Whether the two runs are equal."""
        return not any(dataclasses.astuple(self))

    @property
    def differences(self) -> list[str]:
        """What differs, in sentences."""
        found = (self.records, self.metrics, self.weights, self.state, self.length)
        return [difference for difference in found if difference is not None]

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON data."""
        return dataclasses.asdict(self)


def find_parting(straight: RunRecords, other: RunRecords, *, same_validations: bool) -> Parting:
    """Compares a run with the straight one.

    Args:
        straight: The straight run.
        other: The run.
        same_validations: Whether both validate at the same batches; otherwise validation metrics
            are compared where both have some, and a trial that ends itself by what a validation
            has found may be of another length.
    """
    is_as_long = straight.batches == other.batches
    state_name, state = _state(straight, other, same_validations) or (None, None)
    return Parting(
        records=_records(straight, other),
        metrics=_metrics(straight, other, same_validations),
        weights=_weights(straight, other),
        state=state,
        state_name=state_name,
        length=None
        if is_as_long or not same_validations
        else f"it ended after {count(other.batches, 'batch')}, the straight run after "
        f"{straight.batches}",
    )


def _records(straight: RunRecords, other: RunRecords) -> str | None:
    first, second = straight.diaries.records, other.diaries.records
    stop = min(straight.batches, other.batches)
    for batch, slot in sorted(first.keys() | second.keys()):
        if batch < stop and first.get((batch, slot)) != second.get((batch, slot)):
            return f"slot {slot} was given other records in batch {batch}"
    return None


def _metrics(straight: RunRecords, other: RunRecords, same_validations: bool) -> str | None:
    reports = straight.metrics.keys() | other.metrics.keys()
    # The longer of two has reports that the other cannot have; its length says so.
    stop = min(straight.batches, other.batches) + (straight.batches == other.batches)
    for kind, batch in sorted(reports, key=lambda key: (key[1], key[0])):
        first, second = straight.metrics.get((kind, batch)), other.metrics.get((kind, batch))
        is_in_both = first is not None and second is not None
        if not is_in_both and (batch >= stop or (kind == "validation" and not same_validations)):
            continue
        if first != second:
            return f"the {kind} metrics at batch {batch} are {second}, straight {first}"
    return None


def _weights(straight: RunRecords, other: RunRecords) -> str | None:
    common = sorted(straight.digests.keys() & other.digests.keys())
    if not common:
        return "no two checkpoints are of the same batch, so no tensor was compared"
    before = 0
    for batch in common:
        if straight.digests[batch] == other.digests[batch]:
            before = batch
            continue
        found = compare_checkpoints(straight.checkpoints[batch], other.checkpoints[batch])
        assert found.first is not None  # the digests differ
        when = f"after batch {batch}" if batch - before <= 1 else f"after batch {before} to {batch}"
        return f"{when} the first tensor that differs is {found.first.describe()}"
    return None


# What validations have found, which is compared as metrics and length.
_PROGRESS = "progress"
# What may learn by that, and so differs where they are at other batches.
_LISTENING = ("callbacks", "added", "trial", "lr_schedulers", "optimizers")
# What slots are given is compared itself; loaders write down their place in ways of their own.
_LOADER = "loader"


def _state(
    straight: RunRecords, other: RunRecords, same_validations: bool
) -> tuple[str, str] | None:
    """Returns the first of what checkpoints hold besides the weights that differs, and where.

    What follows from other weights is not told.
    """
    left_out = (_PROGRESS,) if same_validations else (_PROGRESS, *_LISTENING)
    for batch in sorted(straight.checkpoints.keys() & other.checkpoints.keys()):
        first, second = (
            _without_loaders(read_state(run.checkpoints[batch])) for run in (straight, other)
        )
        for found in compare_state(first, second, left_out):
            return found.name, (
                f"after batch {batch} the checkpoint's {found.name} is {found.second}, straight "
                f"{found.first}"
            )
        if straight.digests[batch] != other.digests[batch]:
            break
    return None


def _without_loaders(contents: CheckpointContents) -> CheckpointContents:
    slots = [
        {name: value for name, value in slot.items() if name != _LOADER}
        for slot in contents.state["slots"]
    ]
    return dataclasses.replace(contents, state={**contents.state, "slots": slots})
