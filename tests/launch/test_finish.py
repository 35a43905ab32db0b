"""Processes that wait for the finish may be killed meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

from trialrun.controller.launch.finish import START_METHOD, Finish


def wait_for(finish: Finish, line: Connection) -> None:
    line.send("waits")
    line.send(finish.wait())


def test_one_that_is_killed_as_it_waits_holds_up_nobody() -> None:
    context = multiprocessing.get_context(START_METHOD)
    finish = context.Event()
    lines, processes = [], []
    for _ in range(2):
        ours, theirs = multiprocessing.Pipe()
        process = context.Process(target=wait_for, args=(finish, theirs))
        process.start()
        assert ours.recv() == "waits"
        lines.append(ours)
        processes.append(process)
    killed, other = processes
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert other.is_alive()
    finish.set()
    assert lines[1].recv() is True
    other.join()
    assert (killed.exitcode, other.exitcode) == (-signal.SIGKILL, 0)
    finish.set()  # once more does nothing


def test_it_says_whether_it_is_set() -> None:
    finish = Finish()
    assert not finish.wait(0.0)
    finish.set()
    assert finish.wait()


def test_it_is_set_when_the_supervisor_is_gone() -> None:
    context = multiprocessing.get_context(START_METHOD)
    finish = context.Event()
    ours, theirs = multiprocessing.Pipe()
    process = context.Process(target=wait_for, args=(finish, theirs))
    process.start()
    assert ours.recv() == "waits"
    del finish
    assert ours.recv() is True
    process.join()
