from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from thread_collectives import run_on_threads

from trialrun import InvalidMetricError, InvalidTrialError, Reducer
from trialrun.controller.engine.parallel.collectives import SingleProcess
from trialrun.controller.engine.reports.metrics import (
    Reduced,
    TrainingWindow,
    check_batch_length,
    check_scalars,
    reduce_evaluated,
    to_floats,
)


def message(call: Any, *arguments: Any) -> str:
    with pytest.raises(InvalidMetricError) as caught:
        call(*arguments)
    return str(caught.value)


# What a batch returns.


def test_every_scalar_is_a_metric() -> None:
    returned: dict[str, Any] = {
        "int": 3,
        "bool": True,
        "float": 0.5,
        "numpy": np.float32(0.1),
        "whole": np.int64(7),
        "flag": np.bool_(False),
        "array": np.array([[2.25]]),
        "tensor": torch.tensor([[2.5]], requires_grad=True),
        "half": torch.tensor(1.5, dtype=torch.float16),
        "count": torch.tensor(2**60 + 1),
    }
    scalars = check_scalars(returned, "train_batch")
    returned["tensor"].detach().zero_()  # the trial goes on with it; the metric is what it was
    (floats,) = to_floats([scalars])
    assert floats == {
        "int": 3.0,
        "bool": 1.0,
        "float": 0.5,
        "numpy": float(np.float32(0.1)),
        "whole": 7.0,
        "flag": 0.0,
        "array": 2.25,
        "tensor": 2.5,
        "half": 1.5,
        "count": float(2**60 + 1),
    }
    assert list(floats) == list(returned)
    assert all(type(value) is float for value in floats.values())


@pytest.mark.parametrize("source", ["train_batch", "evaluate_batch", "evaluate_full_dataset"])
def test_one_tensor_is_the_loss(source: str) -> None:
    assert to_floats([check_scalars(torch.tensor(2.0), source)]) == [{"loss": 2.0}]
    assert message(check_scalars, torch.ones(3), source).startswith(
        f"Metric 'loss' returned by {source} is a Tensor of shape (3,)"
    )


def test_a_sequence_of_one_number_is_that_number() -> None:
    returned = {"lr": [0.25], "loss": (torch.tensor([2.0]),), "step": [np.int64(3)]}
    assert to_floats([check_scalars(returned, "train_batch")]) == [
        {"lr": 0.25, "loss": 2.0, "step": 3.0}
    ]


