"""What the commands that train do; it loads torch, at the same time as the server does."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import click

from trialrun._wording import count
from trialrun.cli._progress import TrialView, show_checkpoints
from trialrun.controller.bookkeeping import (
    CheckpointState,
    Database,
    RunState,
    TrialRow,
    attempts_of_trial,
    checkpoints_of_trial,
    get_experiment,
    get_trial,
)
from trialrun.controller.config import ExperimentConfig, read_config
from trialrun.controller.experiments import prepared_attempt
from trialrun.controller.going_on import how_it_completed, how_it_paused
from trialrun.controller.launch.child import log_file
from trialrun.controller.launch.failures import without_failures
from trialrun.controller.launch.placement import num_threads
from trialrun.controller.launch.supervisor import AttemptEnd
from trialrun.controller.running import run_rehearsal, run_trial

EXIT_FAILED = 1
EXIT_PAUSED = 3
EXIT_STOPPED_AT_ONCE = 130


def train(database: Database, trial: TrialRow, num_processes: int) -> int:
    """Runs a recorded trial, in sight of the user; returns the exit code."""
    try:
        with prepared_attempt(database, trial.id, num_processes) as prepared:
            view = TrialView(database, prepared)

            def stop_now() -> None:
                view.close()
                _say_stopped(trial.experiment_id)
                os._exit(EXIT_STOPPED_AT_ONCE)

            view.show_start()
            try:
                run_trial(
                    database,
                    prepared,
                    on_tick=view.tick,
                    on_kill=stop_now,
                    on_restart=view.show_restart,
                )
            finally:
                view.close()
    except KeyboardInterrupt:
        # Before the attempt, or after it, when there is nothing left to stop. The records say how
        # it ended, and a further Ctrl-C must not cut that short.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _conclude(database, trial.id)


def _conclude(database: Database, trial_id: int) -> int:
    """Says how the newest attempt at a trial ended, and how to go on; returns the exit code."""
    trial = get_trial(database, trial_id)
    experiment = trial.experiment_id
    if trial.state is RunState.COMPLETED:
        click.echo(how_it_completed(trial, trial.batches_completed))
        config = read_config(get_experiment(database, experiment).config)
        show_checkpoints(database, trial_id, config)
        return 0
    if trial.state is RunState.PAUSED:
        click.echo(how_it_paused(get_experiment(database, experiment), trial.batches_completed))
        return EXIT_PAUSED
    if trial.state is RunState.KILLED:
        _say_stopped(experiment)
        return EXIT_STOPPED_AT_ONCE
    attempt = attempts_of_trial(database, trial_id)[-1]
    if attempt.error_traceback:
        click.echo(attempt.error_traceback, err=True)
    click.echo(f"Experiment {experiment} failed: {attempt.error}", err=True)
    checkpoints = checkpoints_of_trial(database, trial_id, state=CheckpointState.COMPLETED)
    if trial.batches_completed == 0:
        # A resume would read the configuration as it was submitted.
        click.echo(
            "Nothing was trained: mend it, and submit it again. To be rid of this record: trialrun "
            f"delete {experiment}",
            err=True,
        )
    else:
        start = f"batch {checkpoints[0].batches}" if checkpoints else "batch 0"
        click.echo(
            f"When it is mended, go on from {start} with: trialrun resume {experiment}", err=True
        )
    return EXIT_FAILED


def _say_stopped(experiment: int) -> None:
    click.echo(f"Stopped at once. Go on with: trialrun resume {experiment}", err=True)


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
        for line in without_failures(printed.splitlines(), Path(folder)):
            click.echo(line)
    if result.end is AttemptEnd.COMPLETED:
        click.echo(
            f"The rehearsal on {count(config.slots, 'slot')} and "
            f"{count(num_processes, 'process')} went well: "
            "training, validation, a checkpoint, and a restore into a "
            "fresh trial that goes on to the same bits."
        )
        return 0
    assert result.failure is not None
    if result.failure.traceback:
        click.echo(result.failure.traceback, err=True)
    click.echo(f"The rehearsal failed: {result.failure.message}", err=True)
    return EXIT_FAILED
