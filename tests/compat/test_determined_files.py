"""What trial files of Determined's users do besides: older names, constructors, TorchWriter."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from event_files import scalars
from support import make_spec, new_session, run_session, write_trial
from trials.linear import Linear

import trialrun.compat.determined as det
from trialrun import InvalidTrialError
from trialrun.compat.determined import pytorch
from trialrun.compat.determined.tensorboard.metric_writers.pytorch import TorchWriter

TRIAL = """
import numpy as np
import torch
from torch import nn
from trialrun.compat.determined.pytorch import (
    DataLoader, LRScheduler, MetricReducer, PyTorchTrial, PyTorchTrialContext
)
from trialrun.compat.determined.tensorboard.metric_writers.pytorch import TorchWriter


class Counts(MetricReducer):
    def __init__(self):
        self.reset()

    def reset(self):
        self.counts = [0.0] * 2

    def update(self, labels):
        for kind in range(2):
            self.counts[kind] += sum(labels == kind)

    def per_slot_reduce(self):
        return self.counts

    def cross_slot_reduce(self, per_slot_metrics):
        totals = [sum(slot[kind] for slot in per_slot_metrics) for kind in range(2)]
        return {f"count_{kind}": total for kind, total in enumerate(totals)}


class FileTrial(PyTorchTrial):
    def __init__(self, trial_context: PyTorchTrialContext, hparams: dict) -> None:
        super().__init__(trial_context)
        self.context = trial_context
        self.writer = TorchWriter()
        generator = torch.Generator().manual_seed(3)
        self.records = torch.randn(22, 3, generator=generator)
        self.model = self.context.wrap_model(nn.Linear(3, 1))
        self.optimizer = self.context.wrap_optimizer(
            torch.optim.SGD(self.model.parameters(), lr=hparams["lr"])
        )
        self.scheduler = self.context.wrap_lr_scheduler(
            lr_scheduler=torch.optim.lr_scheduler.StepLR(self.optimizer, 1, gamma=0.5),
            step_mode=LRScheduler.StepMode.STEP_EVERY_BATCH,
        )
        self.counts = self.context.experimental.wrap_reducer(Counts())

    def build_training_data_loader(self):
        records = [(row, number % 2) for number, row in enumerate(self.records[:16])]
        return DataLoader(records, self.context.get_per_slot_batch_size(), shuffle=True)

    def build_validation_data_loader(self):
        self.seen = self.context.experimental.wrap_reducer(self.reduce_seen, for_training=False)
        records = [(row, number % 2) for number, row in enumerate(self.records[16:])]
        return DataLoader(records, self.context.get_per_slot_batch_size())

    def train_batch(self, batch, epoch_idx, batch_idx):
        inputs, labels = batch
        loss = self.model(inputs).square().mean()
        self.context.backward(loss)
        self.context.step_optimizer(self.optimizer)
        self.counts.update(labels)
        self.writer.add_scalar("slot", float(self.context.distributed.get_rank()), batch_idx)
        return {"loss": loss, "lr": self.scheduler.get_last_lr()}

    def evaluate_batch(self, batch):
        inputs, labels = batch
        self.counts.update(labels)
        self.seen.update(([float(x) for x in inputs[:, 0]], [np.asarray(x) for x in inputs]))
        return {}

    def reduce_seen(self, values):
        numbers, arrays = zip(*values)
        return {"seen": sum(map(len, numbers)), "sum": sum(sum(a) for a in arrays).sum()}