def test_rows_keep_their_own_values_and_order() -> None:
    rows = [
        {"a": torch.tensor(1.0), "b": torch.tensor(2.0, dtype=torch.float64), "c": 3.0},
        {"a": torch.tensor(4.0), "b": torch.tensor(5.0, dtype=torch.float64), "c": 6.0},
    ]
    assert to_floats(rows) == [{"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 4.0, "b": 5.0, "c": 6.0}]


@pytest.mark.parametrize(
    ("returned", "kind"), [(None, "None"), (3, "an int"), ([("loss", 1.0)], "a list")]
)
def test_anything_but_a_dictionary_is_refused(returned: Any, kind: str) -> None:
    assert message(check_scalars, returned, "train_batch") == (
        f"train_batch returned {kind}. Return a dictionary of metric names and numbers, or one "
        "scalar tensor, the loss."
    )
    assert message(check_scalars, returned, "evaluate_batch") == (
        f"evaluate_batch returned {kind}. Return a dictionary of metric names and numbers, or one "
        "scalar tensor, the loss."
    )


def test_metric_names_are_strings() -> None:
    assert message(check_scalars, {3: 1.0}, "train_batch") == (
        "train_batch returned a metric named 3, an int. Metric names are strings."
    )


@pytest.mark.parametrize(
    ("value", "described"),
    [
        (torch.zeros(2, 3), "a Tensor of shape (2, 3) and type torch.float32"),
        (torch.zeros(0), "a Tensor of shape (0,) and type torch.float32"),
        (torch.tensor(1j), "a Tensor of shape () and type torch.complex64"),
        (np.zeros(2), "a ndarray of shape (2,) and type float64"),
        (np.array(["1"]), "a ndarray of shape (1,) and type <U1"),
        ("0.5", "a str ('0.5')"),
        (None, "None"),
        (1j, "a complex (1j)"),
        ([0.1, 0.2], "a list ([0.1, 0.2])"),
        ([], "a list ([])"),
        (["0.5"], "a str ('0.5')"),
    ],
)
def test_what_is_no_number_is_described(value: Any, described: str) -> None:
    assert message(check_scalars, {"loss": value}, "evaluate_batch") == (
        f"Metric 'loss' returned by evaluate_batch is {described}, not a number. Return one number "
        "for each metric; use a MetricReducer for anything larger."
    )


@pytest.mark.parametrize(
    ("length", "described"),
    [
        (-1, "an int (-1)"),
        (2.0, "a float (2.0)"),
        (None, "None"),
        (torch.ones(2), "a Tensor of shape (2,) and type torch.float32"),
    ],
)
def test_a_batch_length_is_a_number_of_records(length: Any, described: str) -> None:
    assert [check_batch_length(good) for good in (0, np.int64(3), torch.tensor(4))] == [0, 3, 4]
    with pytest.raises(InvalidTrialError) as caught:
        check_batch_length(length)
    assert str(caught.value) == (
        f"get_batch_length returned {described}. Return the number of records in the batch."
    )


# Training: the mean over the records of all batches and slots.


def fill(window: TrainingWindow, slot: int, values: Sequence[float]) -> None:
    for value in values:
        window.add(slot, {"loss": torch.tensor(value, dtype=torch.float64)})


def test_the_mean_is_over_batches_and_slots_on_every_process() -> None:
    values = {slot: [10.0 ** (slot * 4), -(10.0**slot), 0.1 * slot] for slot in range(4)}
    numbers = [value for slot_values in values.values() for value in slot_values]

    def reduce(process: Any) -> dict[str, float]:
        slots_each = 4 // process.size
        slots = range(process.rank * slots_each, (process.rank + 1) * slots_each)
        window = TrainingWindow(slots, process)
        for slot in slots:
            fill(window, slot, values[slot])
        assert len(window) == 3
        result = window.reduce().means
        assert len(window) == 0
        return result

    expected = {"loss": math.fsum(numbers) / 12}
    assert reduce(SingleProcess()) == expected
    for size in (2, 4):
        assert run_on_threads(size, reduce) == [expected] * size


def test_the_order_of_batches_changes_no_bit() -> None:
    generator = random.Random(3)
    values = [generator.uniform(-1, 1) * 10 ** generator.randint(-9, 9) for _ in range(200)]
    means = set()
    for _ in range(10):
        generator.shuffle(values)
        window = TrainingWindow(range(1), SingleProcess())
        fill(window, 0, values)
        means.add(window.reduce().means["loss"])
    assert len(means) == 1
    assert len({sum(values[i:] + values[:i]) for i in range(10)}) > 1


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([1.0, math.inf], "inf"),
        ([math.inf, -math.inf, 1.0], "nan"),
        ([1.0, math.nan], "nan"),
        ([1.5e308, 1.5e308], "inf"),
    ],
)
def test_a_mean_that_is_not_finite_is_reported_as_such(values: list[float], mean: str) -> None:
    window = TrainingWindow(range(1), SingleProcess())
    fill(window, 0, values)
    assert repr(window.reduce().means["loss"]) == mean


def test_unequal_batches_weigh_their_records_on_any_number_of_processes() -> None:
    # (records, value) of each batch of each slot
    batches = {0: [(4, 1.0), (1, 0.1)], 1: [(4, 2.0), (3, 1e-9)]}

    def reduce(process: Any) -> Reduced:
        slots_each = 2 // process.size
        slots = range(process.rank * slots_each, (process.rank + 1) * slots_each)
        window = TrainingWindow(slots, process)
        for slot in slots:
            for records, value in batches[slot]:
                window.add(slot, {"loss": value}, records)
        return window.reduce(with_batches=True)

    expected = Reduced(
        {"loss": math.fsum([4.0, 0.1, 8.0, 3e-9]) / 12},
        [{"loss": 1.5}, {"loss": math.fsum([0.1, 3e-9]) / 4}],
    )
    assert reduce(SingleProcess()) == expected
    assert run_on_threads(2, reduce) == [expected] * 2


def test_batches_without_any_record_have_no_mean() -> None:
    window = TrainingWindow(range(1), SingleProcess())
    window.add(0, {"loss": 1.0}, 0)
    expected = (
        "The {} batches hold no records, as get_batch_length counts them, so there is no mean over "
        "records. Let it return how many records a batch holds."
    )
    assert message(window.reduce) == expected.format("training")
    assert message(reduce_evaluated, [(0, 0, {"loss": 1.0})], Reducer.AVG) == expected.format(
        "validation"
    )
    assert reduce_evaluated([(0, 0, {"loss": 1.0})], Reducer.MAX) == {"loss": 1.0}


def test_every_batch_and_slot_returns_the_same_names() -> None:
    window = TrainingWindow(range(2), SingleProcess())
    window.add(0, {"loss": 1.0, "accuracy": 0.5})
    window.add(1, {"loss": 1.0})
    assert message(window.reduce) == (
        "train_batch returned the metrics ['accuracy', 'loss'] for one batch and ['loss'] for "
        "another. Return the same names for every batch and slot."
    )


