"""What the tests' server forks is what a new interpreter is; the two are asked the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from python_start import ENVIRONMENT, PythonProcess, read_to_end, run_python, start_python

FACTS = """
import atexit
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading

atexit.register(print, "at exit")
print(__name__, globals().get("__file__"), sys.modules["__main__"].__dict__ is globals())
print(sys.argv, sys.path, os.getcwd(), os.environ.get("GREETING"), tempfile.gettempdir())
print([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)])
print([signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGPIPE)])
print(threading.enumerate()[1:], os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid())
print(multiprocessing.current_process().name)
print(multiprocessing.parent_process(), multiprocessing.active_children(), repr(sys.stdin.read()))
print(sys.stdout.isatty(), sys.stdout.line_buffering, sys.stderr.line_buffering, file=sys.stderr)
threading.Thread(target=lambda: print("a thread is waited for")).start()
"""
ENDS = {
    "": 0,
    "sys.exit(7)": 7,
    "sys.exit('why')": 1,
    "raise KeyboardInterrupt": -signal.SIGINT,
    "os.kill(os.getpid(), signal.SIGTERM)": -signal.SIGTERM,
    "os.kill(os.getpid(), signal.SIGINT)": -signal.SIGINT,
}


def _hear_all_signals() -> None:
    # Where the tests run in the background, some are ignored, and would be so in what they start.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def told_by(
    arguments: list[str], folder: Path, environment: dict[str, str], *, is_forked: bool
) -> tuple[str, str, int]:
    (out, to_out), (err, to_err) = os.pipe(), os.pipe()
    process: PythonProcess | subprocess.Popen[bytes]
    with open(os.devnull) as null, open(to_out, "wb"), open(to_err, "wb"):
        if is_forked:
            process = start_python(
                *arguments,
                folder=folder,
                environment=environment,
                streams=(null.fileno(), to_out, to_err),
            )
        else:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                env=environment,
                stdin=null,
                stdout=to_out,
                stderr=to_err,
                start_new_session=True,
                preexec_fn=_hear_all_signals,
            )
    (printed, errors), has_ended = read_to_end([out, err])
    assert has_ended
    return printed, errors, process.wait(60)


@pytest.mark.parametrize("way", ["file", "module", "code"])
def test_a_forked_process_finds_what_a_new_interpreter_finds(way: str, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "facts.py").write_text(FACTS)
    (tmp_path / "scripts" / "facts.py").write_text(FACTS)
    arguments = {
        "file": ["scripts/facts.py", "-x", "y"],
        "module": ["-m", "facts", "-x"],
        "code": ["-c", FACTS, "y"],
    }[way]
    environment = ENVIRONMENT | {"GREETING": "hello", "TMPDIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "site"), *sys.path[1:2]])
    new = told_by(arguments, tmp_path, environment, is_forked=False)
    assert "hello" in new[0] and "a thread is waited for\nat exit\n" in new[0]
    assert told_by(arguments, tmp_path, environment, is_forked=True) == new


@pytest.mark.parametrize("end", ENDS)
def test_a_forked_process_ends_as_a_new_interpreter_does(end: str, tmp_path: Path) -> None:
    code = f"import os, signal, sys, atexit\natexit.register(print, 'at exit')\n{end}"
    (new_out, new_err, new_code), (out, err, exit_code) = (
        told_by(["-c", code], tmp_path, dict(ENVIRONMENT), is_forked=is_forked)
        for is_forked in (False, True)
    )
    assert (out, exit_code) == (new_out, new_code)
    assert exit_code == ENDS[end]
    assert err.splitlines()[-1:] == new_err.splitlines()[-1:]


def test_processes_know_nothing_of_each_other() -> None:
    leave = "import random, sys, torch; torch.manual_seed(5); random.seed(5); sys.marked = True"
    look = (
        "import random, sys, torch, numpy; "
        "print(hasattr(sys, 'marked'), torch.initial_seed(), random.random(), numpy.random.rand())"
    )
    assert run_python("-c", leave).returncode == 0
    first, second = (run_python("-c", look).stdout.split() for _ in range(2))
    assert first[0] == second[0] == "False"
    # As in new interpreters, the generators begin anywhere.
    assert all(one != other for one, other in zip(first[1:], second[1:], strict=True))


def test_what_an_interpreter_reads_once_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"\{'OMP_NUM_THREADS'\} would not be read"):
        told_by(["-c", ""], tmp_path, ENVIRONMENT | {"OMP_NUM_THREADS": "77"}, is_forked=True)
