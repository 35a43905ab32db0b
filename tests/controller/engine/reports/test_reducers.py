"""Metric reducers: contents for each slot, one order over all of them, and the trial's mistakes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import Run, make_spec, resume, run_session, run_with_stops, write_trial
from thread_collectives import run_on_threads

from trialrun import (
    CheckpointError,
    InvalidMetricError,
    InvalidTrialError,
    MetricReducer,
    ReducerError,
)
from trialrun._adapted_reducers import FunctionReducer
from trialrun._wrapped import WrappedReducer
from trialrun.controller.engine.parallel.collectives import Collectives, SingleProcess
from trialrun.controller.engine.randomness import Generators
from trialrun.controller.engine.reports.reducers import Phase, SlotReducers


class Collecting(MetricReducer):
    """Keeps what it is given; each method can be replaced by a function of the test."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        self.methods = methods
        self.values: list[Any] = []

    def reset(self) -> None:
        self.values.clear()
        self.methods.get("reset", lambda: None)()

    def update(self, value: Any) -> None:
        self.values.append(value)

    def per_slot_reduce(self) -> Any:
        return self.methods.get("per_slot_reduce", lambda values: values)(self.values)

    def cross_slot_reduce(self, per_slot_metrics: list[Any]) -> Any:
        return self.methods.get("cross_slot_reduce", len)(per_slot_metrics)


def wrapped(
    reducer: MetricReducer,
    name: str | None = "mine",
    for_training: bool = True,
    for_validation: bool = True,
) -> WrappedReducer:
    return WrappedReducer(
        given=reducer,
        reducer=reducer,
        name=name,
        for_training=for_training,
        for_validation=for_validation,
    )


def slot_reducers(
    *reducers: WrappedReducer,
    num_slots: int = 3,
    slots: range | None = None,
    shared: tuple[object, ...] = (),
) -> SlotReducers:
    return SlotReducers(
        reducers,
        slots=range(num_slots) if slots is None else slots,
        num_slots=num_slots,
        generators=Generators(5, torch.device("cpu")),
        shared=shared,
    )


def reduce(
    reducers: SlotReducers,
    phase: Phase = Phase.TRAINING,
    metrics: dict[str, float] | None = None,
    collectives: Collectives | None = None,
    batches: int = 7,
) -> dict[str, float] | None:
    """Returns what the chief reports."""
    collectives = SingleProcess() if collectives is None else collectives
    gathered = collectives.gather(reducers.per_slot(phase, batches), "results")
    if gathered is None:
        return None
    results = [row for rows in gathered for row in rows]
    return reducers.across_slots(phase, batches, results, metrics or {"loss": 1.0})


