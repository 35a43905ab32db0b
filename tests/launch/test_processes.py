"""A server of processes that is gone is said to be."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from trialrun import TrialrunError
from trialrun.controller.launch import processes
from trialrun.controller.launch.bell import Bell
from trialrun.controller.launch.processes import run_processes


def test_a_server_that_has_ended_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(agent: Any) -> None:
        raise EOFError  # as ``multiprocessing`` does where nobody answers

    monkeypatch.setattr(processes.Agent, "__init__", lambda agent, *_, **__: None)
    monkeypatch.setattr(processes.Agent, "run_all", gone)
    logger, bell = logging.getLogger("torch"), Bell()
    level = logger.level
    try:
        with pytest.raises(TrialrunError, match=r"^The server from which processes are forked "):
            run_processes(print, "", num_processes=1, folder=tmp_path, bell=bell)
    finally:
        logger.setLevel(level)
        bell.close()
