"""Which checkpoint is meant: the best, the latest, one by its UUID or by its folder; no torch."""

from __future__ import annotations

import re
from pathlib import Path

from trialrun._errors import CheckpointError
from trialrun.controller.bookkeeping import (
    CheckpointRow,
    CheckpointState,
    Database,
    ExperimentRow,
    TrialRow,
    checkpoints_of_trial,
    get_checkpoint,
)
from trialrun.controller.checkpoints.best import best_first
from trialrun.controller.checkpoints.manifest import verify
from trialrun.controller.home import Home, find_home

BEST = "best"
LATEST = "latest"
_UUID = re.compile(r"[0-9a-fA-F][0-9a-fA-F-]{3,35}")


def select_checkpoint(
    database: Database, experiment: ExperimentRow, trial: TrialRow, which: str
) -> CheckpointRow:
    """Finds a checkpoint of one experiment whose files are whole.

    Args:
        database: Where it is recorded.
        experiment: Which experiment.
        trial: Its trial.
        which: ``best``, ``latest``, or the first characters of a UUID.

    Raises:
        CheckpointError: There is none, it belongs to another experiment, or it is not whole.
        BookkeepingError: No checkpoint has this UUID, or several have its beginning.
    """
    whole = checkpoints_of_trial(database, trial.id, state=CheckpointState.COMPLETED)
    if which in (BEST, LATEST):
        if not whole:
            raise CheckpointError(
                f"Experiment {experiment.id} has no checkpoint whose files are there. Train it "
                f"first: trialrun resume {experiment.id}."
            )
        row = whole[0] if which == LATEST else _best(experiment, whole)
    else:
        row = get_checkpoint(database, which)
        if row.trial_id != trial.id:
            raise CheckpointError(
                f"Checkpoint {row.uuid} belongs to trial {row.trial_id}, not to experiment "
                f"{experiment.id}. trialrun checkpoint list {experiment.id} shows its own."
            )
    require_whole(row)
    return row


def require_whole(row: CheckpointRow) -> Path:
    """Returns the folder of a checkpoint after comparing every byte with its recorded hash.

    Raises:
        CheckpointError: Its files were deleted, or are damaged.
    """
    if row.state is CheckpointState.DELETED:
        raise CheckpointError(
            f"The files of checkpoint {row.uuid} were deleted by the rules of checkpoint_gc. "
            "Choose one that is COMPLETED in trialrun checkpoint list."
        )
    try:
        verify(Path(row.path), row.files)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} Choose another: trialrun checkpoint list shows them."
        ) from error
    return Path(row.path)


def locate_checkpoint(
    checkpoint: str | Path, home: str | Path | None = None, db: str | None = None
) -> Path:
    """Returns the folder of a checkpoint that a user named by its folder or its UUID.

    Args:
        checkpoint: A folder, or the first characters of a UUID.
        home: Where a UUID is looked up, as ``--home`` says it.
        db: The database, as ``--db`` says it.

    Raises:
        CheckpointError: It is neither, or not whole.
        BookkeepingError: No checkpoint has this UUID, or several have its beginning.
    """
    if names_folder(checkpoint):
        return Path(checkpoint).expanduser().absolute()
    where = find_home(None if home is None else str(home), db)
    return require_whole(row_of(str(checkpoint), where))


def row_of(uuid: str, home: Home) -> CheckpointRow:
    """Returns the record of a checkpoint by the first characters of its UUID.

    Raises:
        BookkeepingError: There is no such checkpoint, or no database.
    """
    return get_checkpoint(Database.open(home.database_url, create=False), uuid)


def names_folder(checkpoint: str | Path) -> bool:
    """Returns whether a checkpoint is named by a folder; if not, then by its UUID.

    Raises:
        CheckpointError: It is neither.
    """
    # An empty text would be the folder where the command was typed.
    if str(checkpoint) and Path(checkpoint).expanduser().is_dir():
        return True
    if isinstance(checkpoint, str) and _UUID.fullmatch(checkpoint):
        return False
    raise CheckpointError(
        f"{str(checkpoint)!r} is neither a folder nor the UUID of a checkpoint. trialrun "
        "checkpoint list shows the UUIDs."
    )


def _best(experiment: ExperimentRow, rows: list[CheckpointRow]) -> CheckpointRow:
    searcher = experiment.config["searcher"]
    best = best_first(rows, searcher["metric"], searcher["smaller_is_better"])
    if not best:
        raise CheckpointError(
            f"No checkpoint of experiment {experiment.id} has the metric {searcher['metric']!r}, "
            "which says which is the best. Give --checkpoint latest, or a UUID."
        )
    return best[0]
