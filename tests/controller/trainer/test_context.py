"""What a script's trial learns of its run, and what is done with the run afterwards."""

from __future__ import annotations

import logging
import sys
import types
from typing import Any

import pytest
import torch

import trialrun
from trialrun import InvalidTrialError

from .scripts import FIT, KEEP_ALL, Scripts, load


def test_ids_configuration_and_tensorboard_are_known_when_data_is_built(scripts: Scripts) -> None:
    known = []

    class Asking(load("linear")):  # type: ignore[misc]  # a class that mypy does not see
        def build_training_data_loader(self) -> Any:
            context = self.context
            known.append((context.get_experiment_id(), context.get_trial_id()))
            known.append(context.get_experiment_config()["max_length"])
            known.append(context.get_tensorboard_path().is_relative_to(scripts.home))
            return super().build_training_data_loader()

    scripts.train(load("linear"))
    scripts.train(Asking)
    assert known == [(2, 2), "10ba", True]


def test_data_is_prepared_before_the_trial_is_made(scripts: Scripts) -> None:
    happened = []

    class Prepared(load("linear")):  # type: ignore[misc]  # a class that mypy does not see
        @classmethod
        def prepare_data(cls, hparams: dict[str, Any]) -> None:
            happened.append(("prepare", hparams))
            torch.rand(3)

        def __init__(self, context: trialrun.TrialContext) -> None:
            happened.append(("make", {}))
            super().__init__(context)

    scripts.train(Prepared, {"hparams": {"note": 1}})
    assert happened == [("prepare", {"note": 1}), ("make", {})]
    scripts.train(load("linear"), {"hparams": {"note": 1}})
    assert scripts.digests(1) == scripts.digests(2)


def test_a_trained_trial_is_loaded_with_its_class(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripts.init() as context:
        trial = load("linear")(context)
        result = trialrun.Trainer(trial, context).fit(**FIT)
    assert result.checkpoint is not None
    loaded = trialrun.load_trial(result.checkpoint)  # its file is no script
    assert torch.equal(loaded.model.weight, trial.model.weight)  # type: ignore[attr-defined]

    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("from trials.linear import Linear\nclass Cell(Linear): pass", namespace)
    result = scripts.train(namespace["Cell"])
    assert result.checkpoint is not None
    with pytest.raises(InvalidTrialError) as caught:
        trialrun.load_trial(result.checkpoint)
    assert str(caught.value) == (
        "The checkpoint was trained by a script or notebook, which defines its Cell: to import it "
        "would run it. Give trial_class=."
    )
    loaded = trialrun.load_trial(result.checkpoint, trial_class=namespace["Cell"])
    assert torch.equal(loaded.model.weight, trial.model.weight)  # type: ignore[attr-defined]


def test_a_script_can_begin_with_the_weights_of_another_run(scripts: Scripts) -> None:
    first = scripts.train(load("linear"))
    warm = KEEP_ALL | {"from_checkpoint": str(first.checkpoint)}
    with scripts.init(exp_conf=warm, seed=8) as context:
        trial = load("linear")(context)
        trainer = trialrun.Trainer(trial, context)
        own = trial.model.weight.clone()
        assert trainer.fit(test_mode=True).is_completed
        assert torch.equal(trial.model.weight, own)
        result = trainer.fit(**FIT | {"max_length": "1ba"})
    assert (result.experiment, result.batches) == (2, 1)
    assert first.checkpoint is not None
    trained = trialrun.load_trial(first.checkpoint).model.weight  # type: ignore[attr-defined]
    # One step away from the other run's weights, not from its own.
    assert (trial.model.weight - trained).abs().max() < (own - trained).abs().max() / 4


def test_logging_stays_as_the_script_has_set_it_up(scripts: Scripts) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLogger("torch").level)
    scripts.train(load("linear"))
    assert (list(root.handlers), root.level, logging.getLogger("torch").level) == before
