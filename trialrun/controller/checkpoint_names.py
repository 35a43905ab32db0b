"""How a command's user names a checkpoint: ``3f2a``, a folder, ``1:latest``, ``1:best``, ``1:400``.

The first is the beginning of a UUID, the last the batch of a checkpoint of experiment 1. Needs no
torch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from trialrun._errors import CheckpointError
from trialrun.controller.bookkeeping import (
    CheckpointRow,
    CheckpointState,
    Database,
    checkpoints_of_trial,
    get_checkpoint,
)
from trialrun.controller.inference.selection import (
    BEST,
    LATEST,
    names_folder,
    require_whole,
    select_checkpoint,
)
from trialrun.controller.liveness import trial_of_experiment

_OF_EXPERIMENT = re.compile(r"(?P<experiment>[0-9]+):(?P<which>.*)")
_MAX_BATCHES_SHOWN = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedCheckpoint:
    """A checkpoint that a user has named.

    Args:
        folder: Where its files are, whole.
        row: Its record; None where it was named by its folder.
    """

    folder: Path
    row: CheckpointRow | None


def named_checkpoint(open_database: Callable[[], Database], name: str) -> NamedCheckpoint:
    """Finds a checkpoint whose files are there.

    Args:
        open_database: Opens the records; not called for a folder.
        name: What the user typed.

    Raises:
        BookkeepingError: There is no such experiment or checkpoint.
        CheckpointError: The name is of no known form, or the files are deleted or damaged.
    """
    if _OF_EXPERIMENT.fullmatch(name) is None and names_folder(name):
        return NamedCheckpoint(folder=Path(name).expanduser().absolute(), row=None)
    row = named_record(open_database(), name)
    return NamedCheckpoint(folder=require_whole(row), row=row)


def named_record(database: Database, name: str) -> CheckpointRow:
    """Finds the record of a checkpoint, whose files may be gone.

    Args:
        database: Where it is recorded.
        name: What the user typed; no folder.

    Raises:
        BookkeepingError: There is no such experiment or checkpoint.
        CheckpointError: The name is of no known form.
    """
    found = _OF_EXPERIMENT.fullmatch(name)
    if found is None:
        return get_checkpoint(database, name)
    experiment, trial = trial_of_experiment(database, int(found["experiment"]))
    which = found["which"]
    if which in (BEST, LATEST):
        return select_checkpoint(database, experiment, trial, which)
    if not (which.isascii() and which.isdigit()):
        raise CheckpointError(
            f"{name!r} names no checkpoint of experiment {experiment.id}. After the colon give "
            f"latest, best, or the batch of a checkpoint: {experiment.id}:400."
        )
    rows = checkpoints_of_trial(database, trial.id)
    of_batch = [row for row in rows if row.batches == int(which)]
    if not of_batch:
        batches = sorted({row.batches for row in rows})
        shown = ", ".join(map(str, batches[-_MAX_BATCHES_SHOWN:]))
        more = "..., " if len(batches) > _MAX_BATCHES_SHOWN else ""
        raise CheckpointError(
            f"Experiment {experiment.id} has no checkpoint of batch {which}. "
            + (f"It has those of batches {more}{shown}." if batches else "It has none at all yet.")
        )
    # A batch may have two, as when a validation after a stop made it the best.
    whole = [row for row in of_batch if row.state is CheckpointState.COMPLETED]
    return (whole or of_batch)[0]
