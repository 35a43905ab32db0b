"""Commands that train: ``submit`` and ``resume``."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from trialrun._errors import ConfigurationError
from trialrun.cli._options import home_options, open_database
from trialrun.controller.config import (
    ExperimentConfig,
    not_divisible,
    parse_hyperparameter,
    read_config,
    read_config_file,
)
from trialrun.controller.home import Home
from trialrun.controller.trial_target import split_target

EXIT_FAILED = 1
EXIT_PAUSED = 3
EXIT_STOPPED_AT_ONCE = 130


@click.command()
@click.argument("target", metavar="FILE.py[:CLASS]")
@click.option("--config", "config_file", metavar="FILE.yaml", help="Default: trial.yaml beside it.")
@click.option("--slots", type=int, help="Logical workers that share each batch.")
@click.option("--processes", type=int, help="Physical workers; any divisor of the slots.")
@click.option("--hp", "hyperparameters", multiple=True, metavar="NAME=VALUE", help="Repeatable.")
@click.option("--max-length", metavar="LENGTH", help="20ep, 5000ba or 2h.")
@click.option("--seed", type=int, help="All randomness is a function of it. Default: 0.")
@click.option("--name", help="For people. Default: the file's name.")
@click.option("--test-mode", is_flag=True, help="Rehearse: train, checkpoint, restore, compare.")
@home_options
def submit(
    target: str,
    config_file: str | None,
    hyperparameters: tuple[str, ...],
    test_mode: bool,
    home: Home,
    **flags: Any,
) -> None:
    """Train a trial.

    \b
    Example:
      trialrun submit examples/digits/trial.py --slots 4 --hp lr=0.05 --max-length 10ep

    Ctrl-C once, SIGTERM, or trialrun pause from another terminal: a checkpoint at the next batch
    boundary, then exit. Ctrl-C twice: stop now.
    """
    trial_file, trial_class = split_target(target)
    config = _read_config(trial_file, config_file, hyperparameters, flags, test_mode)
    from trialrun.controller.launch.server import start_server

    # The server loads torch while this process records and prepares.
    start_server()
    if test_mode:
        sys.exit(_rehearse(trial_file, trial_class, config))
    from trialrun.controller.experiments import submit_experiment

    database = open_database(home)
    _, trial = submit_experiment(
        database, home, trial_file=trial_file, trial_class=trial_class, config=config
    )
    sys.exit(_train(database, trial.id, config.processes))


@click.command()
@click.argument("experiment", type=int, metavar="EXP")
@click.option("--processes", type=int, help="Physical workers; any divisor of the slots.")
@home_options
def resume(experiment: int, processes: int | None, home: Home) -> None:
    """Go on with an experiment from its newest whole checkpoint.

    \b
    Example:
      trialrun resume 1 --processes 2

    The result is the same on any number of processes.
    """
    from trialrun.controller.liveness import trial_of_experiment

    database = open_database(home)
    row, trial = trial_of_experiment(database, experiment)
    config = read_config(row.config)
    if processes is not None and (processes < 1 or config.slots % processes):
        raise ConfigurationError(not_divisible(config.slots, processes))
    from trialrun.controller.launch.server import start_server

    start_server()
    sys.exit(_train(database, trial.id, processes or config.processes))


def _read_config(
    trial_file: Path,
    config_file: str | None,
    hyperparameters: tuple[str, ...],
    flags: dict[str, Any],
    test_mode: bool,
) -> ExperimentConfig:
    beside = trial_file.with_name("trial.yaml")
    data: dict[str, Any] = {}
    if config_file is not None:
        data = read_config_file(Path(config_file))
    elif beside.is_file():
        data = read_config_file(beside)
    known = data.get("hyperparameters")
    values = dict(known) if isinstance(known, dict) else {}
    values.update(parse_hyperparameter(text, values) for text in hyperparameters)
    if values:
        data["hyperparameters"] = values
    data.update({name: value for name, value in flags.items() if value is not None})
    if test_mode:
        data.setdefault("max_length", "1ep")  # a rehearsal has its own
    return read_config(data)


def _train(database: Any, trial_id: int, processes: int | None) -> int:
    from trialrun.cli._progress import AttemptView
    from trialrun.controller.bookkeeping import get_trial
    from trialrun.controller.experiments import prepared_attempt, trial_slots
    from trialrun.controller.launch.placement import choose_num_processes
    from trialrun.controller.launch.run import run_attempt
    from trialrun.controller.launch.supervisor import AttemptEnd

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


def _rehearse(trial_file: Path, trial_class: str | None, config: ExperimentConfig) -> int:
    from trialrun.controller.launch.placement import choose_num_processes, threads_per_slot
    from trialrun.controller.launch.run import run_rehearsal
    from trialrun.controller.launch.supervisor import AttemptEnd

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
