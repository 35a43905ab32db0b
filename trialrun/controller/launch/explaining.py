"""Says in one sentence what has ended an attempt, and where in the user's code."""

from __future__ import annotations

import re
import sys
import traceback
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from trialrun._errors import ReducerError, TrialrunError
from trialrun.controller.engine.determinism import named_operation
from trialrun.controller.engine.parallel.lines import PeerLostError
from trialrun.controller.engine.parallel.slots import SlotError
from trialrun.controller.launch.failures import Failure, FailureKind

# What torch says when one was killed, such as for want of memory, or has called os._exit.
_LOST_LOADER_WORKER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))?[\d, ]+\) "
    r"(is killed by signal: [\w ]+|exited unexpectedly[\w ]*)"
)


def explain(
    error: BaseException, *, batches: int | None, process: int, user_folder: Path | None
) -> Failure:
    """Returns the failure that an exception stands for.

    Args:
        error: What was raised.
        batches: Batches completed; None while the trial was set up.
        process: Where it was raised.
        user_folder: Where the user's files are: the traceback begins with the first line from
            there. None: with the first of all.
    """
    place = "while the trial was set up" if batches is None else f"at batch {batches}"
    if isinstance(error, SlotError) and error.__cause__ is not None:
        place = f"in slot {error.slot} {place}"
        cause: BaseException = error.__cause__
    else:
        cause = error
    cause = named_operation(cause)
    lost_worker = _LOST_LOADER_WORKER.search(str(cause))
    if isinstance(cause, RuntimeError) and lost_worker:
        kind, trace = FailureKind.LOST, None
        message = f"Process {process} lost a loader worker {place}: {lost_worker[0]}."
    elif isinstance(cause, PeerLostError):
        kind, message, trace = FailureKind.PEER_LOST, str(cause), None
    elif isinstance(cause, TrialrunError):
        kind, message, trace = FailureKind.RULE, str(cause), None
        if batches is not None:
            message = f"{message} (At batch {batches}.)"
        if isinstance(cause, ReducerError) and cause.__cause__ is not None:
            trace = _traceback(cause.__cause__, user_folder)
    else:
        kind = FailureKind.USER_CODE
        message = f"{type(cause).__name__} {place}: {cause}{_namesake(cause, user_folder)}"
        if isinstance(cause, SystemExit):
            # Meant, so nothing to try again.
            kind = FailureKind.RULE
            argument = "" if cause.code is None else repr(cause.code)
            message = (
                f"The trial called sys.exit({argument}) {place}. To end it, call "
                "context.set_stop_requested(True), or raise an exception."
            )
        trace = _traceback(cause, user_folder)
    return Failure(
        kind=kind,
        message=message,
        traceback=trace,
        process=process,
        batches=batches,
        error=type(cause).__name__,
    )


def _namesake(error: BaseException, user_folder: Path | None) -> str:
    """Returns a sentence about a file of the user's that has the name of another module."""
    name = None
    if isinstance(error, ImportError):
        name = error.name
    elif isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        name = error.obj.__name__
    if not name:
        return ""
    name = name.partition(".")[0]
    own = {folder.resolve() for folder in (user_folder, Path.cwd()) if folder is not None}
    others = [entry for entry in sys.path if Path(entry).resolve() not in own]
    for file in [folder / part for folder in own for part in (f"{name}.py", f"{name}/__init__.py")]:
        if file.is_file() and (
            name in sys.stdlib_module_names or PathFinder.find_spec(name, others) is not None
        ):
            return (
                f". {file} has the name of another module, and one is taken for the other: rename "
                "the file."
            )
    return ""


def _traceback(error: BaseException, user_folder: Path | None) -> str:
    frame = error.__traceback__
    while (
        frame is not None
        and user_folder is not None
        and user_folder not in Path(frame.tb_frame.f_code.co_filename).parents
    ):
        frame = frame.tb_next
    lines = traceback.format_exception(type(error), error, frame or error.__traceback__)
    return "".join(lines).rstrip("\n")
