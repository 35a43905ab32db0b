from __future__ import annotations

import gc
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recorded_run import RecordedRun, train_recorded
from safetensors.torch import load_file
from support import TRIALS, write_trial
from trials import linear
from trials.predicting import Predicting, records

import trialrun
from trialrun import CheckpointError, InvalidTrialError, Trial
from trialrun.controller.engine.building import Split
from trialrun.controller.inference.evaluating import open_checkpoint


def model_of(trial: Trial) -> torch.nn.Module:
    return trial.context.models[0]  # type: ignore[attr-defined, no-any-return]


def test_a_folder_gives_the_trial_that_was_trained(trained: RecordedRun) -> None:
    trial = trialrun.load_trial(trained.latest.path, device="cpu")
    assert type(trial).__name__ == "Predicting"
    saved = load_file(Path(trained.latest.path) / "model.safetensors")
    state = model_of(trial).state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in saved)
    assert not any(module.training for module in model_of(trial).modules())
    assert trial.context.optimizers[0].state == {}  # type: ignore[attr-defined]


def test_the_context_answers_as_in_training_at_that_batch(trained: RecordedRun) -> None:
    trial = trialrun.load_trial(trained.checkpoints[-1].path)
    context = trial.context  # type: ignore[attr-defined]
    assert context.get_hparams() == {"depth": 3}
    assert (context.num_slots, context.slot, context.get_trial_seed()) == (2, 0, 7)
    # 20 records in global batches of 6: 4 batches an epoch.
    assert (context.current_train_batch(), context.current_train_epoch()) == (4, 1)
    with pytest.raises(
        InvalidTrialError, match=r"^wrap_model was called after the trial's __init__ "
    ):
        context.wrap_model(torch.nn.Linear(1, 1))


def test_a_loaded_trial_is_not_trained(trained: RecordedRun) -> None:
    trial = trialrun.load_trial(trained.latest.path, device="cpu")
    context = trial.context  # type: ignore[attr-defined]
    refused = (
        " was called, but this trial was loaded, not trained: its context takes no steps. To go on "
        "from its weights, run: trialrun submit FILE.py --from-checkpoint UUID."
    )
    with pytest.raises(InvalidTrialError) as caught:
        trial.train_batch(records(4).tensors, 0, 0)
    assert str(caught.value) == "backward" + refused
    assert all(parameter.grad is None for parameter in model_of(trial).parameters())
    with pytest.raises(InvalidTrialError) as caught:
        context.step_optimizer(context.optimizers[0])
    assert str(caught.value) == "step_optimizer" + refused


def test_a_trial_that_asks_who_it_is_and_writes_events_can_be_loaded(tmp_path: Path) -> None:
    source = """
from trials.linear import Linear

class Asking(Linear):
    def set_up(self):
        context = self.context
        self.answers = context.get_experiment_config()["name"], context.get_experiment_id()
        self.writer = context.get_tensorboard_writer()

    def evaluate_batch(self, batch, batch_idx):
        self.writer.add_scalar("of_its_own", batch_idx, batch_idx)
        return super().evaluate_batch(batch, batch_idx)
"""
    run = train_recorded(tmp_path, write_trial(tmp_path, source), max_length="2ba", name="asking")

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in run.home.folder.rglob("*") if path.is_file()}

    kept = files()
    trial = trialrun.load_trial(run.latest.path)
    assert trial.answers == ("asking", 1)  # type: ignore[attr-defined]
    with torch.no_grad():
        trial.evaluate_batch(linear.records(4).tensors, 0)
    opened = open_checkpoint(run.database, 1, "latest")
    assert opened.inference.evaluate(Split.VALIDATION).metrics == run.validation(2)
    assert files() == kept
    events = trial.context.get_tensorboard_path()  # type: ignore[attr-defined]
    assert events.is_dir()
    del trial
    gc.collect()
    assert not events.exists(), "a folder that nobody asks for any more"


def test_a_uuid_is_looked_up_in_a_home(trained: RecordedRun, monkeypatch: Any) -> None:
    uuid = trained.checkpoints[-1].uuid
    by_home = trialrun.load_trial(uuid[:8], home=trained.home.folder)
    by_db = trialrun.load_trial(uuid.upper(), db=trained.home.database_url)
    monkeypatch.setenv("TRIALRUN_HOME", str(trained.home.folder))
    by_environment = trialrun.load_trial(uuid)
    first = load_file(Path(trained.checkpoints[-1].path) / "model.safetensors")["0.weight"]
    for trial in (by_home, by_db, by_environment):
        assert torch.equal(model_of(trial).state_dict()["0.weight"], first)


def test_class_and_hyperparameters_can_be_given(trained: RecordedRun) -> None:
    class Mine(Predicting):  # type: ignore[misc]  # test trials are untyped
        pass

    trial = trialrun.load_trial(trained.latest.path, Mine, {"predicts": "columns"})
    assert isinstance(trial, Mine)
    assert trial.context.get_hparams() == {"depth": 3, "predicts": "columns"}
    (batch,) = [records(5).tensors]
    assert set(trial.predict_batch(batch, 0)) == {"label", "pairs", "sure", "half", "brain"}


