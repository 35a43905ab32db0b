"""Starts Python as a process of its own, in no time: it is forked from a server that has torch.

What must be a new interpreter in truth, such as one that shall load no torch, is started by
``subprocess``; so is what has variables in its environment that an interpreter or a library reads
once, when it starts: those are refused here.
"""

from __future__ import annotations

import functools
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import python_server
from python_server import MAX_REQUEST_BYTES, Request

ENVIRONMENT = dict(os.environ)
"""As it was before tests, and libraries that they import, have changed it."""

PATIENCE_SECONDS = 120.0
"""After this a test gives up; nothing that works comes near it."""

# What an interpreter or a library reads when it starts, and never again.
_READ_ONCE = ("PYTHON", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "TORCH", "LD_", "CUDA_")

_CALL = """
import pickle
import sys

with open(sys.argv[1], "rb") as file:
    function, arguments = pickle.load(file)
with open(sys.argv[2], "wb") as file:
    pickle.dump(function(*arguments), file)
"""


class PythonProcess:
    """A process that was started; what ``subprocess.Popen`` knows of one.

    Args:
        told: The pipe on which the server tells of it.
    """

    pid: int
    returncode: int | None
    """Or minus the signal that killed it; None while it runs."""

    def __init__(self, told: IO[bytes]) -> None:
        first = told.readline()
        assert first, "The server of python_start has ended; its output says why."
        self.pid = int(first)
        self.returncode = None
        self._told = told

    def poll(self) -> int | None:
        """Returns its exit code if it has ended."""
        return self._look(0)

    def wait(self, timeout: float) -> int:
        """Waits until it has ended.

        Raises:
            subprocess.TimeoutExpired: It has not.
        """
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return code

    def _look(self, timeout: float) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], timeout)[0]:
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode


def start_python(
    *arguments: str,
    folder: Path,
    environment: Mapping[str, str],
    streams: tuple[int, int, int],
) -> PythonProcess:
    """Starts ``python ARGUMENTS`` as the leader of a session.

    Args:
        arguments: A file, ``-m`` and a module, or ``-c`` and code; then those of the program.
        folder: Where it starts.
        environment: All variables.
        streams: The descriptors of its input, output and errors; they stay open here.
    """
    requests, _ = _server()
    fixed = {name for name in {*environment, *ENVIRONMENT} if name.startswith(_READ_ONCE)}
    changed = {name for name in fixed if environment.get(name) != ENVIRONMENT.get(name)}
    assert changed <= {"PYTHONPATH"}, f"{changed} would not be read: start a new interpreter."
    request = Request(arguments=list(arguments), folder=str(folder), environment=dict(environment))
    read, write = os.pipe()
    try:
        socket.send_fds(requests, [request.to_bytes()], [*streams, write])
    finally:
        os.close(write)
    return PythonProcess(open(read, "rb", buffering=0))


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python ARGUMENTS`` to its end, with the modules that this process can import."""
    (ended,) = _run_together([arguments])
    return ended


def call_in_processes(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Calls a function with each of several arguments at once, each in a process of its own.

    Args:
        function: Of a module that can be imported.
        calls: The arguments; they and the results are pickled.

    Returns:
        The results, in order.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, arguments in enumerate(calls):
            (folder / f"call-{number}").write_bytes(pickle.dumps((function, arguments)))
        ended = _run_together(
            [
                ("-c", _CALL, str(folder / f"call-{number}"), str(folder / f"result-{number}"))
                for number in range(len(calls))
            ]
        )
        notes = "\n".join(process.stderr for process in ended)
        assert [process.returncode for process in ended] == [0] * len(calls), notes
        return [
            pickle.loads((folder / f"result-{number}").read_bytes()) for number in range(len(calls))
        ]


def read_to_end(pipes: Sequence[int]) -> tuple[list[str], bool]:
    """Reads from several pipes until nobody has them open, or patience is at its end.

    Returns:
        What came from each, and whether that is all.
    """
    written = {pipe: b"" for pipe in pipes}
    open_ones = set(pipes)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while open_ones and (left := deadline - time.monotonic()) > 0:
        for pipe in select.select(open_ones, [], [], left)[0]:
            data = os.read(pipe, 65536)
            written[pipe] += data
            if not data:
                open_ones.remove(pipe)
    for pipe in pipes:
        os.close(pipe)
    return [data.decode() for data in written.values()], not open_ones


def _run_together(
    programs: Sequence[tuple[str, ...]],
) -> list[subprocess.CompletedProcess[str]]:
    environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes, pipes = [], []
    for arguments in programs:
        (out, to_out), (err, to_err) = os.pipe(), os.pipe()
        with open(os.devnull) as null, open(to_out, "wb"), open(to_err, "wb"):
            processes.append(
                start_python(
                    *arguments,
                    folder=Path.cwd(),
                    environment=environment,
                    streams=(null.fileno(), to_out, to_err),
                )
            )
        pipes += [out, err]
    outputs, have_ended = read_to_end(pipes)
    if not have_ended:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"Not all of {programs} have ended. They printed: {outputs}")
    return [
        subprocess.CompletedProcess(arguments, process.wait(PATIENCE_SECONDS), out, err)
        for arguments, process, out, err in zip(
            programs, processes, outputs[::2], outputs[1::2], strict=True
        )
    ]


@functools.cache
def _server() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Returns where to ask, and the server, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST_BYTES)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, python_server.__file__, str(theirs.fileno())],
            # As training processes have it, where nothing else is wished.
            env={"PYTHONHASHSEED": "0"} | ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return ours, process
