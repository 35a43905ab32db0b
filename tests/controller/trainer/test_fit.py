"""A script trains as ``trialrun submit`` does: the same numbers, and it goes on exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import make_spec, run_session

import trialrun
from trialrun import Batch, Epoch, RunConflictError
from trialrun.controller.bookkeeping import RunState, get_experiment

from .scripts import FIT, KEEP_ALL, Scripts, load, pausing_at


@pytest.mark.parametrize("name", ["conv", "gan", "reducing"])
@pytest.mark.parametrize("slots", [1, 4])
def test_the_numbers_are_those_of_a_submission(
    name: str, slots: int, scripts: Scripts, tmp_path: Path
) -> None:
    submitted = run_session(make_spec(f"{name}.py", slots=slots, **FIT), tmp_path / "submitted")
    threads = {**KEEP_ALL, "intra_op_threads": 1}
    result = scripts.train(load(name), {"slots": slots, "exp_conf": threads})
    assert result.is_completed and result.batches == 10
    assert scripts.digests() == {saved.batches: saved.digest for saved in submitted.checkpoints}
    heard = [(b, e, repr(m)) for b, e, m in submitted.training]
    heard += [(b, e, repr(m)) for b, e, _, m in submitted.validation]
    assert scripts.metrics() == heard


def test_what_a_script_draws_before_it_makes_the_trial_changes_no_weight(scripts: Scripts) -> None:
    conv = load("conv")
    scripts.train(conv)
    with scripts.init() as context:
        first = torch.randn(3)
        trialrun.Trainer(conv(context), context).fit(**FIT)
    with scripts.init() as context:
        assert torch.equal(torch.randn(3), first)  # it is a function of the seed itself
    assert scripts.digests(1) == scripts.digests(2)


@pytest.mark.parametrize("name", ["conv", "gan", "reducing"])
def test_a_script_that_is_run_again_goes_on_exactly(name: str, scripts: Scripts) -> None:
    scripts.train(load(name))
    settings = {"name": "stopped"}
    # The last is heard before the validation at batch 8, which is then owed.
    for stopped in (3, 6, 8):
        trial_class = pausing_at(load(name), stopped)
        paused = scripts.train(trial_class, settings, latest_checkpoint="latest")
        assert (paused.is_completed, paused.batches, paused.experiment) == (False, stopped, 2)
    completed = scripts.train(load(name), settings, latest_checkpoint="latest")
    assert completed.is_completed and completed.experiment == 2
    assert [row.first_batch for row in scripts.attempts(2)] == [0, 3, 6, 8]
    straight = scripts.digests(1)
    assert {batches: scripts.digests(2)[batches] for batches in straight} == straight
    assert scripts.metrics(2) == scripts.metrics(1)


def test_asked_for_10_and_stopped_at_6_it_trains_4_more(scripts: Scripts) -> None:
    class Counting(load("linear")):  # type: ignore[misc]  # a class that mypy does not see
        def build_training_data_loader(self) -> Any:
            self.initial = self.context.get_initial_batch()
            return super().build_training_data_loader()

        def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> Any:
            trained.append(batch_idx)
            return super().train_batch(batch, epoch_idx, batch_idx)

    trained: list[int] = []
    with scripts.init(slots=1) as context:
        trialrun.Trainer(pausing_at(Counting, 6)(context), context).fit(**FIT)
    with scripts.init(slots=1) as context:
        trial = Counting(context)
        assert context.get_initial_batch() == 0  # nobody knows of the checkpoint yet
        trialrun.Trainer(trial, context).fit(**FIT, latest_checkpoint="latest")
        assert trial.initial == context.get_initial_batch() == 6
    assert trained == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("name", ["conv", "gan", "reducing"])
def test_a_second_fit_goes_on_where_the_first_ended(
    name: str, slots: int, scripts: Scripts
) -> None:
    scripts.train(load(name), {"slots": slots})
    with scripts.init(slots=slots) as context:
        trainer = trialrun.Trainer(load(name)(context), context)
        assert trainer.fit(**FIT | {"max_length": Batch(3)}).batches == 3
        assert trainer.fit(**FIT | {"max_length": Batch(6)}).batches == 6
        result = trainer.fit(**FIT)
    assert (result.batches, result.experiment) == (10, 2)
    assert scripts.digests(2)[10] == scripts.digests(1)[10]
    assert [row.first_batch for row in scripts.attempts(2)] == [0, 3, 6]
    assert get_experiment(scripts.database, 2).config["max_length"] == "10ba"


def test_another_trainer_of_the_same_trial_goes_on_where_the_first_ended(
    scripts: Scripts,
) -> None:
    scripts.train(load("linear"))
    with scripts.init() as context:
        trial = load("linear")(context)
        for length in (3, 10):
            trainer = trialrun.Trainer(trial, context)
            result = trainer.fit(**FIT | {"max_length": Batch(length)})
    assert (result.batches, result.experiment) == (10, 2)
    assert scripts.digests(2)[10] == scripts.digests(1)[10]
    assert [row.first_batch for row in scripts.attempts(2)] == [0, 3]


def test_a_complete_run_that_is_run_again_trains_nothing_and_has_the_weights(
    scripts: Scripts,
) -> None:
    linear = load("linear")
    with scripts.init() as context:
        first = linear(context)
        trialrun.Trainer(first, context).fit(**FIT)
    with scripts.init() as context:
        second = linear(context)
        result = trialrun.Trainer(second, context).fit(**FIT, latest_checkpoint="latest")
    assert result.is_completed and result.experiment == 1
    assert torch.equal(first.model.weight, second.model.weight)
    assert [row.first_batch for row in scripts.attempts()] == [0, 10]
    assert len(scripts.checkpoints()) == len(scripts.digests())  # none was taken twice


def test_a_length_in_time_that_is_over_trains_nothing_more(scripts: Scripts) -> None:
    brief = {"max_length": "0.001s"}
    batches = scripts.train(load("linear"), **brief).batches
    assert batches >= 1
    assert scripts.train(load("linear"), **brief, latest_checkpoint="latest").batches == batches


def test_a_length_that_lies_behind_is_warned_of(
    scripts: Scripts, caplog: pytest.LogCaptureFixture
) -> None:
    scripts.train(load("linear"))
    result = scripts.train(load("linear"), max_length=Epoch(1), latest_checkpoint="latest")
    assert (result.batches, result.is_completed) == (10, True)
    assert (
        "max_length is 1ep, which is 3 batches, and 10 are complete already: nothing is trained. "
        "Ask for a longer one, or go on from an older checkpoint." in caplog.messages
    )


def test_optimizers_are_given_back_after_a_fit(scripts: Scripts) -> None:
    with scripts.init() as context:
        trial = load("linear")(context)
        trialrun.Trainer(trial, context).fit(**FIT)
        trial.optimizer.step()  # on 2 slots, which is refused while training


def test_test_mode_rehearses_and_leaves_trial_and_records_alone(
    scripts: Scripts, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts.train(load("conv"))
    with scripts.init() as context:
        trial = load("conv")(context)
        trainer = trialrun.Trainer(trial, context)
        before = [parameter.clone() for parameter in trial.model.parameters()]
        capsys.readouterr()
        result = trainer.fit(test_mode=True)
        assert (result.experiment, result.checkpoint) == (None, None)
        assert capsys.readouterr().out.startswith("The rehearsal on 2 slots went well: ")
        assert all(map(torch.equal, before, trial.model.parameters()))
        with pytest.raises(trialrun.BookkeepingError):
            get_experiment(scripts.database, 2)
        trainer.fit(**FIT)
    assert scripts.digests(2) == scripts.digests(1)


def test_a_rehearsal_finds_what_a_restore_loses(scripts: Scripts) -> None:
    class Remembering(load("linear")):  # type: ignore[misc]  # a class that mypy does not see
        factor = 1.0

        def loss(self, batch: Any) -> Any:
            self.factor += 0.1
            return self.factor * super().loss(batch)

    with pytest.raises(trialrun.CheckpointError, match="^The trial does not resume exactly: "):
        scripts.train(Remembering, test_mode=True)


def test_a_rehearsal_makes_trials_with_the_arguments_of_the_users_own(scripts: Scripts) -> None:
    class Given(load("linear")):  # type: ignore[misc]  # a class that mypy does not see
        def __init__(self, context: Any, model: torch.nn.Module, *, factor: float) -> None:
            self.given, self.factor = model, factor
            super().__init__(context)

        def make_model(self) -> torch.nn.Module:
            return self.given

        def loss(self, batch: Any) -> Any:
            return self.factor * super().loss(batch)

    model = torch.nn.Linear(3, 1, dtype=torch.float64)
    before = model.weight.clone()
    with scripts.init() as context:
        trial = Given(context, model, factor=0.5)
        trialrun.Trainer(trial, context).fit(test_mode=True)
    assert torch.equal(model.weight, before)


def test_a_trial_that_failed_without_a_checkpoint_is_not_trained_on(scripts: Scripts) -> None:
    class Failing(load("linear")):  # type: ignore[misc]  # a class that mypy does not see
        def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> Any:
            if batch_idx == 1:
                raise ValueError("a bad batch")
            return super().train_batch(batch, epoch_idx, batch_idx)

    with scripts.init() as context:
        trainer = trialrun.Trainer(Failing(context), context)
        with pytest.raises(ValueError):
            trainer.fit(**FIT)
        with pytest.raises(RunConflictError) as caught:
            trainer.fit(**FIT)
    assert str(caught.value) == (
        "The trial has been trained since it was made, and there is no checkpoint to go back to. "
        "Make trial and Trainer anew, in a new block of trialrun.init."
    )
    assert [row.state for row in scripts.attempts()] == [RunState.ERROR]
