"""What a session warns of, once, on the chief."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
from support import make_spec, run_session, run_with_stops, write_trial

from trialrun.controller.engine.loop import Outcome
from trialrun.controller.engine.session import TrialSpec

HEAD = """
import math
from trials.linear import Linear, records
from trialrun import DataLoader

"""


def spec_of(folder: Path, source: str, **config: Any) -> TrialSpec:
    return make_spec(write_trial(folder, HEAD + source), **config)


def test_a_loss_that_is_not_finite_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = spec_of(
        tmp_path,
        """
class Diverging(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        super().train_batch(batch, epoch_idx, batch_idx)
        return {"loss": math.nan if batch_idx > 1 else 1.0}

    def evaluate_batch(self, batch, batch_idx):
        return {"loss": math.inf}
""",
        reporting_period="1ba",
        validation_period="2ba",
        max_length="6ba",
    )
    run = run_session(spec, tmp_path / "checkpoints")
    losses = [metrics["loss"] for *_, metrics in run.training]
    assert losses[:2] == [1.0, 1.0]
    assert all(math.isnan(loss) for loss in losses[2:])
    assert [record.message for record in caplog.records] == [
        "The validation metric 'loss' is inf at batch 2. It is recorded so; later batches are not "
        "warned of.",
        "The training metric 'loss' is nan at batch 3. It is recorded so; later batches are not "
        "warned of.",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_fewer_records_than_a_batch_are_warned_of_and_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_trial(tmp_path, HEAD + "class Small(Linear):\n    pass\n")
    spec = make_spec(path, slots=4, hyperparameters={"num_records": 3}, max_length="4ep")
    straight = run_session(spec, tmp_path / "straight")
    assert (straight.batches, straight.outcome) == (4, Outcome.COMPLETED)
    assert [record.message for record in caplog.records] == [
        "The training data has 3 records, fewer than the 8 of one batch: each batch holds records "
        "of several passes."
    ]
    stopped = run_with_stops(spec, tmp_path / "stopped", [("progress", 1), ("progress", 2)])
    assert stopped.reported == straight.reported


@pytest.mark.parametrize(
    ("configured", "loader", "is_warned"),
    [
        (6, "batch_size=6", True),
        (12, "batch_size=6", False),
        (6, "batch_size=context.get_per_slot_batch_size()", False),
        (6, "batch_sampler=BatchSampler(range(12), 6, False)", False),
    ],
)
def test_a_batch_size_that_contradicts_the_configured_one_is_warned_of(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    configured: int,
    loader: str,
    is_warned: bool,
) -> None:
    source = f"""
from torch.utils.data import BatchSampler

class Sized(Linear):
    def build_training_data_loader(self):
        context = self.context
        return DataLoader(records(12), {loader})
"""
    hyperparameters = {"global_batch_size": configured}
    spec = spec_of(tmp_path, source, slots=2, hyperparameters=hyperparameters, max_length="1ba")
    run_session(spec, tmp_path / "checkpoints")
    expected = (
        "Hyperparameter global_batch_size is 6, but the training data has batches of 12 records: "
        "batch_size=6 for each of 2 slots. Give its DataLoader "
        "batch_size=self.context.get_per_slot_batch_size(), or set global_batch_size to 12."
    )
    assert [record.message for record in caplog.records] == [expected] * is_warned


def test_a_misspelt_optional_method_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = """
class Misspelt(Linear):
    def build_callback(self):
        return {}
"""
    run_session(spec_of(tmp_path, source, max_length="1ba"), tmp_path / "checkpoints")
    assert [record.message for record in caplog.records] == [
        "Misspelt.build_callback is not a method that trialrun calls. If it is meant to be "
        "build_callbacks, rename it."
    ]
