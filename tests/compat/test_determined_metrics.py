"""Metrics that are no single number, which Determined's users return beside those that are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import make_spec, run_session, write_trial
from trials.linear import records

from trialrun import InvalidMetricError, InvalidTrialError
from trialrun.compat.determined import _metrics, pytorch

TRIAL = """
import numpy as np
import torch
from trials.linear import Linear
from trialrun.compat.determined import pytorch


class Several(Linear, pytorch.PyTorchTrial):
    def train_batch(self, batch, epoch_idx, batch_idx):
        targets = batch[1]
        return {
            **super().train_batch(batch, epoch_idx, batch_idx),
            "targets": targets,
            "array": targets.numpy()[:, 0],
            "list": targets.flatten().tolist(),
            "signs": targets > 0,
        }

    def evaluate_batch(self, batch, batch_idx):
        return {**super().evaluate_batch(batch, batch_idx), "targets": batch[1]}
"""
FULL = (
    TRIAL
    + """
    evaluate_batch = pytorch.PyTorchTrial.evaluate_batch

    def evaluate_full_dataset(self, data_loader):
        predictions = [self.model(inputs) for inputs, _ in data_loader]
        return {"error": torch.tensor([0.5]), "predictions": predictions, "best": "the first"}
"""
)
TRAINED = records(12).tensors[1]
VALIDATED = records(7).tensors[1]


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> Iterator[None]:
    _metrics._warn_once.cache_clear()
    yield


def reported(folder: Path, source: str, **config: str | int) -> list[dict[str, float]]:
    """Returns the training and the validation metrics of one pass over all records."""
    spec = make_spec(
        write_trial(folder, source),
        **{"max_length": "1ep", "reporting_period": "1ep", "validation_period": "1ep", **config},
    )
    run = run_session(spec, folder / "checkpoints")
    return [run.training[0][-1], run.validation[0][-1]]


@pytest.mark.parametrize("slots", [1, 2])
def test_several_numbers_are_reported_as_their_mean(tmp_path: Path, slots: int) -> None:
    training, validation = reported(tmp_path, TRIAL, slots=slots)
    mean = float(TRAINED.mean())
    assert training == {
        "loss": training["loss"],
        "targets": pytest.approx(mean),
        "array": pytest.approx(mean),
        "list": pytest.approx(mean),
        "signs": pytest.approx(float((TRAINED > 0).double().mean())),
    }
    # The last batch holds one record, which weighs as one.
    assert validation["targets"] == pytest.approx(float(VALIDATED.mean()))


@pytest.mark.parametrize("name", ["SUM", "MAX", "MIN"])
def test_they_are_reduced_as_the_batches_are(tmp_path: Path, name: str) -> None:
    source = f"""{TRIAL}
    def evaluation_reducer(self):
        return {{"loss": pytorch.Reducer.AVG, "targets": pytorch.Reducer.{name}}}
"""
    _, validation = reported(tmp_path, source)
    expected = {"SUM": VALIDATED.sum(), "MAX": VALIDATED.max(), "MIN": VALIDATED.min()}
    assert validation["targets"] == pytest.approx(float(expected[name]))


def test_one_warning_says_so_for_each_metric(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reported(tmp_path, TRIAL)
    advice = "Return one number for each metric."
    assert [line for line in caplog.messages if "'targets'" in line or "'list'" in line] == [
        "Metric 'targets' returned by train_batch is a Tensor of shape (2, 1) and type "
        f"torch.float64; its mean is reported. {advice}",
        f"Metric 'list' returned by train_batch is a list of 2 items; its mean is reported. "
        f"{advice}",
        "Metric 'targets' returned by evaluate_batch is a Tensor of shape (2, 1) and type "
        f"torch.float64; its mean is reported. {advice}",
    ]


def test_what_a_full_evaluation_returns_besides_metrics_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, validation = reported(tmp_path, FULL)
    assert validation == {"error": 0.5}
    assert [line for line in caplog.messages if "evaluate_full_dataset" in line] == [
        "Metric 'predictions' returned by evaluate_full_dataset is a list of 4 items, no number; "
        "it is not reported. Return one number for each metric.",
        "Metric 'best' returned by evaluate_full_dataset is a str ('the first'), no number; it is "
        "not reported. Return one number for each metric.",
    ]


@pytest.mark.parametrize(
    ("value", "described"),
    [
        ("None", "None, not a number"),
        ("'high'", r"a str \('high'\)"),
        ("torch.zeros(0)", r"a Tensor of shape \(0,\)"),
        ("torch.ones(2, dtype=torch.complex64)", r"a Tensor of shape \(2,\)"),
        ("[[1.0], [1.0, 2.0]]", r"a list \("),
        ("[torch.ones(1, requires_grad=True)] * 2", r"a list \("),
    ],
)
def test_what_holds_no_numbers_is_refused(tmp_path: Path, value: str, described: str) -> None:
    source = TRIAL.replace('"targets": targets,', f'"targets": {value},')
    with pytest.raises(
        InvalidMetricError, match=f"^Metric 'targets' returned by train_batch is {described}"
    ):
        reported(tmp_path, source)


@pytest.mark.parametrize("batch", [{}, [], 0, torch.tensor(1.0)])
def test_a_batch_of_unknown_length_raises_what_a_file_may_catch(batch: object) -> None:
    for kind in (TypeError, ValueError, InvalidTrialError):
        with pytest.raises(kind, match="^The number of records in a batch of type "):
            pytorch.data_length(batch)
