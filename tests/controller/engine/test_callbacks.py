from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from process_launch import Job, Launcher
from support import Event, make_spec, resume, run_session, run_with_stops, write_trial

from trialrun import CheckpointError, InvalidTrialError
from trialrun.controller.engine.loop import Outcome
from trialrun.controller.engine.parallel.slots import SlotError
from trialrun.controller.engine.session import TrialSpec

PARTS = "callbacks, lr_schedulers_state_dict, models_state_dict, note, optimizers_state_dict"
DOCS = Path(__file__).parents[3] / "docs" / "trial.md"

HEAD = """
import random
import numpy as np
import torch
from trials.linear import Linear
from trialrun import Callback, Trial
"""


def listening(folder: Path, **config: Any) -> TrialSpec:
    heard = folder / "heard"
    heard.mkdir(exist_ok=True)
    hyperparameters = {"heard": str(heard), **config.pop("hyperparameters", {})}
    return make_spec("listening.py", hyperparameters=hyperparameters, **config)


def heard(folder: Path, process: int = 0) -> list[str]:
    return (folder / "heard" / f"process-{process}.txt").read_text().splitlines()


# Three batches of 4 records make an epoch of 12.
STRAIGHT = [
    "first.on_trial_startup(0, None)",
    "second.on_trial_startup(0)",
    "trial.build_training_data_loader()",
    "first.on_training_start()",
    "first.on_training_epoch_start(0)",
    "first.on_training_batch_start(0)",
    "first.on_optimizer_step_end(SGD, 0)",
    "first.on_training_batch_end(0)",
    "first.on_training_batch_start(1)",
    "first.on_optimizer_step_end(SGD, 1)",
    "first.on_training_batch_end(1)",
    "first.on_training_workload_end(loss, 2)",
    "first.on_training_batch_start(2)",
    "first.on_optimizer_step_end(SGD, 2)",
    "first.on_training_batch_end(2)",
    "first.on_training_epoch_end(0)",
    "first.on_validation_start()",
    "first.on_validation_epoch_start()",
    "first.on_validation_epoch_end(4)",
    "first.on_validation_end(loss)",
    f"first.on_checkpoint_save_start({PARTS})",
    "first.on_checkpoint_write_end()",
    "first.on_checkpoint_upload_end(checkpoint-0)",
    "first.on_training_epoch_start(1)",
    "first.on_training_batch_start(3)",
    "first.on_optimizer_step_end(SGD, 3)",
    "first.on_training_batch_end(3)",
    "first.on_training_workload_end(loss, 2)",
    "first.on_validation_start()",
    "first.on_validation_epoch_start()",
    "first.on_validation_epoch_end(4)",
    "first.on_validation_end(loss)",
    f"first.on_checkpoint_save_start({PARTS})",
    "first.on_checkpoint_write_end()",
    "first.on_checkpoint_upload_end(checkpoint-1)",
    "second.on_trial_shutdown(4)",
    "first.on_trial_shutdown()",
]
CONFIG = {
    "max_length": "4ba",
    "reporting_period": "2ba",
    "validation_period": "1ep",
    "checkpoint_period": "3ba",
}
CHIEFS = ("on_checkpoint_save_start", "on_checkpoint_write_end")


def test_callbacks_are_called_in_the_documented_order(tmp_path: Path) -> None:
    run_session(listening(tmp_path, **CONFIG), tmp_path / "checkpoints")
    # note: only what the callback itself has added differs from the parts that every one sees.
    shown = [line.replace("note, ", "") if "load_start" in line else line for line in STRAIGHT]
    assert heard(tmp_path) == shown


