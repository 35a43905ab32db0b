"""Scripts that were written for Determined's Trainer."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from trials.linear import Linear

import trialrun
from trialrun import ConfigurationError
from trialrun.compat.determined import pytorch
from trialrun.controller.bookkeeping import (
    Database,
    checkpoints_of_trial,
    get_experiment,
    training_metrics_of_trial,
    validation_metrics_of_trial,
)
from trialrun.controller.determined_config import read_determined_config

CONFIG = {
    "name": "a script",
    "data": {"folder": "corpus"},
    "hyperparameters": {"num_records": 16, "lr": {"type": "log", "minval": -4, "maxval": -1}},
    "searcher": {"name": "random", "metric": "loss", "max_trials": 4},
    "resources": {"slots_per_trial": 2},
    "optimizations": {"aggregation_frequency": 2},
    "reproducibility": {"experiment_seed": 5},
    "entrypoint": "python3 train.py",
    "bind_mounts": [{"host_path": "/data", "container_path": "/data"}],
}


class ScriptTrial(Linear, pytorch.PyTorchTrial):  # type: ignore[misc]  # test trials are untyped
    pass


def database(home: Path) -> Database:
    return Database.open(f"sqlite:///{home / 'trialrun.db'}", create=False)


def reported_at(home: Path) -> tuple[list[int], list[int]]:
    """Returns the batches of training and of validation metrics."""
    training = training_metrics_of_trial(database(home), 1)
    validation = validation_metrics_of_trial(database(home), 1)
    return [row.batches for row in training], [row.batches for row in validation]


def test_the_arguments_and_defaults_are_theirs() -> None:
    fit = inspect.signature(pytorch.Trainer.fit).parameters
    assert [(name, value.default) for name, value in fit.items() if name != "self"] == [
        ("checkpoint_period", None),
        ("validation_period", None),
        ("max_length", None),
        ("reporting_period", pytorch.Batch(100)),
        ("checkpoint_policy", "best"),
        ("latest_checkpoint", None),
        ("step_zero_validation", False),
        ("test_mode", False),
        ("profiling_enabled", False),
    ]
    named = inspect.signature(pytorch.init).parameters.values()
    assert [(p.name, p.default) for p in named if p.kind is p.KEYWORD_ONLY] == [
        ("hparams", None),
        ("exp_conf", None),
        ("distributed", None),
        ("aggregation_frequency", 1),
        ("enable_tensorboard_logging", True),
    ]
    assert issubclass(pytorch.Trainer, trialrun.Trainer)


def test_a_script_validates_at_its_end_and_keeps_what_it_validated(tmp_path: Path) -> None:
    with pytorch.init(hparams={"num_records": 16}, home=tmp_path, progress=False) as context:
        assert context.get_hparams() == {"num_records": 16}
        trainer = pytorch.Trainer(ScriptTrial(context), context)
        # 8 batches an epoch.
        result = trainer.fit(max_length=pytorch.Epoch(2), reporting_period=pytorch.Batch(6))
    assert (result.batches, result.is_completed) == (16, True)
    assert reported_at(tmp_path) == ([6, 12, 16], [16])
    assert [row.batches for row in checkpoints_of_trial(database(tmp_path), 1)] == [16, 8]
    # No metric was named that says which one is best.
    config = get_experiment(database(tmp_path), 1).config
    assert config["checkpoint_policy"] == "all"


def test_a_script_may_hand_over_its_determined_configuration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hparams = {"num_records": 16, "lr": 0.25}
    arguments: dict[str, Any] = {"hparams": hparams, "exp_conf": CONFIG, "home": tmp_path}
    with (
        caplog.at_level(logging.WARNING, "trialrun.compat"),
        pytorch.init(**arguments, progress=False) as context,
    ):
        assert context.get_hparam("lr") == 0.25
        assert context.get_data_config() == {"folder": "corpus"}
        assert context.get_experiment_config()["resources"]["slots_per_trial"] == 2
        assert (context.distributed.size, context.get_trial_seed()) == (2, 5)
        trainer = pytorch.Trainer(ScriptTrial(context), context)
        with pytest.raises(ConfigurationError, match=r"^fit has no max_length"):
            trainer.fit()
        result = trainer.fit(max_length=pytorch.Batch(4), checkpoint_policy="best")
    assert result.batches == 4
    config = get_experiment(database(tmp_path), 1).config
    assert (config["slots"], config["aggregation_frequency"]) == (2, 2)
    assert (config["checkpoint_policy"], config["name"]) == ("best", "a script")
    listed = [line for line in caplog.messages if line.startswith("exp_conf: ")]
    assert [line.split(": ")[1] for line in listed] == [
        "searcher.name, searcher.max_trials",
        "bind_mounts",
    ]
    assert listed[1].startswith("exp_conf: bind_mounts: No container is started")


def test_a_length_in_the_configuration_is_used(tmp_path: Path) -> None:
    config = {**CONFIG, "hyperparameters": {}, "searcher": {"max_length": {"batches": 6}}}
    with pytorch.init(exp_conf=config, home=tmp_path, progress=False) as context:
        assert pytorch.Trainer(ScriptTrial(context), context).fit().batches == 6
    reading = read_determined_config(config, {})
    recorded = get_experiment(database(tmp_path), 1).config
    assert recorded["max_length"] == str(reading.config.max_length) == "6ba"


def test_an_open_hyperparameter_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match=r"hyperparameters.*lr"),
        pytorch.init(exp_conf=CONFIG, home=tmp_path),
    ):
        pass


def test_what_has_no_meaning_is_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        pytest.raises(ConfigurationError) as caught,
        pytorch.init(distributed="group", home=tmp_path),  # type: ignore[arg-type]
    ):
        pass
    assert str(caught.value) == (
        "distributed='group' was given. Leave it out: processes that torchrun or srun has started "
        "are joined without it."
    )
    with pytorch.init(home=tmp_path, progress=False, enable_tensorboard_logging=False) as context:
        assert not context.get_enable_tensorboard_logging()
        trainer = pytorch.Trainer(ScriptTrial(context), context)
        trainer.configure_profiler(sync_timings=True, enabled=True)
        trainer.fit(max_length=pytorch.Batch(1), profiling_enabled=True, test_mode=True)
    instead = (
        "There is no profiler of machines here. Call context.set_profiler in the trial, which "
        "takes the arguments of torch.profiler.profile."
    )
    assert f"configure_profiler was called. {instead}" in caplog.messages
    assert f"profiling_enabled=True: {instead}" in caplog.messages


def test_the_generators_of_the_process_are_given_back(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    with pytorch.init(home=tmp_path) as context:
        ScriptTrial(context)
    assert torch.equal(torch.get_rng_state(), before)
