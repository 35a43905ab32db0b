"""What every test may rely on: generators, threads, signals, imports and torch's settings."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import python_start  # noqa: F401  # notes the environment before anything changes it
import torch
from hypothesis import settings

from trialrun.controller.engine.determinism import kept_determinism

# The same examples in every run: a red test is red again.
settings.register_profile("pinned", derandomize=True)
settings.load_profile("pinned")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)

# The last with its root, since a checkout may itself lie in a folder of that name.
TRIAL_FILES = ("/trials/", "/pytest-", str(Path(__file__).parents[1] / "examples") + "/")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of ``tests/faults``, whose own conftest is read too late for that."""
    group = parser.getgroup("faults")
    group.addoption("--fault-seed", type=int, default=1, help="Of the campaign's random faults.")
    group.addoption("--kills", type=int, default=25, help="How many faults the campaign makes.")


@contextlib.contextmanager
def _imports_taken_back() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    with kept_determinism():
        yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and any(part in file for part in TRIAL_FILES):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    """Seeds the global generators, and takes back what importing a trial file leaves behind."""
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    torch.set_num_threads(1)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with _imports_taken_back():
        yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="module")
def _isolated_module() -> Iterator[None]:
    """Takes back what the fixtures of a whole module have imported."""
    with _imports_taken_back():
        yield
