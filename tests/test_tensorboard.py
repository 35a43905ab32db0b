from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from event_files import scalars
from test_context import FakeEngine
from torch.utils.tensorboard import SummaryWriter

from trialrun import InvalidTrialError
from trialrun._tensorboard import TensorBoard


def tensorboard(
    path: Path | None, engine: FakeEngine | None = None, *, is_chief: bool = True
) -> TensorBoard:
    engine = engine or FakeEngine()
    return TensorBoard(path, logs_metrics=None, engine=engine, is_chief=is_chief)


def test_the_writer_is_torchs_and_there_is_one(tmp_path: Path) -> None:
    board = tensorboard(tmp_path / "events")
    writer = board.writer()
    assert isinstance(writer, SummaryWriter)
    assert board.writer() is writer
    assert copy.deepcopy(writer) is writer
    assert writer.get_logdir() == str(tmp_path / "events")
    board.flush()
    board.close()
    assert not (tmp_path / "events").exists()


def test_only_slot_0_writes_and_reported_metrics_always(tmp_path: Path) -> None:
    engine = FakeEngine()
    board = tensorboard(tmp_path, engine)
    for engine.slot in (2, 0, 1):
        with_slot = float(engine.slot)
        board.writer().add_scalar("own", with_slot, 6)
        board.writer().add_histogram("values", torch.ones(2), 6)
        board.writer().log_metrics({"loss": with_slot}, 7 + engine.slot)
    board.close()
    assert scalars(tmp_path) == {"own": [(6, 0.0)], "loss": [(9, 2.0), (7, 0.0), (8, 1.0)]}


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.slot = 0  # as while a loader is built, which happens on every process for slot 0
    board = tensorboard(tmp_path / "events", engine, is_chief=False)
    board.writer().add_scalar("own", 1.0, 1)
    board.close()
    assert not (tmp_path / "events").exists()


def test_a_context_of_which_nothing_is_kept_has_no_folder() -> None:
    board = tensorboard(None)
    assert board.logs_metrics
    assert not board.can_log_metrics
    message = (
        "This context has no folder for TensorBoard, because nothing of its run is kept. Give "
        "torch.utils.tensorboard.SummaryWriter a folder of your own."
    )
    with pytest.raises(InvalidTrialError) as caught:
        _ = board.path
    assert str(caught.value) == message
    with pytest.raises(InvalidTrialError, match="^This context has no folder"):
        board.writer()
