"""A trial file that was written for Determined runs by changing one import."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from support import make_spec, run_session, run_with_stops, write_trial

import trialrun
import trialrun.compat.determined as det
from trialrun.compat.determined import pytorch

HEAD = """
import logging
from typing import Any, Dict, Sequence, Union, cast

import torch
from torch import nn
from trials.linear import records

from trialrun.compat.determined import pytorch
import trialrun.compat.determined as det
"""
TRIAL = (
    HEAD
    + """
TorchData = Union[Dict[str, torch.Tensor], Sequence[torch.Tensor], torch.Tensor]


class Epochs(pytorch.PyTorchCallback):
    def __init__(self) -> None:
        self.seen = 0

    def on_training_epoch_end(self, epoch_idx: int) -> None:
        self.seen += 1

    def state_dict(self) -> Dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        self.seen = state_dict["seen"]


class LinearTrial(pytorch.PyTorchTrial):
    def __init__(self, context: pytorch.PyTorchTrialContext) -> None:
        self.context = context
        if context.get_hparam("lr") > 1:
            raise det.InvalidHP("lr above 1 diverges")
        self.model = self.context.wrap_model(nn.Linear(3, 1, dtype=torch.float64))
        self.optimizer = self.context.wrap_optimizer(
            torch.optim.SGD(self.model.parameters(), lr=self.context.get_hparam("lr"))
        )
        self.scheduler = self.context.wrap_lr_scheduler(
            torch.optim.lr_scheduler.StepLR(self.optimizer, 1, gamma=0.5),
            step_mode=pytorch.LRScheduler.StepMode.STEP_EVERY_EPOCH,
        )

    def build_callbacks(self) -> Dict[str, pytorch.PyTorchCallback]:
        return {"epochs": Epochs()}

    def build_training_data_loader(self) -> pytorch.DataLoader:
        return pytorch.DataLoader(
            records(12), batch_size=self.context.get_per_slot_batch_size(), shuffle=True
        )

    def build_validation_data_loader(self) -> pytorch.DataLoader:
        return pytorch.DataLoader(records(7), batch_size=self.context.get_per_slot_batch_size())

    def train_batch(
        self, batch: pytorch.TorchData, epoch_idx: int, batch_idx: int
    ) -> Dict[str, torch.Tensor]:
        batch = cast(Sequence[torch.Tensor], batch)
        inputs, targets = batch
        loss = nn.functional.mse_loss(self.model(inputs), targets)
        self.context.backward(loss)
        self.context.step_optimizer(
            self.optimizer,
            clip_grads=lambda params: torch.nn.utils.clip_grad_norm_(params, 0.5),
        )
        return {"loss": loss}

    def evaluate_batch(self, batch: pytorch.TorchData) -> Dict[str, Any]:
        inputs, targets = cast(Sequence[torch.Tensor], batch)
        return {"loss": nn.functional.mse_loss(self.model(inputs), targets)}
"""
)
HPARAMS = {"lr": 0.1, "global_batch_size": 4}


def test_a_trial_of_determineds_kind_trains_and_resumes(tmp_path: Path) -> None:
    path = write_trial(tmp_path, TRIAL)
    spec = make_spec(path, hyperparameters=HPARAMS)
    straight = run_session(spec, tmp_path / "straight")
    stopped = run_with_stops(spec, tmp_path / "stopped", [("progress", 2), ("progress", 5)])
    assert stopped.reported == straight.reported
    # Eight batches of three an epoch.
    assert straight.checkpoints[-1].contents.state["callbacks"] == {"epochs": {"seen": 2}}


def test_hyperparameters_may_be_refused(tmp_path: Path) -> None:
    path = write_trial(tmp_path, TRIAL)
    with pytest.raises(trialrun.TrialrunError, match="^lr above 1 diverges$"):
        run_session(make_spec(path, hyperparameters={**HPARAMS, "lr": 2}), tmp_path / "c")
    with pytest.raises(TypeError, match="InvalidHP got an int; its message is a string."):
        det.InvalidHP(3)  # type: ignore[arg-type]


def test_a_script_is_told_that_there_is_no_cluster() -> None:
    assert det.get_cluster_info() is None
    assert det.pytorch is pytorch
    record = logging.LogRecord("name", logging.INFO, "", 1, "text", None, None)
    assert logging.Formatter(det.LOG_FORMAT).format(record) == "INFO: name: text"
    with pytest.raises(AttributeError, match="has no attribute 'keras'"):
        det.keras  # noqa: B018 - the access is the test


def test_every_error_is_an_exception_of_trialrun() -> None:
    for name in det.errors.__all__:
        assert issubclass(getattr(det.errors, name), trialrun.TrialrunError)
    with pytest.raises(det.errors.InvalidExperimentException):
        raise trialrun.InvalidTrialError("any")


def test_the_names_are_sorted_and_there() -> None:
    for module in (det, pytorch, det.errors):
        assert list(module.__all__) == sorted(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


# Old forms of callbacks.


def test_old_forms_of_callbacks_still_work_with_a_warning(tmp_path: Path) -> None:
    path = write_trial(
        tmp_path,
        TRIAL
        + """
