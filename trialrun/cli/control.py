"""Commands that end a running experiment: ``pause`` and ``kill``."""

from __future__ import annotations

import click

from trialrun.cli._options import home_options, open_database
from trialrun.controller.bookkeeping import RunState, get_experiment
from trialrun.controller.going_on import how_to_go_on
from trialrun.controller.home import Home
from trialrun.controller.liveness import kill_experiment, pause_experiment


@click.command()
@click.argument("experiment", type=int, metavar="EXP")
@click.option("--no-wait", is_flag=True, help="Ask, and do not wait until it has stopped.")
@home_options
def pause(experiment: int, no_wait: bool, home: Home) -> None:
    """Stop a running experiment at its next batch boundary, with a checkpoint.

    \b
    Example:
      trialrun pause 1
    """
    database = open_database(home)
    trial = pause_experiment(database, experiment, wait=not no_wait)
    if no_wait:
        click.echo(f"Asked experiment {experiment} to pause.")
        return
    if trial.state is RunState.COMPLETED:
        click.echo(f"Experiment {experiment} was complete before it could pause.")
        return
    if trial.state is not RunState.PAUSED:
        raise click.ClickException(
            f"Experiment {experiment} did not pause: it is {trial.state.name}. "
            f"trialrun show {experiment} says why."
        )
    click.echo(
        f"Paused experiment {experiment} after {trial.batches_completed} batches. Go on with:\n"
        f"{how_to_go_on(get_experiment(database, experiment))}"
    )


@click.command()
@click.argument("experiment", type=int, metavar="EXP")
@home_options
def kill(experiment: int, home: Home) -> None:
    """End a running experiment at once, without a checkpoint.

    \b
    Example:
      trialrun kill 1
    """
    database = open_database(home)
    kill_experiment(database, experiment)
    click.echo(f"Killed experiment {experiment}. Go on from its newest checkpoint with:")
    click.echo(how_to_go_on(get_experiment(database, experiment)))
