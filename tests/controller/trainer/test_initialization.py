"""What ``init`` and ``Trainer`` take, and that the process is given back as it was."""

from __future__ import annotations

import os
import random
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trialrun
from trialrun import Batch, ConfigurationError, Epoch, InvalidTrialError, RunConflictError, Time
from trialrun._errors import TrialrunError
from trialrun.compat.determined import pytorch
from trialrun.controller.bookkeeping import get_experiment

from .scripts import FIT, Scripts, load


def process_state() -> list[Any]:
    """All that ``init`` promises to put back, in a form that can be compared."""
    cudnn = torch.backends.cudnn
    return [
        random.getstate(),
        repr(np.random.get_state(legacy=False)),
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        (cudnn.benchmark, cudnn.deterministic),
        torch.distributed.is_initialized(),
        torch.get_deterministic_debug_mode(),
        torch.utils.deterministic.fill_uninitialized_memory,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        warnings.showwarning,
        [entry for entry in warnings.filters if "deterministic" in str(entry[1])],
    ]


def test_the_process_is_as_it_was_before(scripts: Scripts) -> None:
    np.random.rand(3), random.random(), torch.rand(5)
    before = process_state()
    scripts.train(load("conv"), {"exp_conf": {"intra_op_threads": 2}})
    assert process_state() == before
    with pytest.raises(ZeroDivisionError), scripts.init(seed=1) as context:
        load("conv")(context)
        assert process_state() != before
        _ = 1 / 0
    assert process_state() == before


@pytest.mark.parametrize(
    ("mode", "debug_mode", "fills"), [("strict", 2, True), ("warn", 1, False), ("off", 0, True)]
)
def test_torch_computes_as_deterministic_says_within_the_block(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch, mode: str, debug_mode: int, fills: bool
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = process_state()
    with scripts.init(exp_conf={"deterministic": mode}):
        assert torch.get_deterministic_debug_mode() == debug_mode
        assert torch.utils.deterministic.fill_uninitialized_memory is fills
        workspace = None if mode == "off" else ":4096:8"
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == workspace
        assert torch.backends.cudnn.deterministic is (mode != "off")
    assert process_state() == before


def test_strict_names_the_line_of_a_script_too(scripts: Scripts) -> None:
    class Putting(load("linear")):  # type: ignore[misc]  # whatever class it is
        def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> Any:
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
            return super().train_batch(batch, epoch_idx, batch_idx)

    with pytest.raises(TrialrunError) as caught:
        scripts.train(Putting, {"exp_conf": {"deterministic": "strict"}})
    line = Putting.train_batch.__code__.co_firstlineno + 1
    assert str(caught.value).startswith(f"The operation put_ ({__file__}:{line}) has no determin")
    assert torch.get_deterministic_debug_mode() == 0


def test_a_notebook_cell_can_be_run_again(scripts: Scripts) -> None:
    for number in (1, 2):
        assert scripts.train(load("conv")).experiment == number
    assert scripts.digests(1) == scripts.digests(2)


def test_the_configuration_may_be_a_file_and_arguments_win(
    scripts: Scripts, tmp_path: Path
) -> None:
    file = tmp_path / "trial.yaml"
    file.write_text(
        "hyperparameters: {global_batch_size: 4, lr: 1e-3}\n"
        "slots: 4\nseed: 3\nmax_length: 7ba\nvalidation_period: 2ba\ndescription: from a file\n"
    )
    arguments = {"exp_conf": file, "slots": 2, "seed": None, "hparams": {"lr": 0.5}}
    with scripts.init(**arguments) as context:
        assert context.get_hparams() == {"global_batch_size": 4, "lr": 0.5}
        assert (context.num_slots, context.get_trial_seed()) == (2, 3)
        trainer = trialrun.Trainer(load("linear")(context), context)
        assert trainer.fit(validation_period=None).batches == 7
    config = get_experiment(scripts.database, 1).config
    assert (config["description"], config["validation_period"]) == ("from a file", None)
    assert config["checkpoint_period"] == "1ep"  # as of every configuration


def test_lengths_are_units_or_text(scripts: Scripts) -> None:
    lengths = {
        "max_length": Batch(4),
        "validation_period": Epoch(1),
        "checkpoint_period": "2ba",
        "reporting_period": Time(30),
    }
    scripts.train(load("linear"), **lengths, checkpoint_policy="all")
    config = get_experiment(scripts.database, 1).config
    assert {name: config[name] for name in lengths} == {
        "max_length": "4ba",
        "validation_period": "1ep",
        "checkpoint_period": "2ba",
        "reporting_period": "30s",
    }


def test_slots_and_progress_have_defaults(
    scripts: Scripts, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts.train(load("linear"), {"slots": None, "progress": False})
    assert get_experiment(scripts.database, 1).config["slots"] == 1
    assert capsys.readouterr().out == ""


def test_a_line_is_printed_for_each_report(
    scripts: Scripts, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts.train(load("linear"), max_length="4ba")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "Experiment 1 (linear): seed 7, 2 slots on 1 process",
        f"Records: {scripts.home / 'trialrun.db'}",
    ]
    assert lines[2:4] == [
        "Start: at batch 0",
        "Plan: 4 batches, epochs of 3, 1 validation, 2 checkpoints",
    ]
    assert re.fullmatch(r"batch 3/4 \(epoch 1\.00\): loss [\d.]+, \d+ records/s", lines[4])
    assert re.fullmatch(r"batch 4/4 \(epoch 1\.33\): loss [\d.]+, \d+ records/s", lines[5])
    assert re.fullmatch(r"batch 4/4 \(epoch 1\.33\): validated 7 records: loss [\d.]+", lines[6])
    assert lines[7:] == ["Completed experiment 1 after 4 batches."]


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"hparams": [0.1]},
            "hparams is [0.1]. Give a dictionary of names and values.",
        ),
        (
            {"exp_conf": 5},
            "exp_conf is 5. Give a dictionary with the keys of trial.yaml, or the path of such a "
            "file.",
        ),
        ({"exp_conf": "missing.yaml"}, "There is no configuration file missing.yaml."),
        ({"exp_conf": {"slot": 2}}, "Unknown configuration key 'slot'. Did you mean 'slots'?"),
        ({"slots": 0}, "Configuration key 'slots' is 0: Input should be greater than or equal to"),
        ({"seed": -1}, "Configuration key 'seed' is -1: Input should be greater than or equal to"),
        ({"aggregation_frequency": 0}, "Configuration key 'aggregation_frequency' is 0: "),
        (
            {"hparams": {"global_batch_size": 5}, "slots": 2},
            "global_batch_size=5 is not divisible by 2 slots. Choose a multiple of 2, such as 6.",
        ),
        (
            {"exp_conf": {"processes": 2}},
            "The configuration says processes: 2, but the number of processes that run the script "
            "is 1. Start it with torchrun --nproc-per-node 2, or leave the key out: any number "
            "gives the same bits.",
        ),
    ],
)
def test_wrong_arguments_of_init_are_refused(
    arguments: dict[str, Any], message: str, scripts: Scripts
) -> None:
    before = process_state()
    with pytest.raises(ConfigurationError) as caught, scripts.init(**arguments):
        raise AssertionError("the block must not begin")
    assert message in str(caught.value)
    assert process_state() == before


