"""What ``submit`` and ``resume`` do; it loads torch, at the same time as the server does."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from trialrun._errors import ConfigurationError
from trialrun.cli._options import open_database
from trialrun.cli._progress import AttemptView
from trialrun.controller.bookkeeping import Database, get_trial
from trialrun.controller.config import ExperimentConfig, not_divisible, read_config
from trialrun.controller.experiments import prepared_attempt, submit_experiment, trial_slots
from trialrun.controller.home import Home
from trialrun.controller.launch.placement import choose_num_processes, threads_per_slot
from trialrun.controller.launch.supervisor import AttemptEnd
from trialrun.controller.liveness import trial_of_experiment
from trialrun.controller.running import run_attempt, run_rehearsal

EXIT_FAILED = 1
EXIT_PAUSED = 3
EXIT_STOPPED_AT_ONCE = 130


def submit(home: Home, trial_file: Path, trial_class: str | None, config: ExperimentConfig) -> int:
    """Records an experiment and trains it; returns the exit code."""
    database = open_database(home)
    _, trial = submit_experiment(
        database, home, trial_file=trial_file, trial_class=trial_class, config=config
    )
    return _train(database, trial.id, config.processes)


def resume(home: Home, experiment: int, processes: int | None) -> int:
    """Goes on with an experiment; returns the exit code."""
    database = open_database(home)
    row, trial = trial_of_experiment(database, experiment)
    config = read_config(row.config)
    if processes is not None and (processes < 1 or config.slots % processes):
        raise ConfigurationError(not_divisible(config.slots, processes))
    return _train(database, trial.id, processes or config.processes)


def _train(database: Database, trial_id: int, processes: int | None) -> int:

    num_processes = choose_num_processes(processes, trial_slots(database, trial_id))
    with prepared_attempt(database, trial_id, num_processes) as prepared:
        view = AttemptView(database, prepared)
        experiment = prepared.experiment.id

        def stop_now() -> None:
            view.close()
            click.echo(f"Stopped at once. Go on with: trialrun resume {experiment}", err=True)
            os._exit(EXIT_STOPPED_AT_ONCE)

        view.show_start()
        try:
            result = run_attempt(database, prepared, on_tick=view.tick, on_kill=stop_now)
        finally:
            view.close()
        batches = get_trial(database, trial_id).batches_completed
    if result.end is AttemptEnd.COMPLETED:
        click.echo(f"Completed experiment {experiment} after {batches} batches.")
        view.show_checkpoints()
        return 0
    if result.end is AttemptEnd.PAUSED:
        click.echo(f"Paused experiment {experiment} after {batches} batches. Go on with:")
        click.echo(f"trialrun resume {experiment}")
        return EXIT_PAUSED
    assert result.failure is not None
    click.echo(f"Experiment {experiment} failed: {result.failure.message}", err=True)
    click.echo(f"When it is mended, go on with: trialrun resume {experiment}", err=True)
    return EXIT_FAILED


def rehearse(trial_file: Path, trial_class: str | None, config: ExperimentConfig) -> int:
    """Runs ``--test-mode``; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="trialrun-") as folder:
        result = run_rehearsal(
            trial_file=trial_file,
            trial_class=trial_class,
            config=config,
            num_processes=choose_num_processes(config.processes, config.slots),
            threads=config.intra_op_threads or threads_per_slot(config.slots),
            folder=Path(folder),
            on_kill=lambda: os._exit(EXIT_STOPPED_AT_ONCE),
        )
    if result.end is AttemptEnd.COMPLETED:
        click.echo(
            "The rehearsal went well: training, validation, a checkpoint, and a restore into a "
            "fresh trial that goes on to the same bits."
        )
        return 0
    assert result.failure is not None
    if result.failure.traceback:
        click.echo(result.failure.traceback, err=True)
    click.echo(f"The rehearsal failed: {result.failure.message}", err=True)
    return EXIT_FAILED
