"""Where a script's training begins: in which experiment, and at which checkpoint.

``latest_checkpoint`` decides. The rule, as users read it, is in ``docs/trainer.md``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from trialrun._errors import BookkeepingError, CheckpointError, RunConflictError
from trialrun.controller.bookkeeping import (
    CheckpointRow,
    CheckpointState,
    Database,
    ExperimentRow,
    TrialRow,
    attempts_of_trial,
    checkpoints_of_trial,
    get_checkpoint,
    get_experiment,
    get_trial,
    list_experiments,
)
from trialrun.controller.checkpoints.contents import METADATA_FILE
from trialrun.controller.checkpoints.manifest import verify
from trialrun.controller.claiming import newest_whole_checkpoint
from trialrun.controller.config import ExperimentConfig
from trialrun.controller.going_on import is_of_script

LATEST = "latest"

_UUID = re.compile(r"[0-9a-fA-F-]+")  # or its beginning

CheckpointName: TypeAlias = str | Path | CheckpointRow | None
"""What ``latest_checkpoint`` may be."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartPoint:
    """A checkpoint from which training goes on."""

    path: Path
    uuid: str
    batches: int

    @classmethod
    def of(cls, row: CheckpointRow) -> StartPoint:
        """Returns a recorded checkpoint."""
        return cls(path=Path(row.path), uuid=row.uuid, batches=row.batches)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """Where training begins.

    Args:
        trial: The trial that goes on; None: a new experiment is made.
        point: The checkpoint; None: at batch 0.
        remarks: What the user should hear of it.
    """

    trial: TrialRow | None
    point: StartPoint | None
    remarks: list[str] = dataclasses.field(default_factory=list)


def newest_start(database: Database, trial: TrialRow) -> Start:
    """Returns how a trial goes on: from its newest whole checkpoint.

    Raises:
        RunConflictError: It began from another's checkpoint, which is gone, and has none itself.
    """
    row, remarks = newest_whole_checkpoint(database, trial)
    if row is not None:
        return Start(trial=trial, point=StartPoint.of(row), remarks=remarks)
    origin = next(iter(attempts_of_trial(database, trial.id)), None)
    if origin is None or origin.first_batch == 0:
        return Start(trial=trial, point=None, remarks=remarks)
    try:
        borrowed = get_checkpoint(database, origin.resumed_from or "")
        verify(Path(borrowed.path), borrowed.files)
    except (BookkeepingError, CheckpointError) as error:
        raise RunConflictError(
            f"Experiment {trial.experiment_id} began at batch {origin.first_batch} from checkpoint "
            f"{origin.resumed_from}, which is not at hand, and has none of its own yet. Give "
            "latest_checkpoint the path of that checkpoint."
        ) from error
    return Start(trial=trial, point=StartPoint.of(borrowed), remarks=remarks)


def find_start(
    database: Database, name: CheckpointName, config: ExperimentConfig, trial_class: str
) -> Start:
    """Returns where training begins in other cases: anew, or at the checkpoint that is named.

    Args:
        database: Where experiments are recorded.
        name: What the user gave.
        config: The configuration of the fit.
        trial_class: The class of the trial, as it is recorded.

    Raises:
        BookkeepingError: There is no such checkpoint.
        CheckpointError: It is damaged, deleted, or belongs to another run.
    """
    if name is None or name == LATEST:
        return Start(trial=None, point=None)
    if not isinstance(name, str | Path | CheckpointRow):
        raise _no_checkpoint(name)
    if isinstance(name, CheckpointRow):
        row: CheckpointRow | None = name
    elif isinstance(name, Path) or "/" in name or Path(name).is_dir():
        row = _recorded_at(database, Path(name).expanduser().absolute())
        if row is None:
            return _start_elsewhere(Path(name).expanduser().absolute(), config)
    elif _UUID.fullmatch(name.strip()):
        row = get_checkpoint(database, name)
    else:
        raise _no_checkpoint(name)
    assert row is not None
    return _start_at(database, row, config, trial_class)


def _no_checkpoint(name: object) -> BookkeepingError:
    return BookkeepingError(
        f"latest_checkpoint={name!r} names no checkpoint. Give 'latest' for the newest of this "
        "script, or the uuid or the folder of one: `trialrun checkpoint list` shows them with "
        "their metrics."
    )


