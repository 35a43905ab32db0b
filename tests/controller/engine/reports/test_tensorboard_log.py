"""Reported metrics become TensorBoard events, once each, and never at the training's expense."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from event_files import num_events, rounded, scalars
from process_launch import Job, Launcher
from support import FolderSink, Run, make_spec, run_session
from tensorboard.summary.writer import event_file_writer
from test_context import FakeEngine

from trialrun import ConfigurationError
from trialrun._tensorboard import TensorBoard
from trialrun.controller.engine.loop import Outcome
from trialrun.controller.engine.reports.tensorboard_log import TensorBoardLog, TensorBoardSink
from trialrun.controller.engine.session import TrialSpec


@pytest.fixture(autouse=True)
def _counted_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of files that were begun in one second TensorBoard reads number 10 before number 9. An attempt
    # has a process of its own, which counts from 0.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def spec_of(folder: Path, *, hyperparameters: Any = None, **config: Any) -> TrialSpec:
    spec = make_spec("logged.py", hyperparameters=hyperparameters or {}, **config)
    return dataclasses.replace(spec, tensorboard=folder / "events")


def training(run: Run, name: str = "loss") -> list[tuple[int, float]]:
    return [(batches, metrics[name]) for batches, _, metrics in run.training]


def validation(run: Run, name: str = "loss") -> list[tuple[int, float]]:
    return [(batches, metrics[name]) for batches, _, _, metrics in run.validation]


def test_every_report_is_written_at_its_batch(tmp_path: Path) -> None:
    run = run_session(spec_of(tmp_path, step_zero_validation=True), tmp_path / "run")
    assert scalars(tmp_path / "events") == {
        "loss": rounded(training(run)),
        "val_loss": rounded(validation(run)),
    }
    assert [batches for batches, _ in training(run)] == [3, 6, 8]
    assert [batches for batches, _ in validation(run)] == [0, 4, 8]


@pytest.mark.parametrize("checkpoint", [0, 1])
def test_a_resume_hides_what_comes_again(checkpoint: int, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, hyperparameters={"writes": True}, checkpoint_period="3ba")
    first = run_session(spec, tmp_path / "run")
    # As when the process was killed: its events go on where no checkpoint was taken.
    saved = first.checkpoints[checkpoint]
    assert saved.batches == (3, 6)[checkpoint]
    again = run_session(dataclasses.replace(spec, resume_from=saved.path), tmp_path / "run")
    assert again.digest == first.digest
    assert scalars(tmp_path / "events") == {
        "own": [(step, 10.0 * (step - 1)) for step in range(1, 9)],
        "loss": rounded(training(first)),
        "val_loss": rounded(validation(first)),
    }
    assert num_events(tmp_path / "events", "own") == 8 + 8 - saved.batches


def test_a_run_that_begins_anew_hides_all(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, step_zero_validation=True)
    runs = [run_session(spec, tmp_path / name) for name in ("killed", "anew")]
    assert runs[0].reported == runs[1].reported
    assert scalars(tmp_path / "events")["val_loss"] == rounded(validation(runs[1]))
    assert num_events(tmp_path / "events", "val_loss") == 2 * 3


def test_each_event_of_the_trial_is_written_once_on_any_number_of_processes(
    tmp_path: Path,
) -> None:
    spec = spec_of(tmp_path, hyperparameters={"writes": True}, slots=4)
    launcher = Launcher(tmp_path)
    job = Job(dataclasses.replace(spec, tensorboard=tmp_path / "of two"), tmp_path / "two")
    (two, _) = launcher.launch(2, [job])
    assert isinstance(two[0], Run), two
    run_session(spec, tmp_path / "one")
    expected = [(step, 10.0 * (step - 1)) for step in range(1, 9)]
    for folder in (tmp_path / "events", tmp_path / "of two"):
        assert scalars(folder)["own"] == expected
        assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "config, hyperparameters, is_written",
    [
        (False, None, False),
        (True, None, True),
        (None, {"logs_metrics": False}, False),
        (False, {"logs_metrics": True}, True),
    ],
)
def test_the_configuration_and_the_trial_switch_it(
    config: bool | None, hyperparameters: Any, is_written: bool, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path, hyperparameters=hyperparameters, tensorboard=config)
    run_session(spec, tmp_path / "run")
    assert (tmp_path / "events").exists() == is_written


INSTALL = "but tensorboard is not installed. Run: pip install 'trialrun[tensorboard]'"


def test_without_tensorboard_nothing_is_missed_unless_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    run = run_session(spec_of(tmp_path), tmp_path / "run")
    assert run.outcome is Outcome.COMPLETED
    assert not (tmp_path / "events").exists()
    for config, hyperparameters, reason in (
        (True, {}, "The configuration key 'tensorboard' is true"),
        (None, {"logs_metrics": True}, "set_enable_tensorboard_logging(True) was called"),
        (None, {"writes": True}, "get_tensorboard_writer() was called"),
    ):
        spec = spec_of(tmp_path, hyperparameters=hyperparameters, tensorboard=config)
        with pytest.raises(ConfigurationError) as caught:
            run_session(spec, tmp_path / "run")
        assert str(caught.value) == f"{reason}, {INSTALL}"


def test_a_disk_that_takes_no_events_does_not_stop_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "events").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        run = run_session(spec_of(tmp_path), tmp_path / "run")
    assert (run.outcome, len(run.training), len(run.validation)) == (Outcome.COMPLETED, 3, 2)
    (warning,) = [r.getMessage() for r in caplog.records if "TensorBoard" in r.getMessage()]
    assert warning.startswith("TensorBoard's events cannot be written: FileExistsError: ")
    assert warning.endswith(". Metrics are on record all the same; see them with: trialrun metrics")


@pytest.mark.parametrize("way", ["save", "save_now"])
def test_a_checkpoint_counts_when_the_events_before_it_are_on_the_disk(
    way: str, tmp_path: Path
) -> None:
    run = run_session(make_spec("linear.py"), tmp_path / "run")
    board = TensorBoard(tmp_path / "events", logs_metrics=None, engine=FakeEngine(), is_chief=True)
    log, shown = TensorBoardLog(board), []

    class Watching(FolderSink):
        def save_now(self, contents: Any, metrics: Any, on_written: Any) -> str:
            name = super().save_now(contents, metrics, on_written)
            shown.append(scalars(tmp_path / "events"))
            return name

    sink = TensorBoardSink(Watching(tmp_path / "checkpoints"), log)
    folders: list[Path] = []
    arguments = (folders.append,) if way == "save_now" else ()
    log.write({"loss": 0.5}, 8)
    getattr(sink, way)(run.checkpoints[-1].contents, None, *arguments)
    assert shown == [{"loss": [(8, 0.5)]}]
    assert [folder.name for folder in folders] == (["checkpoint-0"] if arguments else [])
    log.close()


def test_what_trains_loads_no_tensorboard_before_it_reports() -> None:
    code = "import sys, trialrun.controller.launch.worker; sys.exit('tensorboard' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
