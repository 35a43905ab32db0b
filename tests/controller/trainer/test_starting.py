"""What ``latest_checkpoint`` may name, and which experiment then goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import trialrun
from trialrun import BookkeepingError, CheckpointError, RunConflictError
from trialrun.controller import claiming
from trialrun.controller.bookkeeping import CheckpointRow, get_experiment, get_trial
from trialrun.controller.config import read_config
from trialrun.controller.experiments import submit_experiment
from trialrun.controller.home import find_home
from trialrun.controller.launch.lock import TrialLock
from trialrun.controller.trainer.fitting import TrainingResult

from .scripts import FIT, Scripts, load, pausing_at


@pytest.fixture
def paused(scripts: Scripts) -> TrainingResult:
    """A run that was paused after 6 of 10 batches."""
    return scripts.train(pausing_at(load("linear"), 6))


def at_batch(scripts: Scripts, batches: int) -> CheckpointRow:
    return next(row for row in scripts.checkpoints() if row.batches == batches)


def test_the_newest_checkpoint_by_uuid_path_or_row_goes_on_with_its_experiment(
    paused: TrainingResult, scripts: Scripts
) -> None:
    newest = scripts.checkpoints()[0]
    names = [newest.uuid[:8], paused.checkpoint, str(paused.checkpoint), newest]
    for name in names:
        result = scripts.train(
            pausing_at(load("linear"), 6), max_length="6ba", latest_checkpoint=name
        )
        assert (result.experiment, result.batches) == (1, 6)
    assert [row.resumed_from for row in scripts.attempts()] == [None] + [newest.uuid] * 4


def test_an_older_checkpoint_begins_a_new_experiment_that_ends_with_the_same_bits(
    paused: TrainingResult, scripts: Scripts, caplog: pytest.LogCaptureFixture
) -> None:
    older = at_batch(scripts, 4)
    result = scripts.train(load("linear"), latest_checkpoint=older.uuid)
    assert (result.experiment, result.batches) == (2, 10)
    assert (
        "Experiment 1 has a newer checkpoint, of batch 6, than the one of batch 4, so a new "
        "experiment begins there." in caplog.messages
    )
    assert scripts.attempts(2)[0].resumed_from == older.uuid
    assert get_trial(scripts.database, 1).batches_completed == 6  # nothing of it is lost
    scripts.train(load("linear"), {"name": "straight"})
    assert scripts.digests(2)[10] == scripts.digests(3)[10]


def test_a_new_experiment_without_a_checkpoint_goes_on_from_the_one_it_began_with(
    paused: TrainingResult, scripts: Scripts
) -> None:
    class Failing(load("linear")):  # type: ignore[misc]  # a class that mypy does not see
        def train_batch(self, *_: object, **__: object) -> None:
            raise OSError("no data")

    linear = load("linear")
    Failing.__module__, Failing.__qualname__ = linear.__module__, linear.__qualname__
    older = at_batch(scripts, 4)
    settings = {"name": "branch"}
    with pytest.raises(OSError, match="no data"):
        scripts.train(Failing, settings, latest_checkpoint=older.uuid)
    result = scripts.train(linear, settings, latest_checkpoint="latest", max_length="5ba")
    assert (result.experiment, result.batches) == (2, 5)
    assert [row.first_batch for row in scripts.attempts(2)] == [4, 4]
    with pytest.raises(OSError, match="no data"):
        scripts.train(Failing, {"name": "lost"}, latest_checkpoint=older.uuid)
    shutil.rmtree(older.path)
    with pytest.raises(RunConflictError) as caught:
        scripts.train(linear, {"name": "lost"}, latest_checkpoint="latest")
    assert str(caught.value) == (
        f"Experiment 3 began at batch 4 from checkpoint {older.uuid}, which is not at hand, and "
        "has none of its own yet. Give latest_checkpoint the path of that checkpoint."
    )


def test_a_copy_of_a_checkpoint_begins_a_new_experiment(
    paused: TrainingResult, scripts: Scripts, tmp_path: Path
) -> None:
    assert paused.checkpoint is not None
    copy = shutil.copytree(paused.checkpoint, tmp_path / "copy")
    elsewhere = Scripts(tmp_path / "another home")
    assert elsewhere.train(load("linear"), latest_checkpoint=copy).batches == 10
    scripts.train(load("linear"), latest_checkpoint="latest")
    assert elsewhere.digests()[10] == scripts.digests()[10]


def test_a_submitted_experiment_is_left_as_it_is(paused: TrainingResult, scripts: Scripts) -> None:
    config = read_config(FIT | {"slots": 2, "seed": 7})
    file = Path(load("linear").__module__.replace(".", "/")).with_suffix(".py")
    submit_experiment(
        scripts.database,
        find_home(str(scripts.home)),
        trial_file=Path(__file__).parents[2] / file,
        trial_class=None,
        config=config.model_copy(update={"name": "linear"}),
    )
    assert scripts.train(load("linear"), latest_checkpoint="latest").experiment == 1


@pytest.mark.parametrize(
    "settings", [{"seed": 8}, {"slots": 1}, {"hparams": {"note": 1}}, {"name": "other"}]
)
def test_latest_goes_on_with_the_same_call_of_init_alone(
    settings: dict[str, object], paused: TrainingResult, scripts: Scripts
) -> None:
    assert scripts.train(load("linear"), settings, latest_checkpoint="latest").experiment == 2
    assert scripts.attempts(2)[0].first_batch == 0


def test_another_hyperparameter_begins_a_new_experiment_and_is_named(
    paused: TrainingResult, scripts: Scripts, caplog: pytest.LogCaptureFixture
) -> None:
    result = scripts.train(
        load("linear"), {"hparams": {"note": 2}}, latest_checkpoint=paused.checkpoint
    )
    assert result.experiment == 2
    assert scripts.attempts(2)[0].first_batch == 6
    assert (
        "Hyperparameter 'note' was 'absent' and is now 2: a new experiment begins at the "
        "checkpoint, and the result differs from a run without this change." in caplog.messages
    )


def test_the_threads_are_those_with_which_the_experiment_began(
    scripts: Scripts, caplog: pytest.LogCaptureFixture
) -> None:
    threads = {"checkpoint_gc": {"save_trial_latest": 9}, "intra_op_threads": 2}
    scripts.train(pausing_at(load("linear"), 6), {"exp_conf": threads})
    scripts.train(load("linear"), latest_checkpoint="latest")
    assert get_experiment(scripts.database, 1).config["intra_op_threads"] == 2
    assert not [message for message in caplog.messages if "threads" in message]


def test_latest_without_an_experiment_begins_one(scripts: Scripts) -> None:
    assert scripts.train(load("linear"), latest_checkpoint="latest").batches == 10


# Bad input.


def test_another_run_is_refused_before_anything_is_recorded(
    paused: TrainingResult, scripts: Scripts
) -> None:
    with pytest.raises(CheckpointError) as caught:
        scripts.train(load("linear"), {"seed": 8}, latest_checkpoint=paused.checkpoint)
    assert paused.checkpoint is not None
    assert str(caught.value) == (
        f"The checkpoint {paused.checkpoint.name} belongs to another run: seed was 7 and is now 8. "
        "Call trialrun.init with the values of that run, or leave latest_checkpoint out."
    )
    assert len(scripts.attempts()) == 1


def test_unknown_and_broken_checkpoints_are_refused(
    paused: TrainingResult, scripts: Scripts, tmp_path: Path
) -> None:
    with pytest.raises(BookkeepingError, match=r"^There is no checkpoint 'abcdef'\. `trialrun"):
        scripts.train(load("linear"), latest_checkpoint="abcdef")
    for name in ("best", 3):
        with pytest.raises(BookkeepingError) as unknown:
            scripts.train(load("linear"), latest_checkpoint=name)
        assert str(unknown.value) == (
            f"latest_checkpoint={name!r} names no checkpoint. Give 'latest' for the newest of this "
            "script, or the uuid or the folder of one: `trialrun checkpoint list` shows them with "
            "their metrics."
        )
    with pytest.raises(CheckpointError) as caught:
        scripts.train(load("linear"), latest_checkpoint=tmp_path)
    assert str(caught.value).startswith(
        f"{tmp_path} is no checkpoint: its metadata.json cannot be read ("
    )
    assert str(caught.value).endswith(
        "Give the folder of a checkpoint, its uuid, or 'latest'; `trialrun checkpoint list` shows "
        "them."
    )
    assert paused.checkpoint is not None
    (paused.checkpoint / "state.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"state\.pt has 7 bytes, but "):
        scripts.train(load("linear"), latest_checkpoint=paused.checkpoint)


def test_a_checkpoint_whose_files_are_gone_is_refused(scripts: Scripts) -> None:
    scripts.train(load("linear"), {"exp_conf": {}})
    deleted = scripts.checkpoints()[-1]
    with pytest.raises(CheckpointError) as caught:
        scripts.train(load("linear"), latest_checkpoint=deleted.uuid)
    assert str(caught.value) == (
        f"Checkpoint {deleted.uuid} cannot be gone on from: it is DELETED. `trialrun checkpoint "
        "list` shows those that are COMPLETED."
    )


def test_an_experiment_that_runs_is_not_gone_on_with(
    paused: TrainingResult, scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "_LOCK_WAIT_SECONDS", 0.0)
    lock = TrialLock.take(scripts.home / "experiments" / "1" / "trials" / "1" / "lock")
    assert lock is not None
    try:
        with pytest.raises(RunConflictError, match=r"^Experiment 1 runs already\. Pause it first"):
            scripts.train(load("linear"), latest_checkpoint="latest")
    finally:
        lock.release()


def test_a_fit_within_a_fit_is_refused(scripts: Scripts) -> None:
    messages = []

    class Impatient(load("linear")):  # type: ignore[misc]  # a class that mypy does not see
        def build_training_data_loader(self) -> object:
            try:
                trainer.fit(**FIT)
            except RunConflictError as error:
                messages.append(str(error))
            return super().build_training_data_loader()

    with scripts.init() as context:
        trainer = trialrun.Trainer(Impatient(context), context)
        assert trainer.fit(**FIT).is_completed
    assert messages == ["This Trainer trains already. Wait for that fit to return before the next."]