def test_the_callers_generators_and_threads_stay(trained: RecordedRun) -> None:
    torch.set_num_threads(2)
    try:
        torch.manual_seed(5), np.random.seed(5), random.seed(5)
        expected = torch.rand(3), np.random.rand(), random.random()
        torch.manual_seed(5), np.random.seed(5), random.seed(5)
        trialrun.load_trial(trained.latest.path)
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.rand(3), expected[0])
        assert (np.random.rand(), random.random()) == expected[1:]
    finally:
        torch.set_num_threads(1)


def test_several_models_and_buffers_outside_of_the_state_come_back(tmp_path: Path) -> None:
    gan = train_recorded(tmp_path / "gan", "gan.py", max_length="4ba")
    trial = trialrun.load_trial(gan.latest.path)
    models = trial.context.models  # type: ignore[attr-defined]
    assert len(models) == 2
    for index, model in enumerate(models):
        saved = load_file(Path(gan.latest.path) / f"model-{index}.safetensors")
        assert all(torch.equal(model.state_dict()[name], saved[name]) for name in saved)
    counting = train_recorded(tmp_path / "counting", "counting.py", max_length="4ba")
    # Slot 0 has seen 2 records in each of 4 batches; the buffer is in no state_dict.
    assert model_of(trialrun.load_trial(counting.latest.path)).seen == 8


def copied(trained: RecordedRun, folder: Path) -> Path:
    return Path(shutil.copytree(trained.latest.path, folder / "a" / "b" / "c" / "d" / "copy"))


def change_metadata(folder: Path, **changes: Any) -> None:
    path = folder / "metadata.json"
    metadata = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in metadata.items() if v is not None}))


def test_a_moved_trial_file_is_found_in_the_experiments_folder(
    trained: RecordedRun, tmp_path: Path
) -> None:
    folder = copied(trained, tmp_path)
    change_metadata(folder, trial_file="/nowhere/predicting.py")
    with pytest.raises(
        InvalidTrialError,
        match=rf"^/nowhere/predicting\.py is gone, and so is its copy {tmp_path}/a/predicting\.py"
        r"\. Restore one of them\. Or give trial_class=\.$",
    ):
        trialrun.load_trial(folder)
    shutil.copy(TRIALS / "predicting.py", tmp_path / "a")
    assert type(trialrun.load_trial(folder)).__module__ != Predicting.__module__
    change_metadata(folder, trial_file=None)
    with pytest.raises(CheckpointError, match=r"does not say 'trial_file'\. Give trial_class=\.$"):
        trialrun.load_trial(folder)


def test_what_is_missing_is_named(trained: RecordedRun, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    change_metadata(folder, hyperparameters=None)
    with pytest.raises(CheckpointError, match=r"does not say 'hyperparameters'\. Give hparams=\.$"):
        trialrun.load_trial(folder)
    assert trialrun.load_trial(folder, hparams={}).context.get_hparams() == {}  # type: ignore[attr-defined]
    change_metadata(folder, epoch_length=None)
    with pytest.raises(CheckpointError, match=r"'epoch_length'\. It was written by another ver"):
        trialrun.load_trial(folder, hparams={})
    for name in ("model.safetensors", "metadata.json"):
        other = copied(trained, tmp_path / name)
        (other / name).unlink()
        with pytest.raises(CheckpointError, match=f"is no whole checkpoint: {name} is missing"):
            trialrun.load_trial(other)


def test_a_cut_file_cannot_be_read(trained: RecordedRun, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=rf"^Checkpoint copy in {folder.parent} cannot be re"):
        trialrun.load_trial(folder)


def test_a_changed_byte_is_found_where_hashes_are_on_record(tmp_path: Path) -> None:
    run = train_recorded(tmp_path, "linear.py", max_length="4ba")
    path = Path(run.latest.path) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"its bytes have changed\. Choose another: trialrun"):
        trialrun.load_trial(run.latest.uuid, home=run.home.folder)


def test_what_is_no_checkpoint_is_refused(trained: RecordedRun, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^'no/such' is neither a folder nor the UUID of a"):
        trialrun.load_trial("no/such")
    with pytest.raises(CheckpointError, match=r"is no whole checkpoint: model\.safetensors is mi"):
        trialrun.load_trial(tmp_path)
    with pytest.raises(trialrun.BookkeepingError, match=r"^There is no checkpoint 'abcdef'\."):
        trialrun.load_trial("abcdef", home=trained.home.folder)
    with pytest.raises(InvalidTrialError, match=r"trial_class=<class 'dict'> is no Trial\."):
        trialrun.load_trial(trained.latest.path, dict)  # type: ignore[arg-type]


def test_another_shape_is_refused_with_both_sides(trained: RecordedRun) -> None:
    class Wider(Predicting):  # type: ignore[misc]
        def __init__(self, context: Any) -> None:
            context.wrap_model(torch.nn.Sequential(torch.nn.Linear(3, 9)))

    with pytest.raises(
        CheckpointError,
        match=r"does not fit model 0: 0\.bias is \(9,\) torch\.float32 in the trial and \(8,\) tor",
    ):
        trialrun.load_trial(trained.latest.path, Wider)


def test_nothing_of_a_checkpoint_runs_as_code(trained: RecordedRun, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    torch.save({"model_extra_states": [{}], "evil": _Evil(tmp_path)}, folder / "state.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        trialrun.load_trial(folder)
    assert not (tmp_path / "ran").exists()


class _Evil:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return (Path.touch, (self.folder / "ran",))