def test_the_table_in_the_docs_has_every_method_in_that_order() -> None:
    table = DOCS.read_text().split("## Callbacks")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)\(", table, re.MULTILINE)
    called = [re.sub(r"^\w+\.(\w+)\(.*", r"\1", line) for line in STRAIGHT if line[:5] == "first"]
    first_calls = list(dict.fromkeys(called))
    # A shutdown comes last, and the checkpoint's three after the validation that causes it.
    assert [name for name in documented if name in first_calls] == sorted(
        first_calls, key=documented.index
    )
    assert len(documented) == len(set(documented)) == 20
    assert {"state_dict", "load_state_dict", "on_exception"} <= set(documented)


def test_on_several_processes_all_call_them_alike_except_what_is_the_chiefs(
    tmp_path: Path, launcher: Launcher
) -> None:
    average = write_trial(tmp_path, HEAD + EMA, "average.py")
    stopping = write_trial(tmp_path, HEAD + STOPPING, "stopping.py")
    averaged = make_spec(average, slots=4, max_length="9ba", validation_period="2ba")
    stopped = make_spec(stopping, max_length="8ba", validation_period="2ba")
    jobs = [
        Job(listening(tmp_path, **CONFIG), tmp_path / "heard-checkpoints"),
        Job(averaged, tmp_path / "two", (("progress", 3),)),
        Job(stopped, tmp_path / "stopping-checkpoints"),
    ]
    first, second = launcher.launch(2, jobs)
    assert not [result for result in (*first, *second) if isinstance(result, str)]
    others = [line for line in STRAIGHT if not any(name in line for name in CHIEFS)]
    assert heard(tmp_path) == STRAIGHT
    assert heard(tmp_path, process=1) == others
    assert first[1].reported == run_session(averaged, tmp_path / "one").reported
    assert [(run.outcome, run.batches) for run in (first[2], second[2])] == ENDED_AT_4 * 2


def test_after_a_resume_state_is_back_and_an_epoch_does_not_start_again(tmp_path: Path) -> None:
    spec = listening(tmp_path, **CONFIG)
    run = run_with_stops(spec, tmp_path / "checkpoints", [("progress", 2)])
    assert run.outcome is Outcome.COMPLETED
    lines = heard(tmp_path)
    second = lines[lines.index("first.on_trial_startup(2, checkpoint-0)") :]
    assert second[:6] == [
        "first.on_trial_startup(2, checkpoint-0)",
        "second.on_trial_startup(2)",
        "trial.build_training_data_loader()",
        f"first.on_checkpoint_load_start({PARTS})",
        "first.load_state_dict(own)",
        "first.on_training_start()",
    ]
    assert second[6] == "first.on_training_batch_start(2)"
    assert second[-2:] == ["second.on_trial_shutdown(4)", "first.on_trial_shutdown()"]


def test_files_that_a_callback_adds_belong_to_the_checkpoint(tmp_path: Path) -> None:
    run = run_session(listening(tmp_path, **CONFIG), tmp_path / "checkpoints")
    assert (run.checkpoints[-1].path / "notes.txt").read_text() == "by a callback"


def test_callbacks_that_only_listen_change_no_bit(tmp_path: Path) -> None:
    config = {"max_length": "7ba", "reporting_period": "2ba", "validation_period": "3ba"}
    with_callbacks = run_session(listening(tmp_path, **config), tmp_path / "with")
    without = run_session(make_spec("linear.py", **config), tmp_path / "without")
    assert with_callbacks.reported == without.reported


# What they may do.

EMA = """
class Average(Callback):
    \"\"\"Keeps a moving average of the weights, and validates with that.\"\"\"

    def __init__(self, model):
        self.model = model
        self.average = {k: v.clone() for k, v in model.state_dict().items()}

    def on_training_batch_end(self, batch_idx):
        noise = 1e-3 * (torch.rand(1).item() + np.random.rand() + random.random())
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 0.25 + noise)

    def swap(self):
        present = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        self.average = present

    def on_validation_start(self):
        self.swap()

    def on_validation_end(self, metrics):
        self.swap()

    def state_dict(self):
        return {"average": self.average}

    def load_state_dict(self, state_dict):
        self.average = state_dict["average"]


class Averaged(Linear):
    def build_callbacks(self):
        return {"average": Average(self.model)}
"""


def test_averaged_weights_are_the_same_for_any_processes_and_stops(tmp_path: Path) -> None:
    path = write_trial(tmp_path, HEAD + EMA)
    spec = make_spec(path, slots=4, max_length="9ba", validation_period="2ba")
    straight = run_session(spec, tmp_path / "straight")
    stops = [("progress", 3), ("validation", 4), ("progress", 7)]
    stopped = run_with_stops(spec, tmp_path / "stopped", stops)
    assert stopped.reported == straight.reported
    states = [run.checkpoints[-1].contents.state["callbacks"] for run in (straight, stopped)]
    first, second = (state["average"]["average"]["weight"] for state in states)
    assert torch.equal(first, second)


def test_a_stop_does_not_break_off_a_validation_that_a_callback_has_begun(tmp_path: Path) -> None:
    path = write_trial(tmp_path, HEAD + EMA)
    spec = make_spec(path, max_length="4ba", validation_period="2ba")
    # Heard after batch 2 was settled: a validation without callbacks would be broken off by it.
    run = run_session(spec, tmp_path / "c", stop_upon=("progress", 2))
    assert (run.outcome, run.batches) == (Outcome.PAUSED, 2)
    assert [batches for batches, *_ in run.validation] == [2]


STOPPING = """
class Stopping(Callback):
    def __init__(self, context):
        self.context = context

    def on_validation_end(self, metrics):
        self.context.set_stop_requested(self.context.current_train_batch() == 4)


class Stopped(Linear):
    def build_callbacks(self):
        return {"early stopping": Stopping(self.context)}
"""
ENDED_AT_4 = [(Outcome.COMPLETED, 4)]


@pytest.mark.parametrize(
    "stops", [[], [("progress", 3)], [("progress", 4)], [("training", 4)], [("validation", 4)]]
)
@pytest.mark.parametrize("policy", ["all", "none"])
def test_early_stopping_completes_the_trial_at_the_validation_that_it_has_heard(
    policy: str, stops: list[Event], tmp_path: Path
) -> None:
    path = write_trial(tmp_path, HEAD + STOPPING)
    spec = make_spec(
        path,
        max_length="8ba",
        reporting_period="3ba",
        validation_period="2ba",
        checkpoint_policy=policy,
    )
    run = run_with_stops(spec, tmp_path / "c", stops)
    assert [(run.outcome, run.batches)] == ENDED_AT_4
    assert [batches for batches, *_ in run.training] == [3, 4]
    assert [batches for batches, *_ in run.validation] == [2, 4]
    # Whoever goes on from the last checkpoint knows that it is the last.
    assert run.checkpoints[-1].contents.state["progress"]["ended_at"] == 4


# Heard after a batch was settled: the next one is the attempt's last.
@pytest.mark.parametrize("stops", [[], [("progress", 1)], [("progress", 2)]])
def test_a_stop_does_not_bring_forward_the_end_that_a_batch_has_asked_for(
    stops: list[Event], tmp_path: Path
) -> None:
    path = write_trial(
        tmp_path,
        HEAD
        + """
class Silent(Callback):
    def on_validation_end(self, metrics):
        pass


class Asking(Linear):
    def build_callbacks(self):
        return {"silent": Silent()}

    def train_batch(self, batch, epoch_idx, batch_idx):
        if batch_idx == 1:
            self.context.set_stop_requested(True)
        return super().train_batch(batch, epoch_idx, batch_idx)
""",
    )
    spec = make_spec(path, max_length="8ba", reporting_period="8ba", validation_period="4ba")
    run = run_with_stops(spec, tmp_path / "c", stops)
    assert (run.outcome, run.batches) == (Outcome.COMPLETED, 3)
    assert [batches for batches, *_ in run.validation] == [3]


def test_a_callback_may_change_what_is_saved_and_what_is_restored(tmp_path: Path) -> None:
    path = write_trial(
        tmp_path,
        HEAD
        + """
class Renaming(Callback):
    def on_checkpoint_save_start(self, checkpoint):
        (model,) = checkpoint["models_state_dict"]
        model["kept"] = model.pop("weight")
        checkpoint["scale"] = 2.0

    def on_checkpoint_load_start(self, checkpoint):
        (model,) = checkpoint["models_state_dict"]
        model["weight"] = model.pop("kept") * checkpoint["scale"]


class Renamed(Linear):
    def build_callbacks(self):
        return {"renaming": Renaming()}

    def train_batch(self, batch, epoch_idx, batch_idx):
        return {"weight": self.model.weight.sum()}
""",
    )
    spec = make_spec(path, max_length="2ba", reporting_period="1ba", validation_period=None)
    run = run_with_stops(spec, tmp_path / "c", [("progress", 1)])
    (_, _, first), (_, _, second) = run.training
    assert second["weight"] == 2 * first["weight"] != 0
    assert "kept" in run.checkpoints[0].contents.models[0]


# What goes wrong.


def raising(folder: Path, method: str, arguments: str) -> TrialSpec:
    path = write_trial(
        folder,
        HEAD
        + f"""
from trials.listening import Everything, Listening

class Failing(Callback):
    def {method}(self, {arguments}):
        raise RuntimeError("no more")


class Failed(Listening):
    def build_callbacks(self):
        return {{**super().build_callbacks(), "failing": Failing()}}
""",
    )
    heard = folder / "heard"
    heard.mkdir()
    return make_spec(path, **CONFIG, hyperparameters={"heard": str(heard)})


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("on_trial_startup", "first_batch_idx, checkpoint_uuid"),
        ("on_training_epoch_end", "epoch_idx"),
        ("on_validation_end", "metrics"),
        ("on_checkpoint_write_end", "checkpoint_dir"),
    ],
)
def test_an_exception_names_the_callback_and_all_are_told(
    tmp_path: Path, method: str, arguments: str
) -> None:
    with pytest.raises(RuntimeError, match="no more") as caught:
        run_session(raising(tmp_path, method, arguments), tmp_path / "checkpoints")
    assert caught.value.__notes__ == [f"Raised by {method} of callback 'failing'."]
    told, *_, last = heard(tmp_path)[-3:]
    assert told == "first.on_exception(RuntimeError('no more'))"
    assert last == "first.on_trial_shutdown()"


