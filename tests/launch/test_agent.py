"""Processes are ended for sure, whoever is left to take note of it."""

from __future__ import annotations

import os
import signal

from trialrun.controller.launch import agent


def test_a_process_of_whose_end_nobody_takes_note_has_ended() -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        agent._end(pid)
        assert agent._is_zombie(pid)
    finally:
        _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not agent._is_zombie(pid)
    agent._end(pid)  # nothing is there


def test_a_process_that_runs_has_not_ended() -> None:
    assert not agent._is_zombie(os.getpid())
