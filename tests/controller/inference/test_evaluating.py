from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from recorded_run import RecordedRun, submit_recorded, train_recorded
from support import TRIALS

from trialrun import BookkeepingError, CheckpointError, InvalidTrialError
from trialrun.controller.bookkeeping import CheckpointState, ExperimentRow, mark_checkpoint
from trialrun.controller.engine.building import Split
from trialrun.controller.engine.parallel.slots import SlotError
from trialrun.controller.inference.evaluating import open_checkpoint
from trialrun.controller.trial_source import trial_file_of


def evaluated(run: RecordedRun, which: str, split: Split = Split.VALIDATION) -> dict[str, float]:
    opened = open_checkpoint(run.database, run.experiment.id, which)
    return opened.inference.evaluate(split).metrics


def test_metrics_are_those_that_training_recorded_bit_for_bit(trained: RecordedRun) -> None:
    first = trained.checkpoints[-1]
    assert first.batches == 4
    assert evaluated(trained, "latest") == trained.validation(8)
    assert evaluated(trained, first.uuid[:6]) == trained.validation(4)
    assert trained.validation(4) != trained.validation(8)
    assert {"loss", "noise", "largest"} == trained.validation(8).keys()


@pytest.mark.parametrize(
    ("trial", "slots"), [("conv.py", 4), ("gan.py", 1), ("reducing.py", 4), ("streaming.py", 2)]
)
def test_every_kind_of_trial_evaluates_as_in_training(
    tmp_path: Path, trial: str, slots: int
) -> None:
    run = train_recorded(
        tmp_path,
        trial,
        slots=slots,
        max_length="4ba",
        checkpoint_period=None,
        hyperparameters={"loader": "stateful"},
    )
    assert evaluated(run, "latest") == run.validation(4)


def test_the_best_is_the_one_of_the_searched_metric(tmp_path: Path) -> None:
    # The noise is the same each time, so the first of all is the best.
    run = train_recorded(
        tmp_path, "predicting.py", checkpoint_policy="all", searcher={"metric": "noise"}
    )
    assert evaluated(run, "best") == run.validation(4)


def test_test_data_is_evaluated_where_there_is_any(trained: RecordedRun, tmp_path: Path) -> None:
    opened = open_checkpoint(trained.database, 1, "latest")
    found = opened.inference.evaluate(Split.TEST)
    assert found.num_records == 7
    assert found.metrics["loss"] != trained.validation(8)["loss"]
    run = train_recorded(tmp_path, "linear.py", max_length="2ba")
    with pytest.raises(
        InvalidTrialError,
        match=r"^Linear has no build_test_data_loader, which --data test needs\. Write:\n"
        r"    def build_test_data_loader\(self\): \.\.\.$",
    ):
        evaluated(run, "latest", Split.TEST)


def test_nothing_is_recorded(tmp_path: Path) -> None:
    run = train_recorded(tmp_path, "predicting.py")

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in run.home.folder.rglob("*") if path.is_file()}

    before = files()
    evaluated(run, "latest")
    evaluated(run, "best", Split.TEST)
    assert files() == before


def test_a_checkpoint_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    run = submit_recorded(tmp_path, "linear.py", searcher={"metric": "accuracy"})
    with pytest.raises(CheckpointError, match=r"^Experiment 1 has no checkpoint whose files are t"):
        evaluated(run, "best")
    run.attempt()
    with pytest.raises(
        CheckpointError, match=r"has the metric 'accuracy', which says .* latest, o"
    ):
        evaluated(run, "best")
    other = train_recorded(tmp_path, "linear.py", max_length="2ba")
    with pytest.raises(CheckpointError, match=r"belongs to trial 2, not to experiment 1\."):
        evaluated(run, other.latest.uuid)
    with pytest.raises(BookkeepingError, match=r"^There is no checkpoint 'newest'\."):
        evaluated(run, "newest")
    with pytest.raises(BookkeepingError, match=r"^There is no experiment 3\."):
        open_checkpoint(run.database, 3, "latest")
    mark_checkpoint(run.database, run.latest.uuid, CheckpointState.DELETED)
    with pytest.raises(
        CheckpointError, match=r"were deleted by the rules of checkpoint_gc\. Choos"
    ):
        evaluated(run, run.checkpoints[0].uuid)
    (Path(run.checkpoints[1].path) / "model.safetensors").write_bytes(b"short")
    with pytest.raises(
        CheckpointError, match=r"has 5 bytes, but \d+ were written\. Choose another"
    ):
        evaluated(run, "latest")


def test_a_changed_or_missing_trial_file_is_said(tmp_path: Path, caplog: Any) -> None:
    path = tmp_path / "own_linear.py"
    shutil.copy(TRIALS / "linear.py", path)
    run = train_recorded(tmp_path, path, max_length="2ba")
    recorded = run.validation(2)
    path.write_text(path.read_text() + "\n# changed\n")
    assert evaluated(run, "latest") == recorded
    assert f"{path} has changed since experiment 1 was submitted" in caplog.text
    path.unlink()
    assert evaluated(run, "latest") == recorded, "the copy of it is used"


def test_users_errors_keep_their_cause(tmp_path: Path) -> None:
    path = tmp_path / "failing.py"
    source = (TRIALS / "linear.py").read_text()
    source = source.replace(
        'return {"loss": self.loss(batch)}',
        "__import__('pathlib').Path(__file__).with_name('good').stat()\n"
        '        return {"loss": self.loss(batch)}',
    )
    path.write_text(source)
    (tmp_path / "good").touch()
    run = train_recorded(tmp_path, path, max_length="2ba")
    (tmp_path / "good").unlink()
    with pytest.raises(SlotError) as caught:
        evaluated(run, "latest")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_scripts_experiment_is_for_load_trial(trained: RecordedRun) -> None:
    row = trained.experiment
    by_script = ExperimentRow(id=row.id, trial_file=row.trial_file, trial_class="__main__:Digits")
    with pytest.raises(
        InvalidTrialError,
        match=r"^Experiment 1 was trained by a script of yours, which alone can make its Digits\. "
        r"Load it there with trialrun\.load_trial\(UUID, trial_class=\.\.\.\)\.$",
    ):
        trial_file_of(by_script)