def trial_of_same_init(
    database: Database, config: ExperimentConfig, trial_class: str
) -> TrialRow | None:
    """Returns the newest trial that the same script made by the same call of ``init``."""
    for summary in reversed(list_experiments(database)):
        experiment, (trial, *_) = summary.experiment, summary.trials
        is_same = (
            experiment.trial_class == trial_class
            and experiment.name == config.name
            and _promises(experiment.config) == _promises(config.to_json())
        )
        if is_same:
            return trial.trial
    return None


def _promises(config: Mapping[str, Any]) -> list[Any]:
    keys = ("hyperparameters", "slots", "seed", "aggregation_frequency")
    return [config[key] for key in keys]


def _start_at(
    database: Database, row: CheckpointRow, config: ExperimentConfig, trial_class: str
) -> Start:
    if row.state is not CheckpointState.COMPLETED:
        raise CheckpointError(
            f"Checkpoint {row.uuid} cannot be gone on from: it is {row.state.name}. `trialrun "
            f"checkpoint list` shows those that are COMPLETED."
        )
    verify(Path(row.path), row.files)
    remarks = _compare(Path(row.path), config)
    point = StartPoint.of(row)
    trial = get_trial(database, row.trial_id)
    experiment = get_experiment(database, trial.experiment_id)
    rows = checkpoints_of_trial(database, trial.id, state=CheckpointState.COMPLETED)
    reason = _why_another(experiment, trial_class, rows, row)
    if reason is None and not remarks:
        return Start(trial=trial, point=point)
    if reason is not None:
        remarks.append(f"{reason}, so a new experiment begins there.")
    return Start(trial=None, point=point, remarks=remarks)


def _why_another(
    experiment: ExperimentRow, trial_class: str, rows: list[CheckpointRow], row: CheckpointRow
) -> str | None:
    """Returns why the checkpoint's own experiment does not go on from it; None where it does."""
    if not is_of_script(experiment):
        return f"Experiment {experiment.id} was submitted, not made by this script"
    if experiment.trial_class != trial_class:
        return f"Experiment {experiment.id} trains {experiment.trial_class}, not {trial_class}"
    if rows[0].uuid != row.uuid:
        return (
            f"Experiment {experiment.id} has a newer checkpoint, of batch {rows[0].batches}, than "
            f"the one of batch {row.batches}"
        )
    return None


def _start_elsewhere(path: Path, config: ExperimentConfig) -> Start:
    """Returns the start at a folder of which nothing is on record here, such as a copy."""
    metadata = _metadata(path)
    remarks = _compare(path, config)
    point = StartPoint(path=path, uuid=metadata["uuid"], batches=metadata["batches"])
    return Start(trial=None, point=point, remarks=remarks)


def _recorded_at(database: Database, path: Path) -> CheckpointRow | None:
    try:
        row = get_checkpoint(database, _metadata(path)["uuid"])
    except BookkeepingError:
        return None
    return row if Path(row.path) == path else None


def _metadata(path: Path) -> dict[str, Any]:
    try:
        metadata: dict[str, Any] = json.loads((path / METADATA_FILE).read_text(encoding="utf-8"))
        return metadata | {"uuid": metadata["uuid"], "batches": int(metadata["batches"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint: its {METADATA_FILE} cannot be read ({error}). Give the "
            "folder of a checkpoint, its uuid, or 'latest'; `trialrun checkpoint list` shows them."
        ) from None


def _compare(path: Path, config: ExperimentConfig) -> list[str]:
    """Compares what is known before the trial's data is: so that nothing is recorded in vain.

    Returns:
        A sentence for each hyperparameter that differs.

    Raises:
        CheckpointError: The seed, the slots or the aggregation frequency differ.
    """
    metadata = _metadata(path)
    identity = metadata.get("identity", {})
    wanted = {
        "seed": config.seed,
        "num_slots": config.slots,
        "aggregation_frequency": config.aggregation_frequency,
    }
    differing = [
        f"{name} was {identity[name]!r} and is now {value!r}"
        for name, value in wanted.items()
        if name in identity and identity[name] != value
    ]
    if differing:
        raise CheckpointError(
            f"The checkpoint {path.name} belongs to another run: {'; '.join(differing)}. Call "
            "trialrun.init with the values of that run, or leave latest_checkpoint out."
        )
    before = metadata.get("hyperparameters", config.hyperparameters)
    now = json.loads(json.dumps(config.hyperparameters))
    absent = object()
    return [
        f"Hyperparameter {name!r} was {before.get(name, 'absent')!r} and is now "
        f"{now.get(name, 'absent')!r}: a new experiment begins at the checkpoint, and the result "
        "differs from a run without this change."
        for name in sorted(before.keys() | now.keys())
        if before.get(name, absent) != now.get(name, absent)
    ]
