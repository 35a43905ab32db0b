"""The server from which training processes are forked, with torch loaded already.

Loading torch takes a second and more. The server begins with it as soon as a command knows that it
will train, while the command itself checks and records; each process is then a fork, which takes
milliseconds. The server never computes, so a fork of it is safe, with CUDA too.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver

START_METHOD = "forkserver"


def start_server() -> None:
    """Starts the server, unless it runs, and returns at once."""
    # "__main__": the console script, which every process would otherwise import anew.
    multiprocessing.set_forkserver_preload(["__main__", "trialrun.controller.launch.worker"])
    forkserver.ensure_running()
