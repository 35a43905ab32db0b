from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from process_launch import Job, Launcher
from support import Run, make_spec, run_session, run_with_stops, write_trial
from trials.linear import records

from trialrun import InvalidMetricError, InvalidTrialError
from trialrun.controller.engine.parallel.slots import SlotError
from trialrun.controller.trial_file import load_trial_class

HEAD = """
import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset
from trials.linear import Linear
from trialrun import DataLoader, MetricReducer, Reducer

"""


def run(folder: Path, source: str, **config: Any) -> Run:
    path = write_trial(folder, HEAD + source)
    spec = make_spec(path, **{"max_length": "2ba", "validation_period": "1ba", **config})
    return run_session(spec, folder / "checkpoints")


IDENTITY = """
class Identity(Linear):
    def build_validation_data_loader(self):
        data = TensorDataset(torch.arange(self.hparams["length"], dtype=torch.float64) ** 2)
        return DataLoader(data, batch_size=self.hparams["size"])

    def evaluate_batch(self, batch, batch_idx):
        (values,) = batch
        return {"mean": values.mean(), "sum": values.sum(), "max": values.max(), "count": 1}

    def evaluation_reducer(self):
        return {"mean": Reducer.AVG, "sum": Reducer.SUM, "max": Reducer.MAX, "count": Reducer.SUM}
"""