def test_a_window_goes_on_from_what_a_checkpoint_kept() -> None:
    first, second = (TrainingWindow(range(2), SingleProcess()) for _ in range(2))
    for slot in range(2):
        fill(first, slot, [0.1, 1e-9 * slot])
        first.add(slot, {"loss": 5.0}, records=slot + 2)
        second.load_slot_state(slot, first.slot_state(slot))
        fill(first, slot, [3.0])
        fill(second, slot, [3.0])
    assert second.reduce().means == first.reduce().means


# Validation.


def test_each_reduction_is_over_all_batches_in_any_order() -> None:
    batches = [
        (number, records, {"avg": value, "sum": value, "max": value, "min": value})
        for number, records, value in ((0, 4, 1.0), (1, 4, 5.0), (2, 1, 3.0))
    ]
    reducers = {"avg": Reducer.AVG, "sum": Reducer.SUM, "max": Reducer.MAX, "min": Reducer.MIN}
    # The last batch holds 1 record, the others 4: (4 * 1 + 4 * 5 + 1 * 3) / 9
    expected = {"avg": 3.0, "sum": 9.0, "max": 5.0, "min": 1.0}
    for order in (batches, batches[::-1], batches[1:] + batches[:1]):
        assert reduce_evaluated(order, reducers) == expected


def test_one_reducer_serves_all_metrics() -> None:
    batches = [(0, 2, {"a": 1.0, "b": 10.0}), (1, 1, {"a": 4.0, "b": 40.0})]
    assert reduce_evaluated(batches, Reducer.AVG) == {"a": 2.0, "b": 20.0}
    assert reduce_evaluated(batches, Reducer.MAX) == {"a": 4.0, "b": 40.0}


def test_every_validation_batch_returns_the_same_names() -> None:
    batches = [(0, 1, {"loss": 1.0}), (1, 1, {"lost": 1.0})]
    assert message(reduce_evaluated, batches, Reducer.AVG) == (
        "evaluate_batch returned the metrics ['loss'] for one batch and ['lost'] for another. "
        "Return the same names for every batch and slot."
    )


def test_reducers_and_metrics_have_the_same_names() -> None:
    batches = [(0, 1, {"loss": 1.0, "accuracy": 0.5})]
    reducers = {"loss": Reducer.AVG, "acuracy": Reducer.MAX}
    assert message(reduce_evaluated, batches, reducers) == (
        "evaluation_reducer() names ['acuracy', 'loss'] but evaluate_batch returned ['accuracy', "
        "'loss']. Name every metric exactly once. Did you mean 'accuracy'?"
    )
    assert message(reduce_evaluated, batches, {"loss": Reducer.AVG}).startswith(
        "evaluation_reducer() names ['loss'] but evaluate_batch returned ['accuracy', 'loss']."
    )


LEGAL = (
    "Use one of Reducer.AVG, Reducer.SUM, Reducer.MAX, Reducer.MIN, or a dictionary that has one "
    "of them for each metric."
)


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("avg", f"evaluation_reducer() returned a str ('avg'). {LEGAL}"),
        (None, f"evaluation_reducer() returned None. {LEGAL}"),
        ([Reducer.AVG], "evaluation_reducer() returned a list ([<Reducer.AVG: 'avg'>]). " + LEGAL),
        (
            {"loss": Reducer.AVG, "accuracy": "max"},
            f"evaluation_reducer() gives for 'accuracy' a str ('max'). {LEGAL}",
        ),
        (
            {"loss": Reducer.AVG, "accuracy": Reducer.MAX, 3: Reducer.MIN},
            "evaluation_reducer() names ['3', 'accuracy', 'loss'] but evaluate_batch returned "
            "['accuracy', 'loss']. Name every metric exactly once. Known: accuracy, loss.",
        ),
    ],
)
def test_an_evaluation_reducer_is_one_of_four(returned: Any, expected: str) -> None:
    batches = [(0, 1, {"loss": 1.0, "accuracy": 0.5})]
    assert message(reduce_evaluated, batches, returned) == expected


def test_a_validation_without_batches_is_told() -> None:
    assert message(reduce_evaluated, [], Reducer.AVG) == (
        "The validation data gave no batch, so there is nothing to reduce. Check what "
        "build_validation_data_loader returns: an iterator, which can be gone through once only, "
        "is no loader."
    )


def test_the_means_of_each_batch_weigh_their_records_too() -> None:
    window = TrainingWindow(range(2), SingleProcess())
    for slot, rows in enumerate([[(1, 5.0), (2, 0.5), (0, 9.0)], [(3, 1.0), (2, 1.5), (0, 9.0)]]):
        for records, loss in rows:
            window.add(slot, {"loss": loss, "accuracy": -loss}, records)
    reduced = window.reduce(with_batches=True)
    first, second, third = reduced.batches
    assert (first, second) == ({"loss": 2.0, "accuracy": -2.0}, {"loss": 1.0, "accuracy": -1.0})
    # No slot has a record of it.
    assert all(math.isnan(value) for value in third.values())
    assert reduced.means == {"loss": 1.5, "accuracy": -1.5}
