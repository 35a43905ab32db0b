"""The command ``verify``: the promise of equal bits, proved on the user's own trial."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trialrun._wording import count
from trialrun.cli._options import json_option, submission_options
from trialrun.cli._output import print_json
from trialrun.controller.launch.server import start_server
from trialrun.controller.trial_target import split_target

if TYPE_CHECKING:
    from trialrun.controller.verification.verifying import Report, ScenarioResult

_EXIT_STOPPED = 130


@click.command()
@click.argument("target", metavar="FILE.py[:CLASS]")
@submission_options
@click.option("--batches", "num_batches", default=24, show_default=True, help="Of each run.")
@json_option
def verify(
    target: str,
    config_file: str | None,
    hyperparameters: tuple[str, ...],
    num_batches: int,
    as_json: bool,
    **flags: Any,
) -> None:
    """Prove that a trial gives the same bits from any stop, on any number of processes.

    \b
    Example:
      trialrun verify examples/digits/trial.py --slots 4

    It trains a few batches straight; then again, on other numbers of processes, with other loader
    workers and periods, and stopped in an epoch, at its end, in an aggregation window, during a
    validation and while a checkpoint is written, by request and by kill -9. All that each slot was
    given, all metrics and every checkpoint are compared. Nothing is left on record.

    Exit code 0: all runs ended with the same bits. 1: some did not; it says which, where they part
    and what may be the cause. Lengths and periods of the configuration do not matter.
    """
    from trialrun.cli._submission import read_submission

    if num_batches < 4:
        raise click.BadParameter(
            f"{num_batches} is too few for stops in between. Give 4 or more.",
            param_hint="--batches",
        )
    trial_file, trial_class = split_target(target)
    submission = read_submission(
        trial_file, trial_class, config_file, hyperparameters, flags, test_mode=True
    )
    start_server()
    from trialrun.controller.launch.placement import all_num_processes
    from trialrun.controller.verification.verifying import (
        InterruptedVerificationError,
        Subject,
        Verification,
    )

    subject = Subject(
        trial_file=trial_file,
        trial_class=submission.trial_class,
        config=submission.config,
        num_batches=num_batches,
        processes=all_num_processes(submission.config),
    )
    # Of processes that are killed on purpose.
    logging.getLogger("trialrun").setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="trialrun-verify-"))

    def stop_now() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(_EXIT_STOPPED)

    if not as_json:
        click.echo(
            f"{trial_file.name}: {count(submission.config.slots, 'slot')}, runs of "
            f"{count(subject.total_batches, 'batch')}, compared with a straight run on 1 process:"
        )
    try:
        report = Verification(subject, folder, stop_now).run(
            (lambda _: None) if as_json else _print_result
        )
    except InterruptedVerificationError as error:
        click.echo(str(error), err=True)
        raise SystemExit(_EXIT_STOPPED) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        print_json(report.to_json())
    else:
        _print_end(report)
    raise SystemExit(0 if report.holds else 1)


def _print_result(result: ScenarioResult) -> None:
    processes = ", then ".join(map(str, result.scenario.processes))
    where = "" if len(result.scenario.legs) == 1 else f" (processes: {processes})"
    click.echo(f"  {'equal  ' if result.holds else 'DIFFERS'} {result.scenario.name}{where}")
    if result.failure is not None:
        click.echo(f"          the run failed: {result.failure}")
    if result.parting is not None:
        for difference in result.parting.differences:
            click.echo(f"          {difference}")


def _print_end(report: Report) -> None:
    from trialrun.controller.checkpoints.digest_text import short

    held = sum(result.holds for result in report.results)
    if report.holds:
        click.echo(
            f"Trained in {held} other ways, {count(report.batches, 'batch')} end with the same "
            f"bits: digest {short(report.digest)}."
        )
        return
    click.echo(f"Ways that differ: {len(report.results) - held} of {len(report.results)}.")
    if not report.is_repeatable:
        click.echo(
            "The same run differs from itself, so nothing could be seen in others: they were not "
            "made. Mend that, and verify again."
        )
    if report.causes:
        click.echo("Likely causes:")
    for cause in report.causes:
        click.echo(f"  - {cause}")