def test_slots_must_be_a_multiple_of_the_launchers_processes(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "3")
    with (
        pytest.raises(ConfigurationError, match=r"^4 slots cannot be executed by 3 processes: "),
        scripts.init(slots=4),
    ):
        raise AssertionError("the block must not begin")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"max_length": None},
            "fit has no max_length: when is the trial complete? Give one, such as "
            "fit(max_length=Epoch(5)), or max_length in exp_conf.",
        ),
        (
            {"max_length": 5},
            "max_length=5 has no unit. Write Batch(5), Epoch(5) or Time(5) for seconds.",
        ),
        (
            {"validation_period": [1, 5]},
            "validation_period=[1, 5] is no length. Write Batch(500), Epoch(5), Time(7200) for "
            "seconds, or text such as '5ep'.",
        ),
        ({"checkpoint_period": True}, "checkpoint_period=True is no length."),
        ({"reporting_period": None}, "reporting_period=None is no length."),
        ({"max_length": "5 epochs"}, "max_length: '5 epochs' is not a length. Write a whole"),
        (
            {"checkpoint_policy": "bset"},
            "Configuration key 'checkpoint_policy' is 'bset': Input should be 'best', 'all' or",
        ),
        (
            {"step_zero_validation": "perhaps"},
            "Configuration key 'step_zero_validation' is 'perhaps': Input should be a valid bool",
        ),
    ],
)
def test_wrong_arguments_of_fit_are_refused(
    arguments: dict[str, Any], message: str, scripts: Scripts
) -> None:
    with scripts.init() as context:
        trainer = trialrun.Trainer(load("linear")(context), context)
        with pytest.raises(ConfigurationError) as caught:
            trainer.fit(**FIT | arguments)
        assert str(caught.value).startswith(message)
        assert not scripts.home.exists()  # nothing was recorded
        assert trainer.fit(**FIT).is_completed