def message(call: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises((InvalidMetricError, InvalidTrialError)) as caught:
        call(*arguments)
    return str(caught.value)


# What they collect.


def test_slots_and_phases_do_not_mix() -> None:
    reducer = Collecting(
        cross_slot_reduce=lambda slots: {f"of {i}": sum(v) for i, v in enumerate(slots)}
    )
    reducers = slot_reducers(wrapped(reducer, None))
    for place, phase in enumerate(Phase):
        for slot in range(3):
            reducers.enter(phase, slot)
            reducer.update(10.0**slot + place)
    assert reduce(reducers) == {"loss": 1.0, "of 0": 1.0, "of 1": 10.0, "of 2": 100.0}
    reducers.reset(Phase.TRAINING)
    assert reduce(reducers) == {"loss": 1.0, "of 0": 0.0, "of 1": 0.0, "of 2": 0.0}
    found = reduce(reducers, Phase.VALIDATION)
    assert found == {"loss": 1.0, "of 0": 2.0, "of 1": 11.0, "of 2": 101.0}


def test_what_is_reported_in_one_phase_alone_is_reset_in_both() -> None:
    reducer = Collecting(cross_slot_reduce=lambda slots: sum(map(len, slots)))
    reducers = slot_reducers(wrapped(reducer, for_validation=False))
    assert reducers.takes_part(Phase.TRAINING)
    assert not reducers.takes_part(Phase.VALIDATION)
    reducers.enter(Phase.VALIDATION, 1)
    reducer.update(1.0)
    assert len(reducer.values) == 1
    reducers.reset(Phase.VALIDATION)  # or a trial that feeds it would fill the memory
    reducers.enter(Phase.VALIDATION, 1)
    assert reducer.values == []


def test_results_come_in_slot_order_and_as_copies() -> None:
    seen: list[Any] = []

    def keep(slots: list[Any]) -> float:
        seen.extend(slots)
        slots[0]["scores"] += 1  # its own copy, on any number of processes
        return slots[0]["count"] + 100 * slots[1]["count"] + 10000 * slots[2]["count"]

    def result(values: list[Any]) -> Any:
        return {"scores": torch.tensor(values), "count": len(values), "array": np.array(values)}

    first = Collecting(per_slot_reduce=result, cross_slot_reduce=keep)
    second = Collecting(cross_slot_reduce=lambda slots: {"low": torch.tensor(len(slots))})
    reducers = slot_reducers(wrapped(first, "first"), wrapped(second, None))
    for slot in range(3):
        reducers.enter(Phase.TRAINING, slot)
        for value in range(slot + 1):
            first.update(float(value))
    assert reduce(reducers) == {"loss": 1.0, "first": 30201.0, "low": 3.0}
    assert [slot["scores"].tolist() for slot in seen] == [[1.0], [0.0, 1.0], [0.0, 1.0, 2.0]]
    reducers.enter(Phase.TRAINING, 0)
    assert first.values == [0.0]


def test_what_a_reduction_draws_belongs_to_batch_and_slot() -> None:
    def draw(*_: Any) -> float:
        return float(np.random.rand() + torch.rand(()))

    def new(slots: range) -> SlotReducers:
        reducer = Collecting(
            per_slot_reduce=draw,
            cross_slot_reduce=lambda rows: {
                "own": draw(),
                **{str(i): v for i, v in enumerate(rows)},
            },
        )
        return slot_reducers(wrapped(reducer, None), num_slots=4, slots=slots)

    folded = reduce(new(range(4)))
    assert folded is not None
    assert len(set(folded.values())) == 6
    draw()
    assert reduce(new(range(4))) == folded
    assert new(range(2, 4)).per_slot(Phase.TRAINING, 7) == [[folded["2"]], [folded["3"]]]
    assert reduce(new(range(4)), batches=8) != folded


def test_objects_that_belong_to_the_trial_are_not_copied() -> None:
    model = torch.nn.Linear(2, 1)
    reducer = Collecting()
    reducer.model = model  # type: ignore[attr-defined]
    reducers = slot_reducers(wrapped(reducer), shared=(model,))
    reducers.enter(Phase.TRAINING, 2)
    assert reducer.model is model  # type: ignore[attr-defined]


# Functions.


def collect(reducer: FunctionReducer, reducers: SlotReducers, phase: Phase, slot: int) -> None:
    """Feeds unequally many values in each of 3 batches: 100 * batch + 10 * slot + place."""
    reducers.enter(phase, slot)
    for batch in range(3):
        reducers.begin_batch(batch)
        for place in range((batch + slot) % 3):
            reducer.update(torch.tensor(100 * batch + 10 * slot + place))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_functions_values_come_by_batch_and_slot_on_any_number_of_processes(size: int) -> None:
    def task(collectives: Collectives) -> list[int]:
        seen: list[int] = []

        def function(values: list[torch.Tensor]) -> int:
            seen.extend(int(value) for value in values)
            return len(values)

        reducer = FunctionReducer(function)
        each = 4 // collectives.size
        slots = range(collectives.rank * each, (collectives.rank + 1) * each)
        reducers = slot_reducers(wrapped(reducer), num_slots=4, slots=slots)
        for slot in slots:
            collect(reducer, reducers, Phase.TRAINING, slot)
        reduce(reducers, collectives=collectives)
        return seen

    found = run_on_threads(size, task) if size > 1 else [task(SingleProcess())]
    expected = [
        100 * batch + 10 * slot + place
        for batch in range(3)
        for slot in range(4)
        for place in range((batch + slot) % 3)
    ]
    assert found == [expected] + [[]] * (size - 1)


def test_a_functions_values_are_what_they_were_when_they_were_given() -> None:
    seen: list[Any] = []
    reducer = FunctionReducer(lambda values: seen.extend(values) or 0.0)
    reducers = slot_reducers(wrapped(reducer), num_slots=1)
    reducers.enter(Phase.TRAINING, 0)
    tensor = torch.zeros(2, requires_grad=True)
    array = np.zeros(2)
    given = [tensor * 1, (array, {"tensor": tensor.detach()}), [3]]
    reducer.update(given)
    array += 1
    tensor.detach().add_(1)
    given[2].append(4)
    reduce(reducers)
    ((first, (second, third), fourth),) = seen
    assert first.tolist() == second.tolist() == third["tensor"].tolist() == [0, 0]
    assert fourth == [3]
    assert not first.requires_grad  # its graph would fill the memory


def test_a_functions_values_stay_on_their_device() -> None:
    # A tensor on this device has no numbers: whoever asks for them gets an exception.
    reducer = FunctionReducer(len)
    reducer.update(
        {"scores": torch.zeros(3, device="meta"), "labels": (torch.ones(3, device="meta"),)}
    )
    ((_, value),) = reducer.per_slot_reduce()
    assert value["scores"].is_meta and value["labels"][0].is_meta


# Mistakes.


def fail(*_: Any) -> Any:
    raise KeyError("missing")


HINT = (
    " A slot may have nothing to reduce: if train_batch does not update it, wrap it with "
    "for_training=False."
)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("per_slot_reduce", f"raised KeyError on slot 0: 'missing'.{HINT}"),
        ("cross_slot_reduce", "raised KeyError: 'missing'"),
    ],
)
def test_a_method_that_raises_is_named(method: str, expected: str) -> None:
    reducers = slot_reducers(wrapped(Collecting(**{method: fail})))
    with pytest.raises(ReducerError) as caught:
        reduce(reducers)
    assert str(caught.value) == f"{method} of reducer 'mine' {expected}"
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_slot_without_data_in_validation_is_explained() -> None:
    reducer = Collecting(per_slot_reduce=lambda values: torch.cat(values).mean().item())
    reducers = slot_reducers(wrapped(reducer))
    for slot in range(2):
        reducers.enter(Phase.VALIDATION, slot)
        reducer.update(torch.ones(2))
    found = message(reduce, reducers, Phase.VALIDATION)
    assert found.startswith("per_slot_reduce of reducer 'mine' raised ")
    assert " on slot 2: " in found
    assert found.endswith(
        " A slot may have nothing to reduce, where there are fewer validation batches than slots; "
        "if evaluate_batch does not update it, wrap it with for_validation=False."
    )