@pytest.mark.parametrize(("length", "size"), [(11, 2), (1, 5), (12, 3), (7, 1)])
@pytest.mark.parametrize("slots", [1, 2, 4])
def test_every_record_counts_once_on_any_number_of_slots(
    tmp_path: Path, length: int, size: int, slots: int
) -> None:
    result = run(
        tmp_path,
        IDENTITY,
        slots=slots,
        max_length="1ba",
        hyperparameters={"length": length, "size": size},
    )
    values = [float(i**2) for i in range(length)]
    ((_, _, num_records, metrics),) = result.validation
    assert num_records == length
    assert metrics == {
        "mean": pytest.approx(sum(values) / length, rel=1e-15),
        "sum": sum(values),
        "max": values[-1],
        "count": -(-length // size),
    }


def test_a_validation_is_the_same_on_any_number_of_slots(tmp_path: Path) -> None:
    source = """
class Drawing(Linear):
    def make_optimizer(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.0)

    def evaluate_batch(self, batch, batch_idx):
        return {"loss": self.loss(batch), "draw": torch.rand(()) + np.random.rand()}
"""
    found = []
    for slots in (1, 3, 4):
        (tmp_path / str(slots)).mkdir()
        result = run(tmp_path / str(slots), source, slots=slots)
        # Without the epoch, which is another on other numbers of slots.
        found.append([(batches, *rest) for batches, _, *rest in result.validation])
    assert found[0] == found[1] == found[2]


def test_nothing_but_the_models_mode_changes_and_that_comes_back(tmp_path: Path) -> None:
    source = """
class Modes(Linear):
    seen = []

    def make_model(self):
        model = nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1), nn.Dropout(0.5)).double()
        model[2].eval()
        return model

    def set_up(self):
        self.other = self.context.wrap_model(nn.Linear(1, 1).eval())

    def modes(self):
        modules = [*self.model.modules(), *self.other.modules()]
        return [m.training for m in modules], torch.is_grad_enabled()

    def train_batch(self, batch, epoch_idx, batch_idx):
        self.seen.append(("train", self.modes()))
        return super().train_batch(batch, epoch_idx, batch_idx)

    def evaluate_batch(self, batch, batch_idx):
        self.seen.append(("evaluate", self.modes(), self.model[1].num_batches_tracked.item()))
        return super().evaluate_batch(batch, batch_idx)
"""
    run(tmp_path, source, slots=1)
    seen = load_trial_class(tmp_path / "trial.py", None).seen  # type: ignore[attr-defined]
    train = ("train", ([True, True, True, False, False], True))
    evaluate = [("evaluate", ([False] * 5, False), batches) for batches in (1, 2)]
    assert seen == [train, *[evaluate[0]] * 4, train, *[evaluate[1]] * 4]


REDUCING = """
class Total(MetricReducer):
    def __init__(self):
        self.reset()

    def reset(self):
        self.values = []

    def per_slot_reduce(self):
        return self.values

    def cross_slot_reduce(self, per_slot_metrics):
        return float(sum(10**slot * len(v) for slot, v in enumerate(per_slot_metrics)))


class Reducing(Linear):
    def set_up(self):
        self.both = self.context.wrap_reducer(Total(), "both")
        self.training = self.context.wrap_reducer(Total(), "training", for_validation=False)
        self.validation = self.context.wrap_reducer(Total(), "validation", for_training=False)

    def train_batch(self, batch, epoch_idx, batch_idx):
        for reducer in (self.both, self.training, self.validation):
            reducer.values.append(batch_idx)
        return super().train_batch(batch, epoch_idx, batch_idx)

    def evaluate_batch(self, batch, batch_idx):
        for reducer in (self.both, self.training, self.validation):
            reducer.values.append(batch_idx)
        return super().evaluate_batch(batch, batch_idx)
"""


def test_reducers_collect_for_training_and_validation_apart(tmp_path: Path) -> None:
    result = run(tmp_path, REDUCING, slots=3, max_length="5ba", reporting_period="3ba")
    # 4 validation batches: slots 0, 1, 2 and 0 again. A digit for each slot, slot 0 last.
    for *_, metrics in result.validation:
        assert {k: v for k, v in metrics.items() if k != "loss"} == {"both": 112, "validation": 112}
    training = [{k: v for k, v in m.items() if k != "loss"} for _, _, m in result.training]
    assert training == [{"both": 333, "training": 333}, {"both": 222, "training": 222}]


def test_what_a_batch_may_not_return_is_told(tmp_path: Path) -> None:
    source = """
class Wrong(Linear):
    def evaluate_batch(self, batch, batch_idx):
        return {"loss": torch.zeros(2)}
"""
    with pytest.raises(InvalidMetricError, match=r"^Metric 'loss' returned by evaluate_batch is a"):
        run(tmp_path, source)


def test_an_error_in_evaluation_names_its_slot(tmp_path: Path) -> None:
    source = """
class Failing(Linear):
    def evaluate_batch(self, batch, batch_idx):
        if batch_idx == 3:
            raise ZeroDivisionError("mine")
        return {"loss": 0.0}
"""
    with pytest.raises(SlotError, match="^slot 1$") as caught:
        run(tmp_path, source, slots=2)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_batches_of_a_type_of_ones_own_need_a_length(tmp_path: Path) -> None:
    source = """
class Texts(Linear):
    def build_validation_data_loader(self):
        return DataLoader(["ab", "c", "def"], batch_size=2, collate_fn=" ".join)

    def evaluate_batch(self, batch, batch_idx):
        return {"letters": len(batch.replace(" ", "")) / len(batch.split())}
"""
    with pytest.raises(InvalidTrialError, match="^The number of records in a batch of type str"):
        run(tmp_path, source)
    (tmp_path / "counting").mkdir()
    counting = (
        source + "    def get_batch_length(self, batch):\n        return len(batch.split())\n"
    )
    result = run(tmp_path / "counting", counting)
    assert result.validation[0][2:] == (3, {"letters": 2.0})


def test_the_records_of_a_validation_are_those_of_the_loader(tmp_path: Path) -> None:
    source = """
class Collecting(Linear):
    seen = []

    def evaluate_batch(self, batch, batch_idx):
        self.seen.append((batch_idx, batch[0].clone()))
        return {"loss": 0.0}
"""
    run(tmp_path, source, slots=2, max_length="1ba")
    seen = load_trial_class(tmp_path / "trial.py", None).seen  # type: ignore[attr-defined]
    assert [number for number, _ in seen] == [0, 1, 2, 3]
    assert torch.equal(torch.cat([inputs for _, inputs in seen]), records(7).tensors[0])


# evaluate_full_dataset, and evaluate_batch without an index.

FULL = """
class Full(Linear):
    evaluate_batch = Trial.evaluate_batch

    def build_validation_data_loader(self):
        return DataLoader(np.arange(11.0) ** 2, batch_size=4, shuffle=True)

    def evaluate_full_dataset(self, data_loader):
        assert self.context.slot == 0
        assert not self.model.training and not torch.is_grad_enabled()
        values = torch.cat(list(data_loader))
        return {
            "median": values.median(),
            "first": values[0],
            "drawn": torch.rand(1),
            "batches": len(data_loader),
        }
"""


@pytest.mark.parametrize("slots", [1, 4])
def test_slot_0_may_evaluate_the_full_dataset(tmp_path: Path, slots: int) -> None:
    result = run(tmp_path, "from trialrun import Trial\n" + FULL, slots=slots)
    (first, second) = [(records, metrics) for _, _, records, metrics in result.validation]
    assert first == second
    num_records, metrics = first
    assert (num_records, metrics["median"], metrics["batches"]) == (11, 25.0, 3)
    assert 0 < metrics["drawn"] < 1


def test_processes_wait_for_the_one_that_evaluates_the_full_dataset(
    tmp_path: Path, launcher: Launcher
) -> None:
    path = write_trial(tmp_path, HEAD + "from trialrun import Trial\n" + FULL)
    spec = make_spec(path, max_length="2ba", validation_period="1ba")
    first, second = launcher.launch(2, [Job(spec, tmp_path / "checkpoints")])
    assert first[0].reported == run_session(spec, tmp_path / "folded").reported
    assert second[0].validation == []


def test_a_full_dataset_must_give_metrics_too(tmp_path: Path) -> None:
    with pytest.raises(InvalidMetricError) as caught:
        run(
            tmp_path,
            """
from trialrun import Trial

class Full(Linear):
    evaluate_batch = Trial.evaluate_batch

    def evaluate_full_dataset(self, data_loader):
        return 3.0
""",
        )
    assert str(caught.value) == (
        "evaluate_full_dataset returned a float. Return a dictionary of metric names and numbers, "
        "or one scalar tensor, the loss."
    )


@pytest.mark.parametrize(
    ("signature", "shown"), [("self, batch", 0), ("self, batch, number", 1), ("self, **named", 1)]
)
def test_evaluate_batch_may_leave_the_index_out_or_call_it_something_else(
    tmp_path: Path, signature: str, shown: int
) -> None:
    result = run(
        tmp_path,
        f"""
class Without(Linear):
    def evaluate_batch({signature}):
        index = locals().get("number", locals().get("named", {{}}).get("batch_idx", 0))
        return {{"index": index}}

    def evaluation_reducer(self):
        return Reducer.MAX
""",
    )
    assert result.validation[0][-1] == {"index": 3 * shown}


# A state of the trial's own, and what is prepared beforehand.


def test_the_trials_own_state_is_restored(tmp_path: Path) -> None:
    path = write_trial(
        tmp_path,
        HEAD
        + """
class Curriculum(Linear):
    def set_up(self):
        self.difficulty = torch.zeros(())

    def train_batch(self, batch, epoch_idx, batch_idx):
        self.difficulty = self.difficulty * 0.5 + batch_idx
        inputs, targets = batch
        loss = self.loss((inputs * (1 + self.difficulty), targets))
        self.context.backward(loss)
        self.context.step_optimizer(self.optimizer)
        return {"loss": loss}

    def state_dict(self):
        return {"difficulty": self.difficulty}

    def load_state_dict(self, state_dict):
        self.difficulty = state_dict["difficulty"]
""",
    )
    spec = make_spec(path, slots=1)
    straight = run_session(spec, tmp_path / "straight")
    stopped = run_with_stops(spec, tmp_path / "stopped", [("progress", 3), ("progress", 6)])
    assert stopped.reported == straight.reported


def test_data_is_prepared_once_before_any_trial_is_made(tmp_path: Path, launcher: Launcher) -> None:
    path = write_trial(
        tmp_path,
        HEAD
        + """
from pathlib import Path

def note(folder, text):
    with open(Path(folder) / "log.txt", "a") as file:
        file.write(text + " ")

class Prepared(Linear):
    @classmethod
    def prepare_data(cls, hparams):
        note(hparams["folder"], "prepared")

    def set_up(self):
        note(self.context.get_hparam("folder"), "made")
""",
    )
    spec = make_spec(path, max_length="1ba", hyperparameters={"folder": str(tmp_path)})
    launcher.launch(2, [Job(spec, tmp_path / "checkpoints")])
    assert (tmp_path / "log.txt").read_text().split() == ["prepared", "made", "made"]


# What would train on validation data.

LEARNING = """
from trialrun import Trial

class Learning(Linear):
    def evaluate_batch(self, batch, batch_idx):
        with torch.enable_grad():
            loss = self.loss(batch)
            CALL
        return {"loss": loss}
"""
WHOLE = LEARNING.replace(
    "    def evaluate_batch(self, batch, batch_idx):",
    """    evaluate_batch = Trial.evaluate_batch

    def evaluate_full_dataset(self, data_loader):
        batch = next(iter(data_loader))""",
)


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize(
    ("source", "method"),
    [(LEARNING, "evaluate_batch"), (WHOLE, "evaluate_full_dataset")],
    ids=["batch", "full dataset"],
)
@pytest.mark.parametrize(
    ("call", "instead"),
    [
        ("backward(loss)", "; for gradients with respect to something else, use torch.autograd.g"),
        ("step_optimizer(self.optimizer)", ""),
    ],
    ids=["backward", "step"],
)
def test_nothing_is_trained_in_a_validation(
    tmp_path: Path, slots: int, source: str, method: str, call: str, instead: str
) -> None:
    with pytest.raises(InvalidTrialError) as caught:
        run(tmp_path, source.replace("CALL", f"self.context.{call}"), slots=slots)
    assert str(caught.value).startswith(
        f"{call.partition('(')[0]} was called in {method}, which must leave models and their "
        f"gradients as they are. Call it in train_batch{instead}"
    )


def test_gradients_with_respect_to_something_else_may_be_computed(tmp_path: Path) -> None:
    call = "loss = torch.autograd.grad(loss, self.model.weight)[0].sum().abs() + 1"
    result = run(tmp_path, LEARNING.replace("CALL", call))
    assert result.validation[-1][-1]["loss"] > 1


@pytest.mark.parametrize("slots", [1, 2])
def test_a_callback_of_a_validation_may_train_a_probe_of_its_own(
    tmp_path: Path, slots: int
) -> None:
    source = """
from trialrun import Callback

class Probe(Callback):
    def __init__(self, context):
        self.context = context

    def on_validation_end(self, metrics):
        probe = nn.Parameter(torch.ones(2))
        with torch.enable_grad():
            self.context.backward((probe * torch.tensor([3.0, 5.0])).sum())
        Probing.seen.append(probe.grad.tolist())

class Probing(Linear):
    seen = []

    def build_callbacks(self):
        return {"probe": Probe(self.context)}
"""
    run(tmp_path, source, slots=slots)
    cls: Any = load_trial_class(tmp_path / "trial.py", None)
    assert cls.seen == [[3.0, 5.0]] * 2
