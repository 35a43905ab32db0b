"""All that a PyTorchTrialContext has, a TrialContext has: names, arguments and defaults."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from test_context import FakeEngine, new_context

SIGNATURES = {
    "get_global_batch_size": "()",
    "get_per_slot_batch_size": "()",
    "get_hparams": "()",
    "get_hparam": "(name)",
    "get_experiment_config": "()",
    "get_data_config": "()",
    "get_trial_seed": "()",
    "get_initial_batch": "()",
    "get_experiment_id": "()",
    "get_trial_id": "()",
    "set_stop_requested": "(stop_requested)",
    "get_stop_requested": "()",
    "set_enable_tensorboard_logging": "(enable_tensorboard_logging)",
    "get_enable_tensorboard_logging": "()",
    "get_tensorboard_path": "()",
    "get_tensorboard_writer": "()",
    "to_device": "(data)",
    "wrap_model": "(model)",
    "wrap_optimizer": (
        "(optimizer, backward_passes_per_step=1, fp16_compression=None, "
        "average_aggregated_gradients=None)"
    ),
    "wrap_lr_scheduler": "(lr_scheduler, step_mode, frequency=1)",
    "wrap_reducer": "(reducer, name=None, for_training=True, for_validation=True)",
    "wrap_scaler": "(scaler)",
    "backward": "(loss, gradient=None, retain_graph=False, create_graph=False)",
    "step_optimizer": "(optimizer, clip_grads=None, auto_zero_grads=True, scaler=None)",
    "is_epoch_start": "()",
    "is_epoch_end": "()",
    "current_train_epoch": "()",
    "current_train_batch": "()",
    "set_profiler": "(*args, **kwargs)",
    "experimental.use_amp": "()",
    "experimental.disable_dataset_reproducibility_checks": "()",
    "experimental.disable_auto_to_device": "()",
    "distributed.get_rank": "()",
    "distributed.get_local_rank": "()",
    "distributed.get_size": "()",
    "distributed.get_num_agents": "()",
    "distributed.gather": "(obj)",
    "distributed.gather_local": "(obj)",
    "distributed.allgather": "(obj)",
    "distributed.allgather_local": "(obj)",
    "distributed.broadcast": "(obj)",
    "distributed.broadcast_local": "(obj=None)",
}
"""Methods, with what they take. Added arguments are named in ``ADDED``."""

ATTRIBUTES = [
    "device",
    "distributed",
    "experimental",
    "lr_schedulers",
    "models",
    "optimizers",
    "profiler",
    "distributed.rank",
    "distributed.size",
    "distributed.local_rank",
    "distributed.local_size",
    "distributed.cross_rank",
    "distributed.cross_size",
]

ADDED = {
    "backward": ["inputs"],
    "experimental.use_amp": ["dtype", "scaler"],
    "step_optimizer": ["closure"],
    "wrap_optimizer": ["allow_shared_parameters"],
    "wrap_reducer": ["options"],
}
"""Arguments that a method has besides, and that may be left out."""

ABSENT = {
    "configure_apex_amp": "NVIDIA's apex is superseded by torch.amp, which wrap_scaler serves",
    "autocast_forward_pass": "a model stays the user's own class; use_amp changes no class",
    "distributed.close": "whoever runs the trial owns the connections",
    "distributed.from_horovod": "slots are executed by trialrun, not by a launcher of its own kind",
    "distributed.from_deepspeed": "as from_horovod",
    "distributed.from_tf_config": "as from_horovod",
    "distributed.from_torch_distributed": "as from_horovod",
}
"""What a TrialContext does not have, and why."""


def member(name: str) -> Any:
    found: Any = new_context(FakeEngine())
    for part in name.split("."):
        found = getattr(found, part)
    return found


def parameters_of(name: str) -> list[str]:
    """Returns a method's parameters with their defaults, without annotations."""
    return [
        str(parameter.replace(annotation=inspect.Parameter.empty))
        for parameter in inspect.signature(member(name)).parameters.values()
    ]


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_a_method_takes_what_it_takes_there(name: str) -> None:
    expected = SIGNATURES[name].strip("()").split(", ") if SIGNATURES[name] != "()" else []
    found = parameters_of(name)
    assert found[: len(expected)] == expected
    assert [p.partition("=")[0] for p in found[len(expected) :]] == ADDED.get(name, [])
    assert all("=" in parameter for parameter in found[len(expected) :])


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_is_there(name: str) -> None:
    member(name)


def test_what_is_absent_is_absent_for_a_reason() -> None:
    for name, reason in ABSENT.items():
        assert reason
        with pytest.raises(AttributeError):
            member(name)
