"""The server from which training processes are forked, with torch loaded already.

Loading torch takes a second and more. The server begins with it as soon as a command knows that it
will train, while the command itself checks and records; each process is then a fork, which takes
milliseconds. The server never computes, so a fork of it is safe, with CUDA too.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator
from multiprocessing import forkserver

_NO_TRACKER_WARNINGS = "ignore:resource_tracker:UserWarning"

SAFE_PATH = "PYTHONSAFEPATH"
"""Where it says anything, Python does not search the current folder for modules."""
SAFE_PATH_OF_SERVER = "while the server of trialrun starts"
"""What it says where the user has not chosen that."""

# Sets of strings have one order in every attempt of a trial; files of the user's that have the name
# of one of Python's modules do not stand in for it.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", SAFE_PATH: SAFE_PATH_OF_SERVER}

_PRELOADED = [
    "trialrun.controller.launch._server_signals",
    # The console script, which every process would otherwise import anew.
    "__main__",
    "trialrun.controller.launch.worker",
    # torch imports it when the first optimizer is made, which takes as long as torch itself.
    "torch._dynamo",
    "trialrun.controller.launch._server_environment",
]


def start_server() -> None:
    """Starts the server, unless it runs, and returns at once."""
    # Whatever is killed leaves semaphores behind. They are cleaned up; nobody needs to hear of it.
    if _NO_TRACKER_WARNINGS not in sys.warnoptions:
        sys.warnoptions.append(_NO_TRACKER_WARNINGS)
    multiprocessing.set_forkserver_preload(_PRELOADED)
    with _environment():
        forkserver.ensure_running()


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Starts the server with variables that Python reads when a process starts, and nowhere else.

    What the user has chosen stays.
    """
    added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
