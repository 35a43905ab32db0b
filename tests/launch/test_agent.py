"""Processes are ended for sure, whoever is left to take note of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing import util
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


def make_agent(function: Callable[[None], object], folder: Path) -> agent.Agent:
    return agent.Agent(
        function,
        None,
        num_processes=2,
        log_folder=folder,
        on_loss=lambda _: None,
        is_hung=lambda: False,
        on_hang=lambda _: None,
    )


def fail_or_wait(_: None) -> None:
    if os.environ["RANK"] == "1":
        raise ValueError
    signal.pause()


def die_when_done(_: None) -> str:
    if os.environ["RANK"] == "1":
        # When its result has been taken, and it ends.
        util.Finalize(None, os.kill, args=(os.getpid(), signal.SIGKILL), exitpriority=0)
    return os.environ["RANK"]


def test_processes_wait_for_an_end_that_none_of_them_can_hold_up(tmp_path: Path) -> None:
    watching = make_agent(fail_or_wait, tmp_path)
    assert watching.run_all() is None
    assert isinstance(watching._processes()._worker_finished_event, Finish)
    assert sorted(watching.exit_codes) == [0, 1]


def test_a_process_that_is_killed_when_all_are_done_takes_nothing_back(tmp_path: Path) -> None:
    assert make_agent(die_when_done, tmp_path).run_all() == {0: "0", 1: "1"}
