"""The command ``replay``: a recorded stretch is trained again and compared."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from trialrun._wording import count
from trialrun.cli._options import home_options, json_option, open_database
from trialrun.cli._output import print_json
from trialrun.controller.checkpoints.digest_text import short
from trialrun.controller.home import Home
from trialrun.controller.launch.server import start_server

if TYPE_CHECKING:
    from trialrun.controller.replay_plan import ReplayPlan
    from trialrun.controller.replaying import Compared, ReplayResult

_EXIT_STOPPED_AT_ONCE = 130


@click.command()
@click.argument("experiment", type=int, metavar="EXP")
@click.option("--from", "first", required=True, metavar="CKPT|start", help="Where to begin.")
@click.option("--to", "last", required=True, metavar="CKPT", help="The checkpoint to end at.")
@click.option("--processes", type=int, help="Physical workers; any divisor of the slots.")
@json_option
@home_options
def replay(
    experiment: int, first: str, last: str, processes: int | None, as_json: bool, home: Home
) -> None:
    """Train a recorded stretch again and compare it with the digest of each checkpoint in it.

    \b
    Example:
      trialrun replay 1 --from 1:400 --to latest --processes 2
      trialrun replay 1 --from start --to 3f2a

    A checkpoint is the beginning of a UUID, EXP:BATCH, best or latest. The submitted code and
    configuration are used; nothing is recorded. Checkpoints whose files were deleted still have
    their digests to compare with. At the first difference it stops. Exit code 0: all are equal.
    """
    from trialrun.controller.replay_plan import plan_replay

    database = open_database(home)
    plan = plan_replay(database, experiment, first, last, processes)
    start_server()
    from trialrun.controller.launch.placement import choose_num_processes
    from trialrun.controller.replaying import run_replay

    num_processes = choose_num_processes(processes or plan.config.processes, plan.config)
    if not as_json:
        click.echo(_headline(plan, num_processes))

    def stop_now() -> None:
        click.echo("Stopped at once; nothing was recorded.", err=True)
        os._exit(_EXIT_STOPPED_AT_ONCE)

    result = run_replay(
        database,
        plan,
        num_processes,
        on_compared=(lambda compared: None) if as_json else _say,
        on_kill=stop_now,
    )
    if as_json:
        print_json(_as_json(plan, result))
    else:
        _print_result(plan, result)
    raise SystemExit(0 if result.is_equal else 1)


def _headline(plan: ReplayPlan, num_processes: int) -> str:
    begin = "batch 0" if plan.first is None else f"batch {plan.first.batches}"
    code = "" if str(plan.source) == plan.experiment.trial_file else ", with the submitted code"
    return (
        f"Experiment {plan.experiment.id} again from {begin} to batch {plan.last.batches}, on "
        f"{count(num_processes, 'process')}{code}: {count(len(plan.recorded), 'checkpoint')} to "
        "compare"
    )


def _say(compared: Compared) -> None:
    row = compared.recorded
    if compared.is_equal:
        click.echo(f"batch {row.batches}: equal, {short(row.digest)}")
    else:
        click.echo(
            f"batch {row.batches}: different, {short(row.digest)} was recorded and the replay has "
            f"{short(compared.digest)}"
        )


def _print_result(plan: ReplayPlan, result: ReplayResult) -> None:
    for sentence in result.environment:
        click.echo(f"Warning: {sentence}", err=True)
    parted = result.parted_at
    if result.end.failure is not None:
        click.echo(f"The replay failed: {result.end.failure.message}", err=True)
    if parted is not None:
        click.echo(
            f"The bits parted between batch {_last_equal(plan, result)} and batch "
            f"{parted.recorded.batches}, checkpoint {parted.recorded.uuid}."
        )
        if result.difference is None:
            click.echo("Its files are gone, so which tensor it was cannot be said.")
        else:
            from trialrun.cli.diff import print_comparison

            print_comparison(result.difference)
    elif result.missing:
        click.echo(
            f"The replay ended before batch {result.missing[0].batches}: "
            f"{count(len(result.missing), 'checkpoint')} could not be compared.",
            err=True,
        )
    else:
        click.echo(f"Equal: {count(len(result.compared), 'checkpoint')}, bit for bit.")


def _last_equal(plan: ReplayPlan, result: ReplayResult) -> int:
    equal = [each.recorded.batches for each in result.compared if each.is_equal]
    return max(equal, default=plan.first_batch)


def _as_json(plan: ReplayPlan, result: ReplayResult) -> dict[str, Any]:
    parted, failure = result.parted_at, result.end.failure
    return {
        "experiment": plan.experiment.id,
        "from": None if plan.first is None else plan.first.uuid,
        "from_batch": plan.first_batch,
        "to": plan.last.uuid,
        "to_batch": plan.last.batches,
        "equal": result.is_equal,
        "checkpoints": [
            {
                "batches": each.recorded.batches,
                "uuid": each.recorded.uuid,
                "recorded": each.recorded.digest,
                "replayed": each.digest,
                "equal": each.is_equal,
            }
            for each in result.compared
        ],
        "not_compared": [row.uuid for row in result.missing],
        "parted": None
        if parted is None
        else {"after": _last_equal(plan, result), "at": parted.recorded.batches},
        "difference": None if result.difference is None else result.difference.to_json(),
        "environment": result.environment,
        "error": None if failure is None else failure.message,
    }
