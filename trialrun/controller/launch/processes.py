"""Runs a function in P processes, and says why where they could not finish it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trialrun._errors import TrialrunError
from trialrun._units import Time
from trialrun.controller.launch.agent import Agent, ExitCodes
from trialrun.controller.launch.bell import Bell
from trialrun.controller.launch.child import log_file
from trialrun.controller.launch.failures import Failure, FailureKind, failure_file, first_failure
from trialrun.controller.launch.hanging import HangWatch, write_stacks
from trialrun.controller.launch.heartbeats import Heartbeats

logger = logging.getLogger(__name__)


def run_processes(
    function: Callable[[Any], Any],
    argument: Any,
    *,
    num_processes: int,
    folder: Path,
    bell: Bell,
    heartbeats: Heartbeats | None = None,
    hang_timeout_seconds: float | None = None,
) -> dict[int, Any] | Failure:
    """Starts processes under torch's elastic agent and waits for their end.

    None of them lives when this returns.

    Args:
        function: What each executes; it leaves its failure in the folder, and exits with 1.
        argument: What each gets.
        num_processes: P.
        folder: Where they leave their output and failures.
        bell: It goes dead when a process is lost, as the others can do nothing without that.
        heartbeats: Where they say that they go on; None: they do not.
        hang_timeout_seconds: After how long without a beat they are ended; None: never.

    Returns:
        What the function returned in each process; or why it has not.

    Raises:
        TrialrunError: No process could be started, or one does not end, not even when it is killed.
    """
    # The agent tells of every failure at length; what a user needs is in the failure files.
    logging.getLogger("torch").setLevel(logging.CRITICAL)

    beats = heartbeats
    if beats is None:
        beats = Heartbeats(num_processes)
        beats.close()  # shared with nobody
    hang: list[Failure] = []
    first_lost: ExitCodes = {}

    def on_loss(exit_codes: ExitCodes) -> None:
        first_lost.update(exit_codes)
        bell.hang_up()
        silent = _silent(folder, exit_codes)
        if silent and num_processes > 1 and not hang:
            logger.warning("%s The others are being ended.", _how_it_ended(silent[0], exit_codes))

    def on_hang(pids: list[int]) -> None:
        write_stacks(pids, [log_file(folder, process) for process in range(num_processes)])
        hang.append(_hang(beats.batches, hang_timeout_seconds, folder))

    agent = Agent(
        function,
        argument,
        num_processes=num_processes,
        log_folder=folder / "agent",
        on_loss=on_loss,
        is_hung=HangWatch(beats, hang_timeout_seconds).look,
        on_hang=on_hang,
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
    if outcomes is not None:
        return outcomes
    return hang[0] if hang else first_cause(folder, beats.batches, agent.exit_codes, first_lost)


def _hang(batches: int | None, timeout_seconds: float | None, folder: Path) -> Failure:
    assert timeout_seconds is not None
    return Failure(
        kind=FailureKind.HUNG,
        message=f"Nothing went on for {Time(timeout_seconds)} (hang_timeout) at batch {batches}. "
        f"Where each slot stood is in {log_file(folder, 0)} and those beside it.",
        traceback=None,
        process=0,
        batches=batches,
    )


def first_cause(
    folder: Path, batches: int | None, exit_codes: ExitCodes, first_lost: ExitCodes
) -> Failure:
    """Returns what came first of all that processes and the system say.

    Args:
        folder: Where processes have said why they failed.
        batches: Batches completed; None while the trial was set up.
        exit_codes: Of all processes.
        first_lost: Of those that were found to have ended when nobody had been told to.
    """
    killed = [rank for rank, code in first_lost.items() if code == -signal.SIGKILL]
    failure = first_failure(folder)
    # Whatever others say of it: while they join each other, torch has many words for a lost one.
    if not killed and failure is not None and failure.kind is not FailureKind.PEER_LOST:
        return failure
    silent = killed or _silent(folder, exit_codes)
    if failure is not None and not silent:
        return failure
    # Nobody has failed by itself: a process has ended, and could not say why. It is the first of
    # those: the others have missed it, or were ended for its sake.
    rank = min(silent or exit_codes, key=lambda rank: exit_codes[rank] >= 0)
    how = _how_it_ended(rank, exit_codes)
    return Failure(
        kind=FailureKind.LOST,
        message=f"{how} Its output is in {folder}.",
        traceback=None,
        process=rank,
        batches=batches,
    )


def _silent(folder: Path, exit_codes: ExitCodes) -> list[int]:
    """Returns the processes that have ended without a word."""
    return [rank for rank in exit_codes if not failure_file(folder, rank).exists()]


def _how_it_ended(rank: int, exit_codes: ExitCodes) -> str:
    code = exit_codes[rank]
    if code < 0:
        return f"Process {rank} was killed by {signal.Signals(-code).name}."
    return f"Process {rank} ended with exit code {code} before the trial was complete."
