"""What a process that a command has started does first: its output, and the line to its parent."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from trialrun.controller.engine.stopping import StopRequest
from trialrun.controller.launch.bell import BellListener


def log_file(folder: Path, process: int) -> Path:
    """Returns where a process's output goes."""
    return folder / f"process-{process}.log"


def redirect_output(path: Path) -> None:
    """Sends all output, of C libraries too, to the process's log file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a real file
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO, force=True)
    # What the trial logs is for its author; what libraries log is not, unless it warns.
    for library in ("torch", "sqlalchemy", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)


def start_children_as_usual() -> None:
    """Lets what the trial starts, such as workers of its own loaders, begin as anywhere else.

    A process that was forked by a server would have them forked by another: each would load torch
    anew, and could be given only what can be pickled.
    """
    multiprocessing.set_start_method(None, force=True)


def listen(stop_request: StopRequest, bell: BellListener, on_dead: Callable[[], None]) -> None:
    """Hears stop requests, and that the supervisor, or another process, is gone."""

    def listen() -> None:
        while bell.wait():
            stop_request.set()
        on_dead()

    threading.Thread(target=listen, name="supervisor-watch", daemon=True).start()
