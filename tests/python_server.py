"""A Python that has loaded torch, and forks itself for each process that a test starts.

Loading torch takes seconds; a fork takes milliseconds. What is forked becomes a process as ``python
ARGUMENTS`` would be one: the leader of a session of its own, with its own folder, environment,
streams, ``sys.argv``, ``sys.path`` and ``__main__``, with Python's signal handlers, and with the
interpreter's own end. It is forked from a server that has done nothing but import, so it holds no
thread, connection, lock or random state of an earlier one.

Each process has a spare one: a fork that was made before it did anything. When the process starts
the server of ``multiprocessing``, as commands that train do, the spare one becomes that server.

Loads nothing of the tests, and is started by ``python_start``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import threading
import types
from collections.abc import Sequence
from multiprocessing import util
from pathlib import Path
from typing import Any

MAX_REQUEST_BYTES = 150_000
NUM_STREAMS = 3

_PRELOADED = (
    "numpy",
    "torch",
    "torch._dynamo",
    "alembic.command",
    "trialrun.controller.launch.worker",
    "trialrun.controller.trainer",
)
_MULTIPROCESSING = "from multiprocessing.forkserver import main; "

_SIGNALS_TO_ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What a process shall be.

    Args:
        arguments: Those of ``python``: a file, ``-m`` and a module, or ``-c`` and code; then those
            of the program.
        folder: Where it starts.
        environment: All variables.
    """

    arguments: list[str]
    folder: str
    environment: dict[str, str]

    def to_bytes(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Request:
        return cls(**json.loads(data))


def main(descriptor: int) -> None:
    """Serves; in each forked process, is that process.

    Args:
        descriptor: Of a socket. With each request come its streams, and a pipe that is told the
            identity of the process and, when it ends, its exit code.
    """
    installed = _path_of_installed_modules()
    _load()
    assert threading.active_count() == 1, threading.enumerate()
    request = _serve(socket.socket(fileno=descriptor))
    _refresh(request)
    later = _fork_spare_process()
    if later is not None:
        request = later
        _refresh(request)
    _run(request.arguments, installed)


def _load() -> None:
    for name in _PRELOADED:
        importlib.import_module(name)
    commands = importlib.import_module("trialrun.cli")
    for module in pkgutil.iter_modules(commands.__path__, "trialrun.cli."):
        importlib.import_module(module.name)
    # Else the collector would write into the pages that all processes share.
    gc.collect()
    gc.freeze()


def _path_of_installed_modules() -> list[str]:
    """Returns the folders of installed modules: ``sys.path`` without what a process adds to it."""
    added = [str(Path(name).absolute()) for name in _folders(os.environ)]
    return [name for name in sys.path[1:] if name not in added]


def _folders(environment: Any) -> list[str]:
    return [name for name in environment.get("PYTHONPATH", "").split(os.pathsep) if name]


def _serve(requests: socket.socket) -> Request:
    """Forks a process for each request and returns in it; ends when nobody can ask any more."""
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    running: dict[int, tuple[int, int]] = {}
    while True:
        for key, _ in selector.select():
            if key.fd in running:
                selector.unregister(key.fd)
                os.close(key.fd)
                process, told = running.pop(key.fd)
                _, status = os.waitpid(process, 0)
                _tell(told, os.waitstatus_to_exitcode(status))
                os.close(told)
                continue
            data, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, NUM_STREAMS + 1)
            if not data:
                sys.exit()
            process = os.fork()
            if process == 0:
                selector.close()
                requests.close()
                for pair in running.items():
                    os.close(pair[0])
                    os.close(pair[1][1])
                os.setsid()
                for number, descriptor in enumerate(descriptors[:NUM_STREAMS]):
                    os.dup2(descriptor, number)
                for descriptor in descriptors:
                    os.close(descriptor)
                return Request.from_bytes(data)
            *streams, told = descriptors
            for descriptor in streams:
                os.close(descriptor)
            _tell(told, process)
            watched = os.pidfd_open(process)
            selector.register(watched, selectors.EVENT_READ)
            running[watched] = (process, told)


def _tell(pipe: int, number: int) -> None:
    # Whoever asked may be gone.
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe, f"{number}\n".encode())


def _refresh(request: Request) -> None:
    """Gives a forked process what an interpreter takes from its surroundings when it starts."""
    for number in _SIGNALS_TO_ALL:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    tempfile.tempdir = None
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())  # type: ignore[union-attr]
    # Where nobody seeds them they begin anywhere; ``random`` does so by itself.
    importlib.import_module("numpy").random.seed()
    importlib.import_module("torch").default_generator.seed()


def _run(arguments: Sequence[str], installed: list[str]) -> None:
    """Does what ``python ARGUMENTS`` does; exceptions are for the interpreter to handle."""
    program, *rest = arguments
    is_file = program not in ("-c", "-m")
    what = str(Path(program).absolute()) if is_file else rest.pop(0)
    sys.argv[:] = [program, *rest]
    first = str(Path(what).resolve().parent) if is_file else os.getcwd() if program == "-m" else ""
    sys.path[:] = [first, *_folders(os.environ), *installed]
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    if program == "-m":
        runpy._run_module_as_main(what)  # type: ignore[attr-defined]  # as Python itself does it
        return
    source: str | bytes = what
    if is_file:
        source = Path(what).read_bytes()
        module.__dict__["__file__"] = what
    exec(compile(source, what if is_file else "<string>", "exec"), module.__dict__)


def _fork_spare_process() -> Request | None:
    """Returns None in the process itself; in the spare one, in time, what it shall be."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    spare = os.fork()
    if spare == 0:
        ours.close()
        return _wait_as_spare(theirs)
    theirs.close()
    spawn = util.spawnv_passfds

    def use_spare_or_spawn(path: Any, arguments: Any, descriptors: Any) -> int:
        option, code = arguments[-2:]
        if ours.fileno() == -1 or option != "-c" or not code.startswith(_MULTIPROCESSING):
            return spawn(path, arguments, descriptors)
        request = Request(
            arguments=[option, code], folder=os.getcwd(), environment=dict(os.environ)
        )
        with ours:
            # The code names each by the number that it has here.
            socket.send_fds(ours, [json.dumps(list(descriptors)).encode()], descriptors)
            ours.send(request.to_bytes())
        return spare

    util.spawnv_passfds = use_spare_or_spawn
    return None


def _wait_as_spare(asked: socket.socket) -> Request:
    """Returns what this process shall be; ends with the other process where it needs none."""
    for number in _SIGNALS_TO_ALL:
        signal.signal(number, signal.SIG_IGN)
    with asked:
        message, descriptors, _, _ = socket.recv_fds(asked, MAX_REQUEST_BYTES, 8)
        request = asked.recv(MAX_REQUEST_BYTES)
    if not request:
        os._exit(0)
    # First out of each other's way.
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for descriptor, number in zip(moved, json.loads(message), strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return Request.from_bytes(request)


if __name__ == "__main__":
    main(int(sys.argv[1]))