def test_a_failing_trial_is_told_with_its_own_exception(tmp_path: Path) -> None:
    source = """
from trials.listening import Listening

class Failed(Listening):
    def train_batch(self, batch, epoch_idx, batch_idx):
        raise KeyError("missing") if batch_idx else None
        return super().train_batch(batch, epoch_idx, batch_idx)
"""
    source = source.replace(
        'raise KeyError("missing") if batch_idx else None',
        'if batch_idx == 1:\n            raise KeyError("missing")',
    )
    heard_folder = tmp_path / "heard"
    heard_folder.mkdir()
    path = write_trial(tmp_path, HEAD + source)
    spec = make_spec(path, hyperparameters={"heard": str(heard_folder)})
    with pytest.raises(SlotError):
        run_session(spec, tmp_path / "checkpoints")
    assert heard(tmp_path)[-3] == "first.on_exception(KeyError('missing'))"


@pytest.mark.parametrize("method", ["on_exception", "on_trial_shutdown"])
def test_a_callback_that_fails_at_the_end_hides_nothing(
    tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = "exception" if method == "on_exception" else "_=None"
    spec = raising(tmp_path, method, arguments)
    if method == "on_exception":
        spec = dataclasses.replace(spec, resume_from=tmp_path / "nowhere")
        with pytest.raises(CheckpointError):
            run_session(spec, tmp_path / "checkpoints")
        return
    assert run_session(spec, tmp_path / "checkpoints").outcome is Outcome.COMPLETED
    assert "on_trial_shutdown of callback 'failing' raised:" in caplog.text
    assert heard(tmp_path)[-1] == "first.on_trial_shutdown()"


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (
            "[Callback()]",
            "build_callbacks returned a list. Return a dictionary of names and trialrun.Callback "
            "objects; the names are those in checkpoints.",
        ),
        (
            "{'a': print}",
            "build_callbacks returned 'a': builtin_function_or_method. Names are strings, and "
            "callbacks are objects of classes that derive from trialrun.Callback.",
        ),
        (
            "{3: Callback()}",
            "build_callbacks returned 3: Callback. Names are strings, and callbacks are objects of "
            "classes that derive from trialrun.Callback.",
        ),
        (
            "{'a': Wrong()}",
            "Wrong.on_training_epoch_start does not take the arguments (epoch_idx): too many "
            "positional arguments. Write: def on_training_epoch_start(self, epoch_idx): ...",
        ),
    ],
)
def test_what_is_no_callback_is_refused(tmp_path: Path, returned: str, expected: str) -> None:
    path = write_trial(
        tmp_path,
        HEAD
        + f"""
class Wrong(Callback):
    def on_training_epoch_start(self):
        pass


class Refused(Linear):
    def build_callbacks(self):
        return {returned}
""",
    )
    with pytest.raises(InvalidTrialError) as caught:
        run_session(make_spec(path), tmp_path / "checkpoints")
    assert str(caught.value) == expected


