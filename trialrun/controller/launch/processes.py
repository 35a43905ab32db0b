"""Runs a function in P processes, and says why where they could not finish it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trialrun._errors import TrialrunError
from trialrun.controller.launch.agent import Agent, ExitCodes
from trialrun.controller.launch.bell import Bell
from trialrun.controller.launch.failures import Failure, FailureKind, failure_file, first_failure

logger = logging.getLogger(__name__)


def run_processes(
    function: Callable[[Any], Any],
    argument: Any,
    *,
    num_processes: int,
    folder: Path,
    bell: Bell,
) -> dict[int, Any] | Failure:
    """Starts processes under torch's elastic agent and waits for their end.

    Args:
        function: What each executes; it leaves its failure in the folder, and exits with 1.
        argument: What each gets.
        num_processes: P.
        folder: Where they leave their output and failures.
        bell: It goes dead when a process is lost, as the others can do nothing without that.

    Returns:
        What the function returned in each process; or why it has not.

    Raises:
        TrialrunError: No process could be started.
    """
    # The agent tells of every failure at length; what a user needs is in the failure files.
    logging.getLogger("torch").setLevel(logging.CRITICAL)

    def on_loss(exit_codes: ExitCodes) -> None:
        bell.hang_up()
        silent = _silent(folder, exit_codes)
        if silent and num_processes > 1:
            logger.warning("%s The others are being ended.", _how_it_ended(silent[0], exit_codes))

    agent = Agent(
        function,
        argument,
        num_processes=num_processes,
        log_folder=folder / "agent",
        on_loss=on_loss,
    )
    try:
        outcomes = agent.run_all()
    except EOFError as error:  # of the connection to the server
        raise TrialrunError(
            "The server from which processes are forked ended before it could fork them. What it "
            "printed, if anything, stands above: such as an error of a module that it loads, or of "
            "a file that has the name of one; rename that. It may also have been killed for want "
            "of memory."
        ) from error
    return _explain(folder, agent.exit_codes) if outcomes is None else outcomes


def _explain(folder: Path, exit_codes: ExitCodes) -> Failure:
    failure = first_failure(folder)
    if failure is not None and failure.kind is not FailureKind.PEER_LOST:
        return failure
    # Nobody has failed by itself: a process has ended, and could not say why. It is the first of
    # those: the others have missed it, or were ended for its sake.
    rank = (_silent(folder, exit_codes) or list(exit_codes))[0]
    how = _how_it_ended(rank, exit_codes)
    return Failure(
        kind=FailureKind.INTERNAL,
        message=f"{how} Its output is in {folder}.",
        traceback=None,
        process=rank,
    )


def _silent(folder: Path, exit_codes: ExitCodes) -> list[int]:
    """Returns the processes that have ended without a word."""
    return [rank for rank in exit_codes if not failure_file(folder, rank).exists()]


def _how_it_ended(rank: int, exit_codes: ExitCodes) -> str:
    code = exit_codes[rank]
    if code < 0:
        return f"Process {rank} was killed by {signal.Signals(-code).name}."
    return f"Process {rank} ended with exit code {code} before the trial was complete."
