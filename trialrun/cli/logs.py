"""The command that prints what training processes printed: ``logs``."""

from __future__ import annotations

import click

from trialrun.cli._options import home_options, json_option, open_database
from trialrun.cli._output import print_json
from trialrun.controller.bookkeeping import (
    attempts_of_trial,
    log_files_of_trial,
    running_attempts,
)
from trialrun.controller.home import Home
from trialrun.controller.liveness import bury_dead_attempts, trial_of_experiment
from trialrun.controller.logs import follow


@click.command()
@click.argument("experiment", type=int, metavar="EXP")
@click.option("-f", "--follow", "following", is_flag=True, help="Wait for more while it runs.")
@json_option
@home_options
def logs(experiment: int, following: bool, as_json: bool, home: Home) -> None:
    """Print what an experiment's processes printed, attempt by attempt.

    \b
    Example:
      trialrun logs 1 -f
    """
    database = open_database(home)
    _, trial = trial_of_experiment(database, experiment)
    numbers = {attempt.id: attempt.number for attempt in attempts_of_trial(database, trial.id)}

    def is_running() -> bool:
        bury_dead_attempts(database)
        return following and not as_json and bool(running_attempts(database, trial_id=trial.id))

    lines = follow(log_files_of_trial(database, trial.id), is_running)
    if as_json:
        print_json(
            [
                {"attempt": numbers[row.attempt_id], "process": row.process, "line": line}
                for row, line in lines
            ]
        )
        return
    for row, line in lines:
        click.echo(f"[attempt {numbers[row.attempt_id]}, process {row.process}] {line}")