class Old(pytorch.PyTorchCallback):
    def __init__(self, heard):
        self.heard = heard

    def on_training_epoch_start(self):
        self.heard.append("epoch")

    def on_checkpoint_end(self, checkpoint_dir):
        self.heard.append("old")

    def on_checkpoint_write_end(self, checkpoint_dir):
        self.heard.append("new")

    def on_trial_shutdown(self):
        logging.getLogger("heard").warning(" ".join(self.heard))


class WithOld(LinearTrial):
    def build_callbacks(self):
        return {"old": Old([])}
""",
    )
    spec = make_spec(
        path, hyperparameters=HPARAMS, max_length="4ba", checkpoint_period="2ba", slots=1
    )
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("heard").addHandler(handler)
    with pytest.warns(FutureWarning) as warned:
        run_session(spec, tmp_path / "checkpoints")
    assert heard == ["epoch old new epoch old new"]
    assert [str(warning.message) for warning in warned if warning.category is FutureWarning] == [
        "Old.on_training_epoch_start should take epoch_idx.",
        "Old.on_checkpoint_end should be called on_checkpoint_write_end.",
    ]


def test_a_method_for_no_event_is_warned_of_once_and_not_refused(tmp_path: Path) -> None:
    path = write_trial(
        tmp_path,
        TRIAL
        + """
class Lightning(pytorch.PyTorchCallback):
    on_fire = False

    def on_train_batch_end(self, batch_idx):
        raise AssertionError("nobody calls it")


class Further(Lightning):
    def on_validation_end(self, metrics):
        pass


class Calling(LinearTrial):
    def build_callbacks(self):
        return {"one": Lightning(), "other": Further()}
""",
    )
    spec = make_spec(path, hyperparameters=HPARAMS, max_length="1ba", slots=1)
    with pytest.warns(UserWarning) as warned:
        run_session(spec, tmp_path / "checkpoints")
    assert [str(w.message) for w in warned if "never called" in str(w.message)] == [
        "Lightning.on_train_batch_end is never called: a PyTorchCallback has no such event. Did "
        "you mean 'on_training_batch_end'?"
    ]


# Loaders outside of a trial.


def test_a_loader_may_be_taken_apart() -> None:
    loader = pytorch.DataLoader(np.arange(11), batch_size=2)
    shares = [
        [
            batch.tolist()
            for batch in loader.get_data_loader(repeat=False, skip=1, num_replicas=2, rank=rank)
        ]
        for rank in range(2)
    ]
    assert shares == [[[4, 5], [8, 9]], [[6, 7], [10]]]
    endless = iter(loader.get_data_loader(repeat=True, skip=5))
    assert [next(endless).tolist() for _ in range(2)] == [[10], [0, 1]]


def test_batches_of_any_sampler_are_repeated_dealt_and_skipped() -> None:
    batches = [[0, 1], [2], [3, 4]]
    adapted = iter(pytorch.adapt_batch_sampler(batches, True, 1, 2, 1))  # type: ignore[arg-type]
    assert [next(adapted) for _ in range(3)] == [[0, 1], [3, 4], [2]]
