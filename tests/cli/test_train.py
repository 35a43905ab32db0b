"""What ``submit`` and ``resume`` say at the end of an attempt, whenever Ctrl-C is pressed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recorded_run import RecordedRun, submit_recorded

from trialrun.cli import _train
from trialrun.controller.bookkeeping import RunState, finish_attempt


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run(tmp_path: Path) -> RecordedRun:
    submit_recorded(tmp_path, "linear.py")
    return submit_recorded(tmp_path, "linear.py")  # number 2


def ending(state: RunState) -> Any:
    """Returns an attempt that ends in a state, and hears Ctrl-C before anything is said of it."""

    def run_attempt(database: Any, prepared: Any, **_: Any) -> None:
        finish_attempt(database, prepared.attempt.id, state, error="It broke.")
        signal.raise_signal(signal.SIGINT)

    return run_attempt


@pytest.mark.parametrize(
    ("state", "code", "line"),
    [
        (RunState.COMPLETED, 0, "Completed experiment 2 after 0 batches."),
        (RunState.PAUSED, 3, "Paused experiment 2 after 0 batches. Go on with:"),
        (RunState.ERROR, 1, "Experiment 2 failed: It broke."),
    ],
)
def test_ctrl_c_after_the_end_does_not_cut_the_last_lines_short(
    run: RecordedRun,
    state: RunState,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(_train, "run_trial", ending(state))
    assert _train.train(run.database, run.trial, 1) == code
    printed = capfd.readouterr()
    assert f"\n{line}\n" in f"\n{printed.out}\n{printed.err}"
    if state is RunState.PAUSED:
        assert printed.out.endswith("\ntrialrun resume 2\n")
    # Pressed once more, it would find nothing to stop.
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_ctrl_c_before_training_begins_says_how_to_go_on(
    run: RecordedRun, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run_attempt(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(_train, "run_trial", run_attempt)
    assert _train.train(run.database, run.trial, 1) == 130
    assert capfd.readouterr().err == "Stopped at once. Go on with: trialrun resume 2\n"
    assert run.trial.state is RunState.KILLED
