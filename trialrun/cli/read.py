"""Commands that read the records: ``list``, ``show`` and ``metrics``. They never import torch."""

from __future__ import annotations

from typing import Any

import click

from trialrun.cli._options import has_records, home_options, json_option, open_database
from trialrun.cli._output import print_fields, print_json, print_table
from trialrun.controller.bookkeeping import (
    AttemptRow,
    ExperimentSummary,
    attempts_of_trial,
    list_experiments,
    training_metrics_of_trial,
    validation_metrics_of_trial,
)
from trialrun.controller.home import Home
from trialrun.controller.liveness import trial_of_experiment


@click.command("list")
@json_option
@home_options
def list_command(as_json: bool, home: Home) -> None:
    """List all experiments.

    \b
    Example:
      trialrun list --json
    """
    found = list_experiments(open_database(home)) if has_records(home) else []
    summaries = [_summary(summary) for summary in found]
    if as_json:
        print_json(summaries)
    else:
        columns = ("ID", "Name", "State", "Batches", "Of", "Validation", "Created")
        keys = ("id", "name", "state", "batches", "total_batches", "validation", "created_at")
        print_table(columns, [[summary[key] for key in keys] for summary in map(_short, summaries)])


def _short(summary: dict[str, Any]) -> dict[str, Any]:
    """Returns the summary with the searched metric alone, where it was found."""
    metrics, name = summary["validation"] or {}, summary["searched_metric"]
    return {**summary, "validation": {name: metrics[name]} if name in metrics else metrics or None}


def _summary(summary: ExperimentSummary) -> dict[str, Any]:
    (trial,) = summary.trials
    latest = trial.latest_validation
    return {
        "id": summary.experiment.id,
        "name": summary.experiment.name,
        "state": trial.trial.state.name,
        "batches": trial.trial.batches_completed,
        "total_batches": trial.trial.total_batches,
        "slots": summary.experiment.config["slots"],
        "hyperparameters": trial.trial.hyperparameters,
        "searched_metric": summary.experiment.config["searcher"]["metric"],
        "validation": latest.metrics if latest else None,
        "created_at": summary.experiment.created_at,
    }


@click.command()
@click.argument("experiment", type=int, metavar="EXP")
@json_option
@home_options
def show(experiment: int, as_json: bool, home: Home) -> None:
    """Show one experiment: its configuration, its trial, its attempts.

    \b
    Example:
      trialrun show 1
    """
    database = open_database(home)
    row, trial = trial_of_experiment(database, experiment)
    attempts = [_attempt(attempt) for attempt in attempts_of_trial(database, trial.id)]
    fields: dict[str, Any] = {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "state": trial.state.name,
        "batches": trial.batches_completed,
        "total_batches": trial.total_batches,
        "seed": trial.seed,
        "hyperparameters": trial.hyperparameters,
        "from_checkpoint": row.config.get("from_checkpoint"),  # older records have none
        "config": row.config,
        "trial_file": row.trial_file or None,
        "trial_class": row.trial_class or None,
        "working_directory": row.working_directory,
        "directory": row.directory,
        "git_commit": row.git_commit,
        "created_at": row.created_at,
        "started_at": trial.started_at,
        "ended_at": trial.ended_at,
    }
    if as_json:
        print_json({**fields, "trial": trial.id, "attempts": attempts})
        return
    config = fields.pop("config")
    if not row.trial_file:
        fields["trial_file"] = "none: the class was defined in an interactive session"
    fields["slots"], fields["max_length"] = config["slots"], config["max_length"]
    fields["labels"] = ", ".join(config.get("labels", []))  # older records have none
    print_fields({name: value for name, value in fields.items() if value not in (None, "", {})})
    click.echo()
    columns = ("Attempt", "State", "From batch", "Processes", "Started", "Ended", "Error")
    keys = (
        "number",
        "state",
        "first_batch",
        "num_processes",
        "started_at",
        "ended_at",
        "error",
    )
    print_table(columns, [[attempt[key] for key in keys] for attempt in attempts])


def _attempt(attempt: AttemptRow) -> dict[str, Any]:
    names = (
        "number",
        "hostname",
        "pid",
        "num_processes",
        "device",
        "first_batch",
        "resumed_from",
        "plan",
        "error",
        "error_traceback",
        "started_at",
        "training_started_at",
        "ended_at",
    )
    return {"state": attempt.state.name, **{name: getattr(attempt, name) for name in names}}


@click.command()
@click.argument("experiment", type=int, metavar="EXP")
@json_option
@home_options
def metrics(experiment: int, as_json: bool, home: Home) -> None:
    """Print all metrics of an experiment, in the order of batches.

    \b
    Example:
      trialrun metrics 1 --json
    """
    database = open_database(home)
    _, trial = trial_of_experiment(database, experiment)
    rows: list[dict[str, Any]] = [
        {
            "kind": "training",
            "batches": row.batches,
            "epoch": row.epoch,
            "metrics": row.metrics,
            "records_per_second": row.records_per_second,
            "reported_at": row.reported_at,
        }
        for row in training_metrics_of_trial(database, trial.id)
    ] + [
        {
            "kind": "validation",
            "batches": row.batches,
            "epoch": row.epoch,
            "metrics": row.metrics,
            "num_records": row.num_records,
            "duration_seconds": row.duration_seconds,
            "reported_at": row.reported_at,
        }
        for row in validation_metrics_of_trial(database, trial.id)
    ]
    rows.sort(key=lambda row: (row["batches"], row["kind"]))
    if as_json:
        print_json(rows)
    else:
        keys = ("batches", "epoch", "kind", "metrics", "reported_at")
        columns = ("Batches", "Epoch", "Kind", "Metrics", "Reported")
        print_table(columns, [[row[key] for key in keys] for row in rows])
