"""What the commands that train do; it loads torch, at the same time as the server does."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from trialrun.cli._progress import TrialView
from trialrun.controller.bookkeeping import (
    CheckpointState,
    Database,
    TrialRow,
    checkpoints_of_trial,
    get_trial,
)
from trialrun.controller.config import ExperimentConfig
from trialrun.controller.experiments import prepared_attempt
from trialrun.controller.launch.placement import num_threads
from trialrun.controller.launch.supervisor import AttemptEnd
from trialrun.controller.launch.worker import log_file
from trialrun.controller.running import run_rehearsal, run_trial
from trialrun.controller.wording import completed, count

EXIT_FAILED = 1
EXIT_PAUSED = 3
EXIT_STOPPED_AT_ONCE = 130


def train(database: Database, trial: TrialRow, num_processes: int) -> int:
    """Runs one attempt at a recorded trial, in sight of the user; returns the exit code."""
    with prepared_attempt(database, trial.id, num_processes) as prepared:
        view = TrialView(database, prepared)
        experiment = prepared.experiment.id

        def stop_now() -> None:
            view.close()
            click.echo(f"Stopped at once. Go on with: trialrun resume {experiment}", err=True)
            os._exit(EXIT_STOPPED_AT_ONCE)

        view.show_start()
        try:
            result = run_trial(
                database,
                prepared,
                on_tick=view.tick,
                on_kill=stop_now,
                on_restart=view.show_restart,
            )
        finally:
            view.close()
        row = get_trial(database, trial.id)
        batches = row.batches_completed
        checkpoints = checkpoints_of_trial(database, trial.id, state=CheckpointState.COMPLETED)
    if result.end is AttemptEnd.COMPLETED:
        click.echo(completed(experiment, batches, row.total_batches))
        view.show_checkpoints()
        return 0
    if result.end is AttemptEnd.PAUSED:
        click.echo(f"Paused experiment {experiment} after {batches} batches. Go on with:")
        click.echo(f"trialrun resume {experiment}")
        return EXIT_PAUSED
    assert result.failure is not None
    click.echo(f"Experiment {experiment} failed: {result.failure.message}", err=True)
    if not (batches or result.batches):
        # A resume would read the configuration as it was submitted.
        click.echo("Nothing was trained: mend it, and submit it again.", err=True)
    else:
        start = f"batch {checkpoints[0].batches}" if checkpoints else "batch 0"
        click.echo(
            f"When it is mended, go on from {start} with: trialrun resume {experiment}", err=True
        )
    return EXIT_FAILED


def rehearse(
    trial_file: Path,
    trial_class: str | None,
    config: ExperimentConfig,
    num_processes: int,
    weights: Path | None,
) -> int:
    """Runs ``--test-mode``, with the weights of a checkpoint if any; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="trialrun-") as folder:
        result = run_rehearsal(
            trial_file=trial_file,
            trial_class=trial_class,
            config=config,
            num_processes=num_processes,
            threads=num_threads(config),
            folder=Path(folder),
            weights=weights,
            on_kill=lambda: os._exit(EXIT_STOPPED_AT_ONCE),
        )
        # What the trial printed; all processes rehearse the same.
        log = log_file(Path(folder), 0)
        printed = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    message = result.failure.message if result.failure else ""
    click.echo(printed.removesuffix(f"{message}\n"), nl=False)
    if result.end is AttemptEnd.COMPLETED:
        click.echo(
            f"The rehearsal on {count(config.slots, 'slot')} and "
            f"{count(num_processes, 'process')} went well: "
            "training, validation, a checkpoint, and a restore into a "
            "fresh trial that goes on to the same bits."
        )
        return 0
    click.echo(f"The rehearsal failed: {message}", err=True)
    return EXIT_FAILED