"""
HPARAMS = {"lr": 1.0, "global_batch_size": 4}


def test_a_file_with_older_names_and_habits_trains(tmp_path: Path) -> None:
    path = write_trial(tmp_path, TRIAL)
    spec = make_spec(path, hyperparameters=HPARAMS, max_length="4ba", reporting_period="4ba")
    run = run_session(dataclasses.replace(spec, tensorboard=tmp_path / "e"), tmp_path / "c")
    ((_, _, training),) = run.training
    assert training["lr"] == (1.0 + 0.5 + 0.25 + 0.125) / 4  # a list of one number in each batch
    assert (training["count_0"], training["count_1"]) == (8, 8)
    ((_, _, num_records, validation),) = run.validation
    assert num_records == 6
    held_out = torch.randn(22, 3, generator=torch.Generator().manual_seed(3))[16:]
    assert validation == {
        "count_0": 3,
        "count_1": 3,
        "seen": 6,
        "sum": pytest.approx(float(held_out.sum()), rel=1e-5),
    }


def test_a_torch_writer_writes_where_the_context_does(tmp_path: Path) -> None:
    spec = make_spec(
        write_trial(tmp_path, TRIAL), hyperparameters=HPARAMS, max_length="3ba", tensorboard=False
    )
    new_session(dataclasses.replace(spec, tensorboard=tmp_path / "events")).run()
    # Slot 1 speaks too, and is not written.
    assert scalars(tmp_path / "events") == {"slot": [(0, 0.0), (1, 0.0), (2, 0.0)]}


def test_a_torch_writer_belongs_to_a_trial() -> None:
    gc.collect()  # of trials that other tests made
    with pytest.raises(InvalidTrialError) as caught:
        TorchWriter()
    assert str(caught.value) == (
        "TorchWriter belongs to the PyTorchTrial that is being trained, and there is none. Make it "
        "in the trial's __init__ or later."
    )


# Constructors.


class Made(Linear, pytorch.PyTorchTrial):  # type: ignore[misc]  # test trials are untyped
    pass


class WithHparams(Made):  # type: ignore[misc]  # as above
    def __init__(self, context: Any, hparams: Any) -> None:
        self.given = hparams


class WithDefault(Made):  # type: ignore[misc]  # as above
    def __init__(self, context: Any, hparams: Any = None) -> None:
        self.given = hparams


class WithMore(Made):  # type: ignore[misc]  # as above
    def __init__(self, context: Any, hparams: Any, extra: Any) -> None:
        self.given = hparams, extra


def test_hyperparameters_are_given_to_a_constructor_that_requires_them() -> None:
    context = pytorch.CheckpointLoadContext(hparams={"lr": 2.0})
    made: Any = WithHparams(context)  # type: ignore[call-arg]
    assert made.given == {"lr": 2.0}
    for made in (WithHparams(context, {"lr": 1}), WithHparams(context, hparams={"lr": 1})):
        assert made.given == {"lr": 1}
    assert WithDefault(context).given is None
    assert WithMore(context, extra=5).given == ({"lr": 2.0}, 5)  # type: ignore[call-arg]


def test_other_arguments_are_left_to_python() -> None:
    context = pytorch.CheckpointLoadContext()
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'extra'"):
        WithMore(context)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'wrong'"):
        WithHparams(context, wrong=1)  # type: ignore[call-arg]


# The context of a trial that is not trained.


def test_a_trial_can_be_made_to_be_looked_at() -> None:
    config = {"data": {"folder": "corpus"}, "searcher": {"max_length": {"epochs": 4}}}
    context = pytorch.CheckpointLoadContext(
        hparams={"lr": 0.5, "global_batch_size": 6}, exp_conf=config
    )
    before = torch.get_rng_state()
    trial = Made(context)
    assert isinstance(trial, pytorch.PyTorchTrial)
    assert context.models[0] is trial.model
    # What the constructor draws comes from the process's own generator.
    torch.set_rng_state(before)
    again: Any = Made(pytorch.CheckpointLoadContext(hparams=context.get_hparams()))
    assert torch.equal(again.model.weight, trial.model.weight)
    assert context.get_per_slot_batch_size() == 6
    assert context.get_experiment_config() == config
    assert context.get_data_config() == {"folder": "corpus"}
    assert (context.distributed.get_rank(), context.distributed.get_size()) == (0, 1)
    # What it writes is gone with the context.
    context.get_tensorboard_writer().add_scalar("any", 1.0, 0)  # type: ignore[no-untyped-call]
    folder = context.get_tensorboard_path()
    assert list(folder.iterdir())
    context.get_tensorboard_writer().close()  # type: ignore[no-untyped-call]
    del context, trial
    gc.collect()
    assert not folder.exists()
    assert pytorch.CheckpointLoadContext().get_hparams() == {}


# Errors.


@pytest.mark.parametrize(
    "name",
    [
        "CheckpointNotFound",
        "CheckpointStateException",
        "InternalException",
        "InvalidCheckpointException",
        "InvalidConfigurationException",
        "InvalidDataTypeException",
        "InvalidExperimentException",
        "InvalidModelException",
        "MultipleDownloadsFailed",
        "NoDirectStorageAccess",
        "ProxiedDownloadFailed",
    ],
)
def test_every_error_of_theirs_can_be_caught(name: str) -> None:
    assert issubclass(getattr(det.errors, name), Exception)
    assert name in det.errors.__all__


# Steps outside of train_batch.

PROBING = """
import torch
from trials.linear import Linear
from trialrun.compat.determined import pytorch


class Probe(pytorch.PyTorchCallback):
    def __init__(self, trial):
        self.trial = trial

    def on_validation_epoch_start(self):
        trial = self.trial
        ones = torch.ones(2, 3, dtype=torch.float64)
        with torch.enable_grad():
            loss = trial.loss((ones, ones[:, :1]))
            trial.context.backward(loss)
            trial.context.step_optimizer(trial.optimizer)


class Probing(Linear, pytorch.PyTorchTrial):
    def build_callbacks(self):
        return {"probe": Probe(self)}
"""


def test_a_step_in_a_callback_is_refused_where_slots_would_have_to_meet(tmp_path: Path) -> None:
    path = write_trial(tmp_path, PROBING)
    with pytest.raises(InvalidTrialError) as caught:
        run_session(make_spec(path, max_length="2ba", slots=2), tmp_path / "two")
    assert str(caught.value) == (
        "step_optimizer was called outside of train_batch, where the 2 slots do not take steps "
        "together. Call it in train_batch; for something that is trained elsewhere, such as a "
        "probe in a callback, step an optimizer that is not wrapped."
    )
    run_session(make_spec(path, max_length="2ba", slots=1), tmp_path / "one")
