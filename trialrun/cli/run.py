"""Commands that train: ``submit`` and ``resume``.

The first batch waits for the server, which loads torch; so it is started before anything that takes
long, and after everything that may be refused: it holds the output open for as long as it loads.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from trialrun.cli._options import home_options, open_database, submission_options
from trialrun.controller.home import Home
from trialrun.controller.launch.server import start_server
from trialrun.controller.trial_target import split_target
from trialrun.controller.warm_start import find_weights


@click.command()
@click.argument("target", metavar="FILE.py[:CLASS]")
@submission_options
@click.option("--processes", type=int, help="Physical workers; any divisor of the slots.")
@click.option("--max-length", metavar="LENGTH", help="20ep, 5000ba or 2h.")
@click.option("--max-restarts", type=int, help="After faults, from its newest checkpoint.")
@click.option("--name", help="For people. Default: the file's name.")
@click.option("--from-checkpoint", metavar="UUID|DIR", help="Begin with the weights of this one.")
@click.option(
    "--partial",
    "from_checkpoint_partial",
    is_flag=True,
    default=None,
    help="Of --from-checkpoint, take the weights that fit.",
)
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

    With --from-checkpoint the models begin with its weights. Nothing else of it is taken: no
    optimizer, clock, randomness, callbacks or state of the trial's own.

    Ctrl-C once, SIGTERM, or trialrun pause from another terminal: a checkpoint at the next batch
    boundary, then exit. Ctrl-C twice: stop now.
    """
    from trialrun.cli._submission import read_submission

    trial_file, trial_class = split_target(target)
    submission = read_submission(
        trial_file, trial_class, config_file, hyperparameters, flags, test_mode
    )
    config, trial_class = submission.config, submission.trial_class
    if submission.remarks:
        click.echo(submission.remarks, err=True)
    weights = None
    if config.from_checkpoint is not None:
        weights = find_weights(config.from_checkpoint, home)
    start_server()
    from trialrun.cli import _train
    from trialrun.controller.experiments import submit_experiment
    from trialrun.controller.launch.placement import choose_num_processes

    num_processes = choose_num_processes(config.processes, config)
    if test_mode:
        folder = None if weights is None else weights.folder
        sys.exit(_train.rehearse(trial_file, trial_class, config, num_processes, folder))

    database = open_database(home, create=True)
    _, trial = submit_experiment(
        database, home, trial_file=trial_file, trial_class=trial_class, config=config
    )
    sys.exit(_train.train(database, trial, num_processes))


@click.command()
@click.argument("experiment", type=int, metavar="EXP")
@click.option("--processes", type=int, help="Physical workers; any divisor of the slots.")
@click.option("--max-restarts", type=int, help="After faults, from now on. Default: as before.")
@home_options
def resume(experiment: int, processes: int | None, max_restarts: int | None, home: Home) -> None:
    """Go on with an experiment from its newest whole checkpoint.

    \b
    Example:
      trialrun resume 1 --processes 2

    The result is the same on any number of processes.
    """
    from trialrun.controller.experiments import resumable_trial

    database = open_database(home)
    trial, config = resumable_trial(database, experiment, processes, max_restarts)
    start_server()
    from trialrun.cli import _train
    from trialrun.controller.launch.placement import choose_num_processes

    num_processes = choose_num_processes(processes or config.processes, config)
    sys.exit(_train.train(database, trial, num_processes))
