"""``evaluate``, ``predict``, ``checkpoint export`` and ``submit --from-checkpoint``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from recorded_run import RecordedRun, train_recorded

from trialrun import Trial

from .workplace import Result, Workplace


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, RecordedRun]:
    """An experiment that was trained in this process, in a workplace's home."""
    place = Workplace(tmp_path_factory.mktemp("trained"))
    return place, train_recorded(place.folder, "predicting.py")


@pytest.fixture(scope="module")
def warm(
    straight: tuple[Workplace, Result], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workplace, Result]:
    """A run on 2 processes that began with the weights of ``straight``."""
    place = Workplace(tmp_path_factory.mktemp("warm"))
    checkpoint = straight[0].checkpoints()[0].path
    return place, place.run(
        "submit", "trial.py", "--processes", "2", "--max-length", "1ep", "--from-checkpoint",
        checkpoint,
    )  # fmt: skip


def test_evaluating_a_run_of_two_processes_gives_the_recorded_numbers(
    warm: tuple[Workplace, Result],
) -> None:
    place, result = warm
    assert result.code == 0, result.err
    newest = place.checkpoints()[0]
    found = place.invoke("evaluate", "1", "--checkpoint", "latest", "--json").json
    assert found.pop("duration_seconds") >= 0
    assert found == {
        "experiment": 1,
        "checkpoint": newest.uuid,
        "batches": 5,
        "digest": newest.digest,
        "data": "validation",
        "num_records": 11,
        "metrics": place.metrics()[-1][2],
        "device": "cpu",
    }


def test_a_warm_start_says_what_it_took(
    straight: tuple[Workplace, Result], warm: tuple[Workplace, Result]
) -> None:
    _, result = warm
    source = straight[0].checkpoints()[0]
    assert result.lines[3] == (
        f"Start: at batch 0, weights of checkpoint {source.uuid}, at its batch 60; not taken: its "
        "optimizer, clock, randomness, callbacks and own state"
    )
    # It goes on from what was learned.
    cold, after = straight[0].metrics(), warm[0].metrics()
    assert after[0][2]["loss"] < cold[0][2]["loss"] / 2


def test_a_rehearsal_begins_with_the_weights_too(
    straight: tuple[Workplace, Result], workplace: Workplace
) -> None:
    checkpoint = straight[0].checkpoints()[0].path
    command = ("submit", "trial.py", "--test-mode", "--processes", "1", "--from-checkpoint")
    result = workplace.run(*command, checkpoint, "--hp", "hidden=9")
    assert result.code == 1
    assert re.search(
        r"The rehearsal failed: The checkpoint does not fit model 0: 0\.bias is \(9,\) ", result.err
    )
    assert not workplace.home.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--from-checkpoint", "no/such"),
            "'no/such' is neither a folder nor the UUID of a checkp",
        ),
        (("--from-checkpoint", "abcd"), "There is no trialrun database at "),
        (("--partial",), "from_checkpoint_partial (--partial) says how weights are taken, but fro"),
    ],
)
def test_what_cannot_be_begun_with_is_refused_before_anything_is_recorded(
    workplace: Workplace, arguments: tuple[str, ...], message: str
) -> None:
    result = workplace.invoke("submit", str(workplace.trial_file), *arguments)
    assert result.code == 2
    assert message in result.err
    assert not workplace.home.exists()


def test_evaluate_prints_the_metrics(trained: tuple[Workplace, RecordedRun]) -> None:
    place, run = trained
    result = place.invoke("evaluate", "1", "--checkpoint", run.latest.uuid[:4])
    metrics = ", ".join(f"{name} {value:.6g}" for name, value in run.validation(8).items())
    assert result.lines == [
        f"Checkpoint {run.latest.uuid} of experiment 1, at batch 8",
        f"validation, 11 records: {metrics}",
    ]
    assert "test, 7 records: loss " in place.invoke("evaluate", "1", "--data", "test").out


