"""Commands about checkpoints: ``checkpoint list``, ``show``, ``verify`` and ``export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from trialrun._errors import CheckpointError
from trialrun.cli._options import has_records, home_options, json_option, open_database
from trialrun.cli._output import format_size, print_fields, print_json, print_table
from trialrun.controller.bookkeeping import (
    CheckpointRow,
    CheckpointState,
    Database,
    checkpoints_of_trial,
    get_checkpoint,
    list_experiments,
    mark_checkpoint,
)
from trialrun.controller.checkpoints.best import best_first
from trialrun.controller.checkpoints.digest_text import short
from trialrun.controller.checkpoints.manifest import verify as verify_files
from trialrun.controller.home import Home
from trialrun.controller.inference.selection import require_whole
from trialrun.controller.liveness import trial_of_experiment
from trialrun.controller.whole_folder import require_free


@click.group()
def checkpoint() -> None:
    """List, show, verify and export checkpoints."""


@checkpoint.command("list")
@click.argument("experiment", type=int, required=False, metavar="[EXP]")
@json_option
@home_options
def list_command(experiment: int | None, as_json: bool, home: Home) -> None:
    """List the checkpoints of one experiment, or of all, newest first.

    \b
    Example:
      trialrun checkpoint list 1 --json

    Checkpoints whose files were deleted stay on the list, with their digests.
    """
    # One experiment must exist; of all there may be none yet.
    nothing = experiment is None and not has_records(home)
    rows = [] if nothing else _rows(open_database(home), experiment)
    if as_json:
        print_json(rows)
        return
    columns = ("UUID", "Trial", "Batches", "State", "Digest", "Size", "Best", "Metric")
    print_table(
        columns,
        [
            (
                row["uuid"],
                row["trial"],
                row["batches"],
                row["state"],
                row["short_digest"],
                format_size(row["size_bytes"]),
                "best" if row["best"] else "",
                _searched(row),
            )
            for row in rows
        ],
    )


@checkpoint.command()
@click.argument("uuid")
@json_option
@home_options
def show(uuid: str, as_json: bool, home: Home) -> None:
    """Show one checkpoint; the first characters of its UUID suffice.

    \b
    Example:
      trialrun checkpoint show 3f2a
    """
    row = get_checkpoint(open_database(home), uuid)
    metadata_file = Path(row.path) / "metadata.json"
    metadata = None
    if metadata_file.is_file():
        metadata = json.loads(metadata_file.read_text(encoding="utf-8"))
    if as_json:
        print_json({**_row(row), "files": row.files, "metadata": metadata})
        return
    print_fields({**_row(row), "size_bytes": format_size(row.size_bytes)})
    if metadata is not None:
        facts = metadata["identity"] | (metadata.get("environment") or {})
        print_fields({f"  {name}": value for name, value in facts.items()})


@checkpoint.command()
@click.argument("uuid")
@json_option
@home_options
def verify(uuid: str, as_json: bool, home: Home) -> None:
    """Read every byte of a checkpoint and compare it with the recorded hashes.

    \b
    Example:
      trialrun checkpoint verify 3f2a
    """
    database = open_database(home)
    row = get_checkpoint(database, uuid)
    problem = _problem(database, row)
    if as_json:
        print_json({"uuid": row.uuid, "whole": problem is None, "problem": problem})
    elif problem is None:
        click.echo(f"Checkpoint {row.uuid} is whole: {format_size(row.size_bytes)} compared.")
    else:
        click.echo(problem, err=True)
    raise SystemExit(0 if problem is None else 1)


@checkpoint.command()
@click.argument("uuid")
@click.option("--to", "folder", required=True, metavar="DIR", help="A new or empty folder.")
@click.option("--optimizer", is_flag=True, help="Also write the optimizers' states.")
@home_options
def export(uuid: str, folder: str, optimizer: bool, home: Home) -> None:
    """Write the weights into a folder that plain torch and safetensors read.

    
    Example:
      trialrun checkpoint export 3f2a --to exported

    They are read back and compared with the checkpoint's digest. The folder is whole or absent.
    """
    output = Path(folder).expanduser().absolute()
    require_free(output)
    row = get_checkpoint(open_database(home), uuid)
    source = require_whole(row)
    from trialrun.controller.checkpoints.export import export_checkpoint  # which imports torch

    names = export_checkpoint(source, output, optimizer)
    click.echo(f"Exported checkpoint {row.uuid} to {output}: {', '.join(names)}")


def _problem(database: Database, row: CheckpointRow) -> str | None:
    if row.state is CheckpointState.DELETED:
        return f"Checkpoint {row.uuid} was deleted by the rules of checkpoint_gc."
    try:
        verify_files(Path(row.path), row.files)
    except CheckpointError as error:
        mark_checkpoint(database, row.uuid, CheckpointState.DAMAGED)
        return f"{error} It is marked as damaged, and no resume will use it."
    return None


def _rows(database: Database, number: int | None) -> list[dict[str, Any]]:
    """Returns the checkpoints of one experiment or of all, newest first, with the best marked."""
    if number is not None:
        pairs = [trial_of_experiment(database, number)]
    else:
        pairs = [
            (summary.experiment, trial.trial)
            for summary in reversed(list_experiments(database))
            for trial in summary.trials
        ]
    rows = []
    for experiment, trial in pairs:
        searcher = experiment.config["searcher"]
        metric = searcher["metric"]
        found = checkpoints_of_trial(database, trial.id)
        best = best_first(found, metric, searcher["smaller_is_better"])[:1]
        rows += [{**_row(row), "best": row in best, "searched_metric": metric} for row in found]
    return rows


def _searched(row: dict[str, Any]) -> dict[str, float] | None:
    """Returns the searched metric alone, where the checkpoint has it."""
    metrics, name = row["metrics"] or {}, row["searched_metric"]
    return {name: metrics[name]} if name in metrics else None


def _row(row: CheckpointRow) -> dict[str, Any]:
    return {
        "uuid": row.uuid,
        "trial": row.trial_id,
        "batches": row.batches,
        "state": row.state.name,
        "digest": row.digest,
        "short_digest": short(row.digest),
        "size_bytes": row.size_bytes,
        "path": row.path,
        "metrics": row.metrics,
        "created_at": row.created_at,
    }