def test_an_event_that_there_is_not_is_answered_with_the_nearest(tmp_path: Path) -> None:
    path = write_trial(
        tmp_path,
        HEAD
        + """
class Base(Callback):
    on_gpu = False  # no method

    def on_train_batch_end(self, batch_idx):
        pass


class Lightning(Base):
    def on_training_batch_start(self, batch_idx):
        pass


class Refused(Linear):
    def build_callbacks(self):
        return {"a": Callback(), "b": Lightning()}
""",
    )
    with pytest.raises(InvalidTrialError) as caught:
        run_session(make_spec(path), tmp_path / "checkpoints")
    assert str(caught.value) == (
        "Lightning.on_train_batch_end is never called: a Callback has no such event. Did you mean "
        "'on_training_batch_end'? A method that the trial calls itself needs a name that does not "
        "begin with on_."
    )


def test_a_missing_or_extra_callback_is_named_at_restore(tmp_path: Path) -> None:
    spec = listening(tmp_path, **CONFIG)
    run = run_session(spec, tmp_path / "checkpoints", stop_upon=("progress", 2))
    path = write_trial(
        tmp_path,
        HEAD
        + """
class Changed(Linear):
    def build_callbacks(self):
        return {"first": Callback(), "third": Callback()}
""",
    )
    changed = dataclasses.replace(resume(spec, run), trial_file=path)
    with pytest.raises(CheckpointError) as caught:
        run_session(changed, tmp_path / "checkpoints")
    assert str(caught.value) == (
        "The callbacks do not fit the checkpoint: the checkpoint has no state of 'third'; the "
        "trial has no 'second', whose state it holds. Restore build_callbacks, or submit a new "
        "experiment."
    )