def test_predict_writes_a_folder_once(
    trained: tuple[Workplace, RecordedRun], tmp_path: Path
) -> None:
    place, run = trained
    output = tmp_path / "predictions"
    arguments = ("predict", "1", "--checkpoint", "latest", "--output", str(output))
    result = place.invoke(*arguments, "--data", "training")
    assert result.code == 0
    assert result.lines == [
        f"Predicted 20 records of the training data with checkpoint {run.latest.uuid}, at batch 8.",
        f"{output}: record (int64), prediction (float32 [4])",
    ]
    assert pq.read_table(output / "predictions.parquet").num_rows == 20
    again = place.invoke(*arguments)
    assert again.code == 2
    assert f"{output} is not empty, and nothing in it is overwritten." in again.err
    other = tmp_path / "json"
    found = place.invoke(
        "predict", "1", "--output", str(other), "--format", "safetensors", "--json"
    ).json
    assert (found["num_records"], found["output"]) == (11, str(other))
    assert sorted(path.name for path in other.iterdir()) == [
        "manifest.json",
        "predictions-00000.safetensors",
    ]


def test_refusals_have_exit_code_2_and_user_errors_are_seen(
    straight: tuple[Workplace, Result],
    trained: tuple[Workplace, RecordedRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, _ = straight
    result = place.invoke("predict", "1", "--output", str(tmp_path / "out"))
    assert result.code == 2
    assert "Waves has no predict_batch, which trialrun predict needs. Write:" in result.err
    monkeypatch.setattr(Trial, "get_batch_length", lambda self, batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained[0].invoke("evaluate", "1")


def test_export_names_its_files(trained: tuple[Workplace, RecordedRun], tmp_path: Path) -> None:
    place, run = trained
    output = tmp_path / "exported"
    arguments = ("checkpoint", "export", run.latest.uuid[:8], "--to", str(output))
    result = place.invoke(*arguments, "--optimizer")
    assert result.out == (
        f"Exported checkpoint {run.latest.uuid} to {output}: model.safetensors, optimizer.pt, "
        "metadata.json\n"
    )
    assert json.loads((output / "metadata.json").read_text())["digest"] == run.latest.digest
    assert place.invoke(*arguments).code == 2


def test_several_processes_evaluate_and_predict_as_one_does(
    trained: tuple[Workplace, RecordedRun], tmp_path: Path
) -> None:
    place, _ = trained
    evaluate = ("evaluate", "1", "--data", "test", "--json")
    one, two = place.invoke(*evaluate), place.run(*evaluate, "--processes", "2")
    assert two.code == 0, two.err
    first, second = one.json, two.json
    assert first.pop("duration_seconds") >= 0 and second.pop("duration_seconds") >= 0
    assert first == second
    predict = ("predict", "1", "--output")
    assert place.invoke(*predict, str(tmp_path / "one")).code == 0
    assert place.run(*predict, str(tmp_path / "two"), "--processes", "2").code == 0
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_processes_that_the_slots_cannot_be_shared_by_are_refused(
    trained: tuple[Workplace, RecordedRun], tmp_path: Path
) -> None:
    place, _ = trained
    for command in (("evaluate", "1"), ("predict", "1", "--output", str(tmp_path / "out"))):
        result = place.invoke(*command, "--processes", "3")
        assert result.code == 2
        assert result.err.startswith("Error: 2 slots cannot be executed by 3 processes: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "predicts, code, message",
    [
        # Batch 1, which is the second process's.
        ("too few", 2, "Error: predict_batch returned for batch 1 a Tensor of shape (3, 4) and "),
        ("error", 1, "AttributeError: 'Tensor' object has no attribute 'no_such_attribute'"),
    ],
)
def test_what_fails_in_one_of_several_processes_is_said(
    tmp_path: Path, predicts: str, code: int, message: str
) -> None:
    place = Workplace(tmp_path)
    train_recorded(place.folder, "predicting.py", hyperparameters={"predicts": predicts})
    output = tmp_path / "out"
    result = place.run("predict", "1", "--output", str(output), "--processes", "2")
    assert result.code == code
    assert message in result.err
    assert not output.exists()
