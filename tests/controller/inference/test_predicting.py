from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from recorded_run import RecordedRun, train_recorded
from safetensors.torch import load_file
from support import write_trial
from trials.linear import records

import trialrun
from trialrun import ConfigurationError, InvalidDataLoaderError, InvalidTrialError, TrialrunError
from trialrun.controller.checkpoints.manifest import verify
from trialrun.controller.engine.building import Split
from trialrun.controller.engine.parallel.slots import SlotError
from trialrun.controller.inference.evaluating import open_checkpoint
from trialrun.controller.inference.predicting import CHUNK_BYTES, Predicted, predict_into
from trialrun.controller.inference.tables import TableFormat

HEAD = """
import torch
from torch.utils.data import TensorDataset
from trials.linear import Linear, records
from trialrun import DataLoader, samplers
"""


def predict(
    run: RecordedRun,
    folder: Path,
    split: Split = Split.VALIDATION,
    table_format: TableFormat = TableFormat.PARQUET,
    chunk_bytes: int = CHUNK_BYTES,
    hparams: dict[str, Any] | None = None,
) -> Predicted:
    opened = open_checkpoint(run.database, run.experiment.id, "latest")
    # In the place of experiments that differ by one hyperparameter alone.
    opened.inference.runtime.context._hyperparameters.update(hparams or {})
    return predict_into(opened, split, folder, table_format, chunk_bytes)


def expected_scores(run: RecordedRun, batches: list[torch.Tensor]) -> torch.Tensor:
    trial = trialrun.load_trial(run.latest.path)
    with torch.no_grad():
        return torch.cat([trial.predict_batch((inputs, None), 0) for inputs in batches])


def manifest(folder: Path) -> dict[str, Any]:
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def test_every_record_has_one_row_in_the_order_of_the_dataset(
    trained: RecordedRun, tmp_path: Path
) -> None:
    from trials.predicting import records

    predicted = predict(trained, tmp_path / "out", Split.TEST)
    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert predicted.num_records == 7
    assert table["record"].to_pylist() == list(range(7))
    inputs = records(7, shift=1.0).tensors[0]
    expected = expected_scores(trained, [inputs[0:3], inputs[3:6], inputs[6:7]])
    assert torch.equal(torch.tensor(table["prediction"].to_pylist()), expected)
    assert str(table.schema.field("prediction").type) == (
        "fixed_size_list<element: float not null>[4]"
    )


def test_shuffled_training_data_is_predicted_in_order_too(
    trained: RecordedRun, tmp_path: Path
) -> None:
    from trials.predicting import records

    predict(trained, tmp_path / "out", Split.TRAINING, TableFormat.SAFETENSORS)
    found = load_file(tmp_path / "out" / "predictions-00000.safetensors")
    assert found["record"].tolist() == list(range(20))
    inputs = list(records(20).tensors[0].split(3))
    assert torch.equal(found["prediction"], expected_scores(trained, inputs))


def test_the_manifest_says_what_it_is(trained: RecordedRun, tmp_path: Path) -> None:
    predict(trained, tmp_path / "out", hparams={"predicts": "columns"})
    found = manifest(tmp_path / "out")
    files = found.pop("files")
    versions = found.pop("versions")
    assert found == {
        "experiment": 1,
        "trial": 1,
        "checkpoint": trained.latest.uuid,
        "digest": trained.latest.digest,
        "batches": 8,
        "data": "validation",
        "record_order": "dataset",
        "num_records": 11,
        "format": "parquet",
        "columns": {
            "record": {"dtype": "int64", "shape": []},
            "label": {"dtype": "int64", "shape": []},
            "pairs": {"dtype": "float64", "shape": [2, 2]},
            "sure": {"dtype": "bool", "shape": []},
            "half": {"dtype": "float16", "shape": [4]},
            "brain": {"dtype": "float32", "shape": []},
        },
    }
    assert versions.keys() == {"trialrun", "torch"}
    verify(tmp_path / "out", files)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "predictions.parquet",
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"], "nothing is left beside it"


@pytest.mark.parametrize("table_format", list(TableFormat))
def test_chunks_hold_the_same_rows_as_one_table(
    trained: RecordedRun, tmp_path: Path, table_format: TableFormat
) -> None:
    # A row has 8 bytes for the record and 16 for the scores: two batches of 4 make a chunk.
    predict(trained, tmp_path / "one", table_format=table_format)
    predict(trained, tmp_path / "several", table_format=table_format, chunk_bytes=150)
    one, several = (_read(tmp_path / name, table_format) for name in ("one", "several"))
    assert [len(chunk["record"]) for chunk in one] == [11]
    assert [len(chunk["record"]) for chunk in several] == [8, 3]
    for name in ("record", "prediction"):
        assert torch.equal(torch.cat([chunk[name] for chunk in several]), one[0][name])


