from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from support import Run, make_spec, resume, run_session, write_trial

from trialrun.controller.engine.loop import Outcome
from trialrun.controller.engine.session import TrialSpec
from trialrun.controller.verification.diary import Diaries, read_diaries
from trialrun.controller.verification.observer import Observer
from trialrun.controller.verification.scenarios import Moment, Stop

SHAPES = """
from trials.linear import Linear
import torch

class Counting(Linear):
    def set_up(self):
        self.seen, self._kept, self.constant = 0, 0, [1, 2]
        self.parts = [self.model, self.optimizer]
        self.scratch = torch.zeros(2)

    def train_batch(self, batch, epoch_idx, batch_idx):
        self.seen += 1
        self._kept += 1
        self.scratch += 1
        return super().train_batch(batch, epoch_idx, batch_idx)

    def state_dict(self):
        return {"kept": self._kept}

    def load_state_dict(self, state_dict):
        self._kept = state_dict["kept"]
"""


def observed(spec: TrialSpec, folder: Path, **changes: Any) -> TrialSpec:
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"stop": None, "num_workers": None, "last_batch": 7}
    observer = Observer(folder=folder, **{**settings, **changes})
    return dataclasses.replace(spec, observer=observer)


def run(spec: TrialSpec, folder: Path, **changes: Any) -> tuple[Run, Diaries]:
    ended = run_session(observed(spec, folder / "diaries", **changes), folder / "checkpoints")
    return ended, read_diaries(folder / "diaries")


