"""A server of training processes that is gone is said to be."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trialrun import TrialrunError
from trialrun.controller.launch import supervisor
from trialrun.controller.launch.bell import Bell
from trialrun.controller.launch.supervisor import Interruptions, supervise


def test_a_server_that_has_ended_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(agent: Any) -> None:
        raise EOFError  # as ``multiprocessing`` does where nobody answers

    monkeypatch.setattr(supervisor.Agent, "__init__", lambda agent, *_, **__: None)
    monkeypatch.setattr(supervisor.Agent, "run_all", gone)
    assignment: Any = SimpleNamespace(num_processes=1, attempt_folder=tmp_path)
    idle = Interruptions(on_stop=lambda: None, on_kill=lambda: None, on_tick=lambda: None)
    logger, bell = logging.getLogger("torch"), Bell()
    level = logger.level
    try:
        with pytest.raises(TrialrunError, match=r"^The server from which training processes are "):
            supervise(assignment, idle, bell)
    finally:
        logger.setLevel(level)
        bell.close()