def test_a_function_that_fails_without_values_is_explained() -> None:
    mean = FunctionReducer(lambda values: sum(values) / len(values))
    reducers = slot_reducers(wrapped(mean))
    assert message(reduce, reducers, Phase.VALIDATION) == (
        "cross_slot_reduce of reducer 'mine' raised ZeroDivisionError: division by zero. It was "
        "given nothing: if evaluate_batch does not update it, wrap it with for_validation=False."
    )
    reducers.enter(Phase.VALIDATION, 1)
    mean.update("text")
    assert message(reduce, reducers, Phase.VALIDATION).endswith("'int' and 'str'")


def test_a_reset_that_raises_is_named_with_its_slot() -> None:
    calls: list[int] = []

    def third_time() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise ZeroDivisionError("mine")

    assert message(slot_reducers, wrapped(Collecting(reset=third_time), None)) == (
        "reset of reducer 'Collecting' raised ZeroDivisionError on slot 2: mine"
    )


def test_attributes_that_cannot_be_copied_are_told() -> None:
    reducer = Collecting()
    reducer.lock = threading.Lock()  # type: ignore[attr-defined]
    found = message(slot_reducers, wrapped(reducer))
    assert found.startswith(
        "Reducer 'mine' cannot be copied for each slot: TypeError: cannot pickle"
    )
    assert found.endswith("Keep in its attributes only what a slot collects.")


def test_what_a_slot_returns_is_plain_data() -> None:
    reducers = slot_reducers(wrapped(Collecting(per_slot_reduce=lambda _: [0, {"a": {1, 2}}])))
    assert message(reduce, reducers).startswith(
        "What per_slot_reduce of reducer 'mine' returned on slot 0[1]['a'] is a set, which is not "
        "plain data"
    )