def test_only_one_init_is_open_at_a_time(scripts: Scripts) -> None:
    with scripts.init() as context:
        with (
            pytest.raises(RunConflictError) as caught,
            scripts.init(),
        ):
            raise AssertionError("the block must not begin")
        assert str(caught.value) == (
            "A trialrun.init is open in this process already, and two would draw from the same "
            "random generators. Leave its with block first."
        )
        trainer = trialrun.Trainer(load("linear")(context), context)  # the first is as it was
        assert trainer.fit(**FIT).is_completed


@pytest.mark.parametrize("init", [trialrun.init, pytorch.init])
def test_without_with_there_is_no_context(init: Any) -> None:
    block = init(slots=2)
    with pytest.raises(InvalidTrialError) as caught:
        block.wrap_model(torch.nn.Linear(3, 1))
    assert str(caught.value) == (
        "init returned a with block, which has no 'wrap_model'; the context has it. Write: with "
        "trialrun.init(...) as context: ..."
    )
    assert not hasattr(block, "_repr_html_")  # a notebook asks for it
    with block as context:
        assert context.num_slots == 2


def test_outside_of_init_nothing_is_trained(scripts: Scripts) -> None:
    message = (
        "A Trainer trains within the block of trialrun.init, and none is open. Write: with "
        "trialrun.init(...) as context: Trainer(MyTrial(context), context).fit(...)"
    )
    with scripts.init() as context:
        trial = load("linear")(context)
        trainer = trialrun.Trainer(trial, context)
    with pytest.raises(RunConflictError, match=re.escape(message)):
        trainer.fit(**FIT)
    with pytest.raises(RunConflictError, match=re.escape(message)):
        trialrun.Trainer(trial, context)


def test_a_second_trial_needs_a_block_of_its_own(scripts: Scripts) -> None:
    linear = load("linear")

    class Other(linear):  # type: ignore[misc,valid-type]  # a class that mypy does not see
        pass

    with scripts.init() as context:
        trainer = trialrun.Trainer(linear(context), context)
        with pytest.raises(InvalidTrialError) as caught:
            Other(context)
        assert str(caught.value) == (
            "A second trial, of the class Other, is being made with one context: the first is the "
            "Linear that its Trainer has. Make each in a block of its own: with "
            "trialrun.init(...) as context: Trainer(Other(context), context).fit(...)"
        )
        assert trainer.fit(**FIT).is_completed


def test_trial_trainer_and_context_must_belong_together(scripts: Scripts) -> None:
    linear = load("linear")
    with scripts.init() as old_context:
        old_trial = linear(old_context)
        old_trainer = trialrun.Trainer(old_trial, old_context)
    other_context = (
        "The Trainer's context is not that of the trialrun.init that is open now. Make the trial "
        "and the Trainer with the context of this with block."
    )
    with scripts.init() as context:
        with pytest.raises(InvalidTrialError, match=re.escape(other_context)):
            trialrun.Trainer(old_trial, old_context)
        with pytest.raises(InvalidTrialError, match=re.escape(other_context)):
            old_trainer.fit(**FIT)
        with pytest.raises(InvalidTrialError) as caught:
            trialrun.Trainer(old_trial, context)
        assert str(caught.value) == (
            "This Linear was not the first trial to be made with the context of the trialrun.init "
            "that is open now. Make one trial in each block: Trainer(Linear(context), context)."
        )
        with pytest.raises(InvalidTrialError) as caught:
            trialrun.Trainer(linear, context)
        assert str(caught.value) == (
            "Trainer got the class Linear as its trial. Give it an object of your Trial's class: "
            "Trainer(MyTrial(context), context)."
        )

        class Renamed(linear):  # type: ignore[misc,valid-type]  # a class that mypy does not see
            def train_batch(self, batch: Any, batch_idx: int) -> None: ...

    with scripts.init() as context:
        with pytest.raises(InvalidTrialError, match=r"^Renamed.train_batch does not take"):
            trialrun.Trainer(Renamed(context), context)
        linear(context)
        with pytest.raises(InvalidTrialError, match="^This Linear was not the first trial"):
            trialrun.Trainer(linear(context), context)


def test_a_trial_that_makes_another_draws_as_it_would_without_the_hook(scripts: Scripts) -> None:
    class Outer(load("conv")):  # type: ignore[misc]  # a class that mypy does not see
        def __init__(self, context: trialrun.TrialContext) -> None:
            super().__init__(context)
            before = torch.get_rng_state()
            Inner(context)
            assert torch.equal(torch.get_rng_state(), before)

    class Inner(load("conv")):  # type: ignore[misc]  # a class that mypy does not see
        def __init__(self, context: trialrun.TrialContext) -> None:
            pass

    scripts.train(Outer)
    scripts.train(load("conv"))
    assert scripts.digests(1) == scripts.digests(2)
