"""Commands about whole experiments: ``pause``, ``kill``, ``wait`` and ``delete``."""

from __future__ import annotations

import click

from trialrun._wording import count
from trialrun.cli._options import home_options, open_database
from trialrun.controller.bookkeeping import RunState, get_experiment
from trialrun.controller.going_on import how_it_paused, how_to_go_on
from trialrun.controller.home import Home
from trialrun.controller.liveness import (
    kill_experiment,
    pause_experiment,
    trial_of_experiment,
    wait_for_experiment,
)

_EXIT_CODES = {RunState.COMPLETED: 0, RunState.PAUSED: 3}  # and 1 for every other


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
    click.echo(how_it_paused(get_experiment(database, experiment), trial.batches_completed))


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


@click.command()
@click.argument("experiment", type=int, metavar="EXP")
@home_options
def wait(experiment: int, home: Home) -> None:
    """Wait until an experiment does not run any more, and exit as its submit does.

    \b
    Example:
      trialrun wait 1 && trialrun predict 1 --output predictions

    \b
    Exit codes: 0 when it is complete, 3 when it was paused, 1 when it failed or was killed.
    """
    trial = wait_for_experiment(open_database(home), experiment)
    click.echo(
        f"Experiment {experiment} is {trial.state.name} after "
        f"{count(trial.batches_completed, 'batch')}."
    )
    raise SystemExit(_EXIT_CODES.get(trial.state, 1))


@click.command()
@click.argument("experiments", type=int, metavar="EXP...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@home_options
def delete(experiments: tuple[int, ...], yes: bool, home: Home) -> None:
    """Delete experiments for good: their records, logs and checkpoints.

    \b
    Example:
      trialrun delete 1
      trialrun delete 2 3 5 --yes
    """
    from trialrun.controller.deletion import delete_experiment

    database = open_database(home)
    for experiment in dict.fromkeys(experiments):
        row, trial = trial_of_experiment(database, experiment)
        if not yes:
            click.confirm(
                f"Delete experiment {experiment} ({row.name}), {trial.state.name} after "
                f"{count(trial.batches_completed, 'batch')}, and all files in {row.directory}?",
                abort=True,
            )
        delete_experiment(database, experiment)
        click.echo(f"Deleted experiment {experiment}.")