@pytest.mark.parametrize(
    ("name", "result", "expected"),
    [
        (
            None,
            3.0,
            "Reducer 'Collecting' was wrapped without a name, so cross_slot_reduce must return a "
            "dictionary of metrics; it returned a float (3.0). Give wrap_reducer a name.",
        ),
        (
            "mine",
            {"a": 3.0},
            "Reducer 'mine' was wrapped with a name, so cross_slot_reduce must return one number; "
            "it returned a dictionary. Wrap it without a name.",
        ),
        (
            "loss",
            1.0,
            "Reducer 'loss' returned the metric 'loss', which exists already. Choose another name.",
        ),
        (
            None,
            {"loss": 1.0},
            "Reducer 'Collecting' returned the metric 'loss', which exists already. Choose another "
            "name.",
        ),
        (
            "mine",
            "text",
            "Metric 'mine' returned by reducer 'mine' is a str ('text'), not a number. Return one "
            "number for each name.",
        ),
        (
            "mine",
            torch.zeros(3),
            "Metric 'mine' returned by reducer 'mine' is a Tensor of shape (3,) and type "
            "torch.float32, not a number. Return one number for each name.",
        ),
        (
            None,
            {3: 1.0},
            "reducer 'Collecting' returned a metric named 3, an int. Metric names are strings.",
        ),
    ],
)
def test_a_result_that_breaks_the_promise_is_named(
    name: str | None, result: Any, expected: str
) -> None:
    reducers = slot_reducers(wrapped(Collecting(cross_slot_reduce=lambda _: result), name))
    assert message(reduce, reducers) == expected


def test_two_reducers_may_not_return_one_name() -> None:
    both = [wrapped(Collecting(cross_slot_reduce=lambda _: {"same": 1.0}), None) for _ in range(2)]
    assert message(reduce, slot_reducers(*both)) == (
        "Reducer 'Collecting' returned the metric 'same', which exists already. Choose another "
        "name."
    )


# In a trial.

SPEC = make_spec("folding.py", slots=4, reporting_period="5ba")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_session(SPEC, tmp_path_factory.mktemp("straight"))


def test_all_reducers_report_at_every_report(straight: Run) -> None:
    assert [(batches, list(metrics)) for batches, _, metrics in straight.training] == [
        (5, ["loss", "folded", "updates", "bootstrapped"]),
        (8, ["loss", "folded", "updates", "bootstrapped"]),
    ]
    # Two of four slots give two values in each batch, the others one.
    assert [metrics["updates"] for *_, metrics in straight.training] == [30.0, 18.0]
    assert [list(metrics) for *_, metrics in straight.validation] == [
        ["folded", "bootstrapped"]
    ] * 2


@pytest.mark.parametrize("stops", [[("progress", 2)], [("progress", b) for b in range(1, 7)]])
def test_an_unfinished_period_goes_on_after_a_stop(
    straight: Run, stops: list[Any], tmp_path: Path
) -> None:
    stopped = run_with_stops(SPEC, tmp_path, stops)
    assert stopped.reported == straight.reported


def test_other_reducers_than_the_checkpoints_are_refused(straight: Run, tmp_path: Path) -> None:
    source = SPEC.trial_file.read_text(encoding="utf-8").replace('"folded")', '"bent")')
    path = write_trial(tmp_path, source)
    spec = make_spec(path, slots=4, reporting_period="5ba", max_length="9ba")
    with pytest.raises(CheckpointError) as caught:
        run_session(resume(spec, straight), tmp_path / "checkpoints")
    assert str(caught.value) == (
        "The trial has the training reducers ['0: bent', '1: <lambda>', '2: bootstrapped'], but "
        "the checkpoint has ['0: folded', '1: <lambda>', '2: bootstrapped']. Restore the trial's "
        "code, or submit a new experiment."
    )


def test_uneven_batches_of_a_loader_of_ones_own_weigh_their_records(tmp_path: Path) -> None:
    source = """
from torch.utils.data import DataLoader, TensorDataset
import torch
from trials.linear import Linear

class Uneven(Linear):
    def set_up(self):
        self.context.experimental.disable_dataset_reproducibility_checks()

    def build_training_data_loader(self):
        # 5 records in batches of 2: the last of each pass holds 1.
        values = torch.arange(15, dtype=torch.float64).view(5, 3)
        return DataLoader(TensorDataset(values, values[:, :1]), batch_size=2)

    def train_batch(self, batch, epoch_idx, batch_idx):
        super().train_batch(batch, epoch_idx, batch_idx)
        return {"first": batch[1].mean(), "records": len(batch[1])}
"""
    spec = make_spec(write_trial(tmp_path, source), max_length="3ba")
    run = run_session(spec, tmp_path / "checkpoints")
    ((_, _, metrics),) = run.training
    # The mean of 0, 3, 6, 9, 12; batches hold (0, 3), (6, 9), (12): by batches it would be 7.
    assert metrics == {"first": 6.0, "records": (2 * 2 + 2 * 2 + 1 * 1) / 5}