def test_each_slot_writes_down_what_it_was_given_in_each_batch(tmp_path: Path) -> None:
    spec = make_spec("linear.py")
    ended, diaries = run(spec, tmp_path)
    assert ended.reported == run_session(spec, tmp_path / "alone").reported
    assert set(diaries.records) == {(batch, slot) for batch in range(8) for slot in range(2)}
    # 12 records in pairs: each pair once in each epoch of 3 batches, shuffled anew.
    first, second = (
        {pair for (batch, _), (pair,) in diaries.records.items() if batch // 3 == epoch}
        for epoch in (0, 1)
    )
    assert len(first) == len(second) == 6
    assert first != second
    assert diaries.num_validation_batches == 2 * 4
    assert diaries.num_workers == 0


def test_batches_that_are_trained_again_are_given_the_same_records(tmp_path: Path) -> None:
    spec = make_spec("linear.py", checkpoint_period="2ba")
    _, straight = run(spec, tmp_path / "straight")
    first, _ = run(spec, tmp_path / "stopped", stop=Stop(moment=Moment.TRAINING, batch=4))
    assert (first.outcome, first.batches) == (Outcome.PAUSED, 5)
    # From an older checkpoint than the newest, as after a kill.
    older = dataclasses.replace(first, checkpoints=first.checkpoints[:1])
    _, stopped = run(resume(spec, older), tmp_path / "stopped")
    assert stopped.records == straight.records


def test_a_request_may_come_during_a_validation_which_is_then_owed(tmp_path: Path) -> None:
    stop = Stop(moment=Moment.VALIDATION, batch=4)
    ended, _ = run(make_spec("linear.py"), tmp_path, stop=stop)
    assert (ended.outcome, ended.batches) == (Outcome.PAUSED, 4)
    assert ended.validation == []


def test_attributes_that_training_changes_and_no_checkpoint_holds_are_named(
    tmp_path: Path,
) -> None:
    spec = make_spec(write_trial(tmp_path, SHAPES))
    _, diaries = run(spec, tmp_path, watches_state=True)
    assert [change.name for change in diaries.changed if not change.is_saved] == [
        "self.scratch",
        "self.seen",
    ]
    assert [change.name for change in diaries.changed if change.is_saved] == ["self._kept"]


HIDING = """
import itertools
import torch
from torch.utils.data import Dataset
from trialrun import Callback, DataLoader
from trials.linear import Linear

HISTORY = []

class Model(torch.nn.Linear):
    calls = 0

    def forward(self, inputs):
        self.calls += 1
        return super().forward(inputs)

class Noted(Dataset):
    def __init__(self, records):
        self.records, self.asked = records, 0

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        self.asked += 1
        return self.records[index]

class Waiting(Callback):
    def __init__(self):
        self.heard = self.kept = 0

    def on_training_batch_end(self, batch_idx):
        self.heard += 1
        self.kept += 2

    def state_dict(self):
        return {"kept": self.kept}

    def load_state_dict(self, state_dict):
        self.kept = state_dict["kept"]

class Hiding(Linear):
    seen = 0

    def set_up(self):
        self.numbers = itertools.count()
        self.parts = {"model": self.model, "weights": list(self.model.parameters())}
        self.model.inner = Model(1, 1)

    def build_callbacks(self):
        return {"waiting": Waiting()}

    def build_training_data_loader(self):
        loader = super().build_training_data_loader()
        return DataLoader(Noted(loader.dataset), batch_size=loader.batch_size)

    def train_batch(self, batch, epoch_idx, batch_idx):
        next(self.numbers)
        Hiding.seen += 1
        HISTORY.append(batch_idx)
        self.model.inner(torch.zeros(1))
        return super().train_batch(batch, epoch_idx, batch_idx)
"""


def test_state_is_found_wherever_the_trial_hides_it(tmp_path: Path) -> None:
    spec = make_spec(write_trial(tmp_path, HIDING, "hiding_trial.py"))
    _, diaries = run(spec, tmp_path, watches_state=True)
    assert {(change.name, change.keeper) for change in diaries.changed if not change.is_saved} == {
        ("self.numbers", "TRIAL"),
        ("Hiding.seen in hiding_trial.py", "CODE"),
        ("HISTORY in hiding_trial.py", "CODE"),
        ("heard of the callback 'waiting'", "CALLBACK"),
        ("asked of the training data's Noted", "DATA"),
        ("model.0.inner.calls", "MODEL"),
    }
    assert [change.name for change in diaries.changed if change.is_saved] == [
        "kept of the callback 'waiting'"
    ]


def test_a_trial_that_keeps_nothing_is_not_blamed(tmp_path: Path) -> None:
    for name in ("averaging.py", "conv.py", "gan.py", "reducing.py", "lbfgs.py"):
        _, diaries = run(make_spec(name), tmp_path / name, watches_state=True)
        assert [change.name for change in diaries.changed if not change.is_saved] == []
        assert diaries.records


def test_a_trial_that_ends_itself_is_looked_at_before_its_planned_end(tmp_path: Path) -> None:
    source = SHAPES.replace(
        "self.seen += 1", "self.seen += 1; self.context.set_stop_requested(True)"
    )
    ended, diaries = run(make_spec(write_trial(tmp_path, source)), tmp_path, watches_state=True)
    assert ended.batches < 8
    assert "self.seen" in [change.name for change in diaries.changed]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loaders_have_the_number_of_workers_that_is_asked_for(
    num_workers: int, tmp_path: Path
) -> None:
    spec = make_spec(
        "linear.py", max_length="2ba", hyperparameters={"num_workers": 1 - num_workers}
    )
    own, own_diaries = run(spec, tmp_path / "own")
    other, diaries = run(spec, tmp_path / "other", num_workers=num_workers)
    assert (own_diaries.num_workers, diaries.num_workers) == (1 - num_workers, num_workers)
    assert other.reported == own.reported
    assert diaries.records == own_diaries.records


@pytest.mark.parametrize("moment", list(Moment))
def test_a_process_kills_itself_at_the_planned_moment(
    moment: Moment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(pid: int, number: signal.Signals) -> None:
        assert (pid, number) == (os.getpid(), signal.SIGKILL)
        raise Killed

    monkeypatch.setattr("os.kill", kill)
    # Where checkpoints are waited for, the killing one comes back to the test.
    source = """
from trials.linear import Linear
from trialrun import Callback

class Waiting(Callback):
    def on_checkpoint_upload_end(self, uuid):
        pass

class Waited(Linear):
    def build_callbacks(self):
        return {"waiting": Waiting()}
"""
    spec = make_spec(write_trial(tmp_path, source), checkpoint_period="2ba", slots=1)
    stop = Stop(moment=moment, batch=4, is_kill=True)
    with pytest.raises(Killed):
        run(spec, tmp_path, stop=stop)
    diaries = read_diaries(tmp_path / "diaries")
    last = 4 if moment is Moment.TRAINING else 3
    assert max(batch for batch, _ in diaries.records) == last


PLATEAU = """
from trials.linear import Linear
from torch.optim.lr_scheduler import ReduceLROnPlateau
from trialrun import Callback, StepMode

class Reducing(Linear):
    def set_up(self):
        self.reduction = self.context.wrap_lr_scheduler(
            lambda: ReduceLROnPlateau(self.optimizer, patience=0), StepMode.MANUAL_STEP
        )

    def build_callbacks(self):
        trial = self

        class Reduce(Callback):
            def on_validation_end(self, metrics):
                trial.reduction.step(metrics["loss"])

        return {"reduce": Reduce()}
"""


def test_a_scheduler_that_goes_by_validations_is_noted_and_its_handle_is_not_blamed(
    tmp_path: Path,
) -> None:
    spec = make_spec(write_trial(tmp_path, PLATEAU), validation_period="2ba")
    _, diaries = run(spec, tmp_path, watches_state=True)
    assert diaries.learns_from_validations
    assert diaries.changed == []
    _, others = run(make_spec("linear.py"), tmp_path / "others", watches_state=True)
    assert not others.learns_from_validations
