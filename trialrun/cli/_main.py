"""The group of all commands; a command's module is imported when it is called.

So ``trialrun list`` never pays for what ``trialrun submit`` needs.
"""

from __future__ import annotations

import importlib
import sys

import click

import trialrun
from trialrun._errors import TrialrunError

_COMMANDS = {
    "checkpoint": "trialrun.cli.checkpoint:checkpoint",
    "data": "trialrun.cli.data:data",
    "delete": "trialrun.cli.control:delete",
    "diff": "trialrun.cli.diff:diff",
    "evaluate": "trialrun.cli.inference:evaluate",
    "kill": "trialrun.cli.control:kill",
    "list": "trialrun.cli.read:list_command",
    "logs": "trialrun.cli.logs:logs",
    "metrics": "trialrun.cli.read:metrics",
    "pause": "trialrun.cli.control:pause",
    "predict": "trialrun.cli.inference:predict",
    "reducers": "trialrun.cli.reducers:reducers",
    "replay": "trialrun.cli.replay:replay",
    "resume": "trialrun.cli.run:resume",
    "show": "trialrun.cli.read:show",
    "submit": "trialrun.cli.run:submit",
    "verify": "trialrun.cli.verify:verify",
    "wait": "trialrun.cli.control:wait",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Stopped by Ctrl-C.", err=True)
            sys.exit(130)
        except TrialrunError as error:
            # Click prints it as it prints its own usage errors, and exits with 2.
            raise _Refused(str(error)) from error


class _Refused(click.ClickException):
    exit_code = 2


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(trialrun.__version__, prog_name="trialrun")
def main() -> None:
    """Train PyTorch models so that an interrupted run ends with the same bits.

    \b
    Example:
      trialrun submit trial.py --slots 4 --max-length 20ep
      trialrun pause 1
      trialrun resume 1 --processes 2

    \b
    Exit codes:
      0    done
      1    the trial failed
      2    wrong usage, or the request was refused
      3    the trial was paused before its end; trialrun resume goes on
      130  stopped at once by Ctrl-C, twice
    """
