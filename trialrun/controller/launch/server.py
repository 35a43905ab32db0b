"""The server from which training processes are forked, with torch loaded already.

Loading torch takes a second and more. The server begins with it as soon as a command knows that it
will train, while the command itself checks and records; each process is then a fork, which takes
milliseconds. The server never computes, so a fork of it is safe, with CUDA too.
"""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing import forkserver

START_METHOD = "forkserver"

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
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    multiprocessing.set_forkserver_preload(_PRELOADED)
    forkserver.ensure_running()