def _read(folder: Path, table_format: TableFormat) -> list[dict[str, torch.Tensor]]:
    if table_format is TableFormat.SAFETENSORS:
        return [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
    file = pq.ParquetFile(folder / "predictions.parquet")
    groups = [file.read_row_group(i).to_pydict() for i in range(file.num_row_groups)]
    return [{name: torch.tensor(values) for name, values in group.items()} for group in groups]


def test_what_a_sampler_leaves_out_has_no_row_and_what_it_repeats_has_one(tmp_path: Path) -> None:
    source = """
class Sampled(Linear):
    def build_validation_data_loader(self):
        return DataLoader(records(9), batch_size=2, drop_last=True, sampler=[7, 2, 2, 5, 7, 0, 8])

    def build_test_data_loader(self):
        return DataLoader(records(9), batch_sampler=[[8, 1], [3], [1, 4, 5]], num_workers=2)

    def predict_batch(self, batch, batch_idx):
        inputs, targets = batch
        return {"input": inputs[:, 0], "size": torch.full((len(inputs),), len(inputs))}
"""
    run = train_recorded(tmp_path, write_trial(tmp_path, HEAD + source), max_length="2ba")
    from trials.linear import records

    inputs = records(9).tensors[0][:, 0]
    for split, expected in ((Split.VALIDATION, [0, 2, 5, 7, 8]), (Split.TEST, [1, 3, 4, 5, 8])):
        folder = tmp_path / split.value
        predict(run, folder, split, TableFormat.SAFETENSORS)
        found = load_file(folder / "predictions-00000.safetensors")
        assert found["record"].tolist() == expected
        assert torch.equal(found["input"], inputs[expected])
        # On average two records in a batch of the batch sampler.
        assert found["size"].tolist() == (
            [2, 2, 2, 2, 1] if split is Split.VALIDATION else [3, 3, 3, 2, 2]
        )


def test_a_loader_of_the_trials_own_is_numbered_as_it_comes(tmp_path: Path) -> None:
    source = """
class Own(Linear):
    def set_up(self):
        self.context.experimental.disable_dataset_reproducibility_checks()

    def build_training_data_loader(self):
        return [records(4).tensors, records(6).tensors]

    def build_validation_data_loader(self):
        return [records(3).tensors, records(2).tensors]

    def predict_batch(self, batch, batch_idx):
        return batch[0]
"""
    run = train_recorded(
        tmp_path,
        write_trial(tmp_path, HEAD + source),
        max_length="2ba",
        reporting_period="2ba",
        validation_period=None,
        checkpoint_period=None,
    )
    predict(run, tmp_path / "out", table_format=TableFormat.SAFETENSORS)
    found = load_file(tmp_path / "out" / "predictions-00000.safetensors")
    assert found["record"].tolist() == [0, 1, 2, 3, 4]
    assert manifest(tmp_path / "out")["record_order"] == "loader"
    with pytest.raises(
        InvalidTrialError, match=r"returned a list, one for each slot, whose record"
    ):
        predict(run, tmp_path / "training", Split.TRAINING)


SHAPE = r"a Tensor of shape \(4, 4\) and type torch\.float32"


@pytest.mark.parametrize(
    ("predicts", "message"),
    [
        (
            "other names",
            r"^predict_batch returned \['b'\] for batch 2 and \['a'\] for batch 0\. Return the "
            r"same names for every batch\.$",
        ),
        (
            "other shape",
            r"^predict_batch returned 'a' as float32 \[3\] for batch 1 and as float32 \[4\] for "
            r"batch 0\. .* pad what is shorter\.$",
        ),
        ("other type", r"as float64 \[4\] for batch 1 and as float32 \[4\] for batch 0\."),
        (
            "too few",
            r"^predict_batch returned for batch 1 a Tensor of shape \(3, 4\) and type "
            r"torch\.float32 as 'prediction', but the batch has 4 records: the first dimension",
        ),
        ("one number", r"a Tensor of shape \(\) and .* but the batch has 4 records"),
        ("text", r"for batch 0 a list as 'text'\. Return dense tensors or numeric arrays, whose"),
        (
            "texts",
            r"for batch 0 a ndarray of shape \(4,\) and type <U9 as 'prediction'\. Return de",
        ),
        ("sparse", rf"for batch 0 {SHAPE} as 'prediction'\. Return dense"),
        ("record", r"for batch 0 a column named 'record'\. Names are .* taken by the records' ind"),
        ("nothing", r"for batch 0 an empty dictionary\. Return a tensor, or a dictionary of them"),
        (
            "complex",
            r"^Parquet has no type for 'wave', which is complex64 \[4\]\. Return real numb",
        ),
        (
            "no elements",
            r"^Parquet has no lists of no elements, but 'empty' is float32 \[0\]\. Lea",
        ),
    ],
)
def test_wrong_predictions_are_refused_and_leave_nothing(
    trained: RecordedRun, tmp_path: Path, predicts: str, message: str
) -> None:
    with pytest.raises(InvalidTrialError, match=message):
        predict(trained, tmp_path / "out", hparams={"predicts": predicts}, chunk_bytes=1)
    assert list(tmp_path.iterdir()) == []


def test_safetensors_holds_what_parquet_does_not(trained: RecordedRun, tmp_path: Path) -> None:
    for predicts, name, dtype in (
        ("complex", "wave", torch.complex64),
        ("no elements", "empty", torch.float32),
        ("columns", "brain", torch.bfloat16),
    ):
        folder = tmp_path / predicts
        predict(
            trained, folder, table_format=TableFormat.SAFETENSORS, hparams={"predicts": predicts}
        )
        assert load_file(folder / "predictions-00000.safetensors")[name].dtype is dtype
    with pytest.raises(
        InvalidTrialError, match=r"^safetensors has no type for 'wave', which is co"
    ):
        predict(
            trained,
            tmp_path / "long",
            table_format=TableFormat.SAFETENSORS,
            hparams={"predicts": "long complex"},
        )


def test_users_errors_keep_their_cause_and_leave_nothing(
    trained: RecordedRun, tmp_path: Path
) -> None:
    with pytest.raises(SlotError) as caught:
        predict(trained, tmp_path / "out", hparams={"predicts": "error"})
    assert isinstance(caught.value.__cause__, AttributeError)
    assert list(tmp_path.iterdir()) == []


def test_a_trial_without_predict_batch_gets_the_signature(tmp_path: Path) -> None:
    run = train_recorded(tmp_path, "linear.py", max_length="2ba")
    with pytest.raises(
        InvalidTrialError,
        match=r"^Linear has no predict_batch, which trialrun predict needs\. Write:\n"
        r"    def predict_batch\(self, batch, batch_idx\): \.\.\.$",
    ):
        predict(run, tmp_path / "out")


def test_an_empty_loader_of_the_trials_own_is_refused(tmp_path: Path) -> None:
    source = """
class Empty(Linear):
    def set_up(self):
        self.context.experimental.disable_dataset_reproducibility_checks()

    def build_test_data_loader(self):
        return []

    def predict_batch(self, batch, batch_idx):
        return batch[0]
"""
    run = train_recorded(tmp_path, write_trial(tmp_path, HEAD + source), max_length="2ba")
    with pytest.raises(
        InvalidDataLoaderError, match=r"^The data gave no batch, so there is nothin"
    ):
        predict(run, tmp_path / "out", Split.TEST)


def test_nothing_is_overwritten(trained: RecordedRun, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    predict(trained, tmp_path / "empty")
    before = (tmp_path / "empty" / "manifest.json").stat().st_mtime_ns
    with pytest.raises(
        ConfigurationError, match=rf"^{tmp_path}/empty is not empty, and nothing in it is overwri"
    ):
        predict(trained, tmp_path / "empty")
    assert (tmp_path / "empty" / "manifest.json").stat().st_mtime_ns == before
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=rf"^{tmp_path}/file is a file\. Name a folder th"):
        predict(trained, tmp_path / "file")


def test_a_folder_that_cannot_be_written_is_said(trained: RecordedRun, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        TrialrunError, match=r"could not be written: Not a directory\. Nothing of i"
    ):
        predict(trained, tmp_path / "file" / "out")


def test_without_pyarrow_the_extra_is_named(
    trained: RecordedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "trialrun.controller.inference.parquet", raising=False)
    with pytest.raises(
        ConfigurationError, match=r"Run: pip install 'trialrun\[parquet\]', or give --format safet"
    ):
        predict(trained, tmp_path / "out")
    predict(trained, tmp_path / "out", table_format=TableFormat.SAFETENSORS)


def test_nothing_is_trained_while_predicting(tmp_path: Path) -> None:
    source = """
class Learning(Linear):
    def predict_batch(self, batch, batch_idx):
        self.context.step_optimizer(self.optimizer)
"""
    run = train_recorded(tmp_path, write_trial(tmp_path, HEAD + source), slots=1, max_length="4ba")
    with pytest.raises(InvalidTrialError, match=r"^step_optimizer was called in predict_batch, wh"):
        predict(run, tmp_path / "out")


def test_a_loaded_trial_predicts_in_the_precision_of_training(tmp_path: Path) -> None:
    source = """
class Mixed(Linear):
    def make_model(self):
        self.context.experimental.use_amp(torch.bfloat16)
        return torch.nn.Linear(3, 1)

    def loss(self, batch):
        return self.model(batch[0].float()).float().square().mean()

    def evaluate_batch(self, batch, batch_idx):
        assert self.model(batch[0].float()).dtype == torch.bfloat16
        return {"loss": self.loss(batch)}

    def predict_batch(self, batch, batch_idx):
        return self.model(batch[0].float())
"""
    path = write_trial(tmp_path, HEAD + source, name="mixed.py")
    run = train_recorded(tmp_path, path, max_length="4ba")
    predict(run, tmp_path / "out", table_format=TableFormat.SAFETENSORS)
    stored = load_file(tmp_path / "out" / "predictions-00000.safetensors")["prediction"]
    trial = trialrun.load_trial(run.latest.path, device="cpu")
    batch = records(7).tensors
    with torch.no_grad():
        predicted = trial.predict_batch(batch, batch_idx=0)
        assert trial.evaluate_batch(batch, 0)["loss"].dtype == torch.float32
    assert predicted.dtype == torch.bfloat16
    assert torch.equal(predicted, stored)
    assert not torch.is_autocast_enabled("cpu")
