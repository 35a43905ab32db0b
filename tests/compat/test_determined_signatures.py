"""What is called by name in files of Determined's users has these names, orders and defaults."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from trialrun.compat.determined import pytorch

SIGNATURES = {
    "data_length": "(data)",
    "to_device": "(data, device, warned_types=None)",
    "adapt_batch_sampler": "(batch_sampler, repeat=False, skip=0, num_replicas=1, rank=0)",
    "load_trial_from_checkpoint_path": (
        "(path, trial_class=None, trial_kwargs=None, torch_load_kwargs=None)"
    ),
    "CheckpointLoadContext": "(hparams=None, exp_conf=None)",
    "Trainer": "(trial, context)",
    "Batch": "(value)",
    "Epoch": "(value)",
    "LRScheduler": "(scheduler, step_mode, frequency=1)",
    "LRScheduler.step": "(*args, **kwargs)",
    "LRScheduler.get_last_lr": "()",
    "LRScheduler.state_dict": "()",
    "LRScheduler.load_state_dict": "(state_dict)",
    "MetricReducer.reset": "()",
    "MetricReducer.per_slot_reduce": "()",
    "MetricReducer.cross_slot_reduce": "(per_slot_metrics)",
    "DataLoader.get_data_loader": "(repeat=False, skip=0, num_replicas=1, rank=0)",
    "PyTorchTrial.__init__": "(context)",
    "PyTorchTrial.train_batch": "(batch, epoch_idx, batch_idx)",
    "PyTorchTrial.build_training_data_loader": "()",
    "PyTorchTrial.build_validation_data_loader": "()",
    "PyTorchTrial.build_callbacks": "()",
    "PyTorchTrial.evaluate_batch": "(batch, batch_idx)",
    "PyTorchTrial.evaluate_full_dataset": "(data_loader)",
    "PyTorchTrial.evaluation_reducer": "()",
    "PyTorchTrial.get_batch_length": "(batch)",
    "PyTorchCallback.on_trial_startup": "(first_batch_idx, checkpoint_uuid)",
    "PyTorchCallback.on_checkpoint_load_start": "(checkpoint)",
    "PyTorchCallback.load_state_dict": "(state_dict)",
    "PyTorchCallback.on_training_start": "()",
    "PyTorchCallback.on_training_epoch_start": "(epoch_idx)",
    "PyTorchCallback.on_training_epoch_end": "(epoch_idx)",
    "PyTorchCallback.on_training_workload_end": "(avg_metrics, batch_metrics)",
    "PyTorchCallback.on_validation_start": "()",
    "PyTorchCallback.on_validation_epoch_start": "()",
    "PyTorchCallback.on_validation_epoch_end": "(outputs)",
    "PyTorchCallback.on_validation_end": "(metrics)",
    "PyTorchCallback.on_checkpoint_save_start": "(checkpoint)",
    "PyTorchCallback.state_dict": "()",
    "PyTorchCallback.on_checkpoint_write_end": "(checkpoint_dir)",
    "PyTorchCallback.on_checkpoint_upload_end": "(uuid)",
    "PyTorchCallback.on_trial_shutdown": "()",
    "samplers.RepeatSampler": "(sampler)",
    "samplers.RepeatBatchSampler": "(batch_sampler)",
    "samplers.DistributedSampler": "(sampler, num_workers, rank)",
    "samplers.DistributedBatchSampler": "(batch_sampler, num_workers, rank)",
    "samplers.SkipSampler": "(sampler, skip)",
    "samplers.SkipBatchSampler": "(batch_sampler, skip)",
    "samplers.ReproducibleShuffleSampler": "(sampler, seed)",
    "samplers.ReproducibleShuffleBatchSampler": "(batch_sampler, seed)",
}
"""The calls, without ``self`` and annotations; those of the context are in another test."""

LOADER = {
    "dataset": inspect.Parameter.empty,
    "batch_size": 1,
    "shuffle": None,  # false, but told apart from a false that was said
    "sampler": None,
    "batch_sampler": None,
    "num_workers": 0,
    "collate_fn": None,
    "pin_memory": False,
    "drop_last": False,
    "timeout": 0,
    "worker_init_fn": None,
    "multiprocessing_context": None,
    "generator": None,
    "prefetch_factor": None,
    "persistent_workers": False,
}


def found(name: str) -> Any:
    value: Any = pytorch
    for part in name.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_call_takes_what_it_takes_there(name: str) -> None:
    parameters = [
        str(parameter.replace(annotation=inspect.Parameter.empty))
        for parameter in inspect.signature(found(name)).parameters.values()
        if parameter.name != "self"
    ]
    assert f"({', '.join(parameters)})" == SIGNATURES[name]


def test_a_loader_takes_what_it_takes_there() -> None:
    parameters = list(inspect.signature(pytorch.DataLoader).parameters.values())
    assert {p.name: p.default for p in parameters[: len(LOADER)]} == LOADER
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[len(LOADER) - 2 :])


def test_the_enumerations_have_their_members() -> None:
    assert [member.name for member in pytorch.Reducer] == ["AVG", "SUM", "MAX", "MIN"]
    assert {member.name for member in pytorch.LRScheduler.StepMode} == {
        "STEP_EVERY_EPOCH",
        "STEP_EVERY_BATCH",
        "MANUAL_STEP",
        "STEP_EVERY_OPTIMIZER_STEP",
    }
