"""Processes are ended for sure, whoever is left to take note of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from trialrun.controller.launch import agent
from trialrun.controller.launch.finish import Finish


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


def test_processes_wait_for_an_end_that_none_of_them_can_hold_up(tmp_path: Path) -> None:
    def no_call(*_: object) -> bool:
        raise AssertionError

    watching = agent.Agent(
        os.getpid,  # takes no argument: every process fails at once
        None,
        num_processes=2,
        log_folder=tmp_path,
        on_loss=lambda _: None,
        is_hung=lambda: False,
        on_hang=lambda _: no_call(),
    )
    assert watching.run_all() is None
    context = watching._processes()
    assert isinstance(context._worker_finished_event, Finish)
