"""Types commands without the seconds that each takes to import torch.

One process has it all loaded and forks for each command: the command is a process group of its own
as any, and is killed as any, but it and all others share one server of training processes.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

_PATIENCE_SECONDS = 120.0
_LOADED = ["trialrun.cli.run", "trialrun.cli._train", "trialrun.controller.experiments"]
"""What commands that train load for themselves, torch above all."""


class Command:
    """A command that runs."""

    def __init__(self, pid: int, output: Path) -> None:
        self.pid = pid
        self._output = output
        self._code: int | None = None

    @property
    def text(self) -> str:
        """All that it has printed."""
        return self._output.read_text(encoding="utf-8", errors="replace")


class Shell:
    """Forks commands; use ``open_shell``."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._num_commands = 0

    def start(self, *arguments: str, home: Path, folder: Path) -> Command:
        """Starts a command in a folder."""
        self._num_commands += 1
        output = self._folder / f"command-{self._num_commands}.txt"
        request = {
            "arguments": arguments,
            "home": str(home),
            "folder": str(folder),
            "output": str(output),
        }
        return Command(self._ask(request)["pid"], output)

    def poll(self, command: Command) -> int | None:
        """Returns the exit code, minus the signal that ended it, or None while it runs."""
        if command._code is None:
            command._code = self._ask({"poll": command.pid})["code"]
        return command._code

    def finish(self, command: Command) -> int:
        """Waits for its end."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (code := self.poll(command)) is None:
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(command.pid, signal.SIGKILL)
                raise AssertionError(f"It does not end. It printed:\n{command.text}")
            time.sleep(0.02)
        return code

    def run(self, *arguments: str, home: Path, folder: Path) -> tuple[int, str]:
        """Runs a command to its end; returns its exit code and what it printed."""
        command = self.start(*arguments, home=home, folder=folder)
        return self.finish(command), command.text

    def training_processes(self) -> list[psutil.Process]:
        """All that train now, by what they write to."""
        return [process for process in self._forked() if _is_training(process)]

    def loader_workers(self) -> list[psutil.Process]:
        """The children of those that train."""
        workers = []
        for process in self.training_processes():
            with contextlib.suppress(psutil.Error):
                workers += process.children()
        return workers

    def _forked(self) -> list[psutil.Process]:
        return [
            child
            for server in psutil.Process(self._process.pid).children()
            for child in _children(server)
        ]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.Error:
        return []


def _is_training(process: psutil.Process) -> bool:
    try:
        return "/process-" in os.readlink(f"/proc/{process.pid}/fd/1")
    except OSError:
        return False


@contextlib.contextmanager
def open_shell(folder: Path) -> Iterator[Shell]:
    """Starts the process that forks commands.

    Args:
        folder: For what commands print.
    """
    process = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield Shell(process, folder)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(_PATIENCE_SECONDS)


def _serve() -> None:
    """Forks a command for each line of stdin that asks for one, and says how each has ended."""
    from multiprocessing import forkserver

    from trialrun.controller.launch.server import start_server

    start_server()
    for module in _LOADED:
        importlib.import_module(module)
    gc.freeze()  # so that a fork need not look through it
    server = forkserver._forkserver  # type: ignore[attr-defined]  # typeshed does not tell of it
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if pid else None}
        else:
            pid = os.fork()
            if pid == 0:
                # The server is no child of the command, which can so not ask whether it lives.
                forkserver.ensure_running = server.ensure_running = lambda: None
                _become(request)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


def _become(request: dict[str, Any]) -> None:
    from trialrun.cli import main

    os.setsid()
    os.chdir(request["folder"])
    os.environ["TRIALRUN_HOME"] = request["home"]
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["trialrun", *request["arguments"]]
    code: object = 1
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    _serve()
