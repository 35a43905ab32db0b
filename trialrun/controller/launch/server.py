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

START_METHOD = "forkserver"

_HASH_SEED = "PYTHONHASHSEED"
_NO_TRACKER_WARNINGS = "ignore:resource_tracker:UserWarning"

_PRELOADED = [
    "trialrun.controller.launch._server_signals",
    # The console script, which every process would otherwise import anew.
    "__main__",
    "trialrun.controller.launch.worker",
    # torch imports it when the first optimizer is made, which takes as long as torch itself.
    "torch._dynamo",
]


def start_server() -> None:
    """Starts the server, unless it runs, and returns at once."""
    # Whatever is killed leaves semaphores behind. They are cleaned up; nobody needs to hear of it.
    if _NO_TRACKER_WARNINGS not in sys.warnoptions:
        sys.warnoptions.append(_NO_TRACKER_WARNINGS)
    multiprocessing.set_forkserver_preload(_PRELOADED)
    with _fixed_hash_seed():
        forkserver.ensure_running()


@contextlib.contextmanager
def _fixed_hash_seed() -> Iterator[None]:
    """Starts the server so that sets of strings have one order in every attempt of a trial.

    Python reads this variable when a process starts, and nowhere else.
    """
    chosen = os.environ.get(_HASH_SEED)
    if chosen is None:
        os.environ[_HASH_SEED] = "0"
    try:
        yield
    finally:
        if chosen is None:
            del os.environ[_HASH_SEED]
