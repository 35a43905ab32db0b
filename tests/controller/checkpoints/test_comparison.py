from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trialrun.controller.checkpoints.comparison import compare_checkpoints, compare_contents
from trialrun.controller.checkpoints.contents import CheckpointContents, write_contents
from trialrun.controller.checkpoints.digest import digest


def contents() -> CheckpointContents:
    """Two models, one with a buffer outside of its state, and two optimizers."""
    return CheckpointContents(
        models=[
            {f"layers.{i}.weight": torch.arange(6.0).view(2, 3) + i for i in (10, 9)},
            {"bias": torch.ones(2, dtype=torch.bfloat16), "extra": {"calls": 3}},
        ],
        state={
            "batches": 8,
            "stopwatch": {"seconds": 1.25},
            "non_persistent_buffers": [{"mask": torch.tensor([True, False])}, {}],
            "optimizers": [
                {
                    "state": {i: {"step": torch.tensor(4.0), "n_iter": 3} for i in range(2)},
                    "param_groups": [{"lr": 0.1, "params": [0, 1]}],
                },
                {"state": {0: {"t": 0.5, "momentum": torch.ones(2)}}, "param_groups": []},
            ],
            "lr_schedulers": [{"last_epoch": 8, "nan": float("nan")}],
            "trial": {"seen": torch.tensor([1, 2])},
        },
        metadata={
            "batches": 8,
            "uuid": "a",
            "identity": {"seed": 7, "num_slots": 4},
            "hyperparameters": {"optimizer": {"lr": 0.1}},
            "versions": {"torch": "2.13.0"},
            "experiment_config": {"seed": 7, "name": "digits", "validation_period": "1ep"},
            "validation_metrics": {"loss": 0.5},
        },
    )


def hashed(of: CheckpointContents) -> str:
    return digest(of.models, of.state["optimizers"], of.state["non_persistent_buffers"])


def test_equal_checkpoints_have_no_difference(tmp_path: Path) -> None:
    first, second = contents(), contents()
    second.metadata.update(uuid="b", validation_metrics={"loss": 0.25})
    second.state["stopwatch"]["seconds"] = 9.5
    found = compare_contents(first, second)
    assert found.is_equal and found.first is None
    assert (found.num_values, found.values, found.facts, found.state) == (10, [], [], [])
    for name, each in {"a": first, "b": second}.items():
        (tmp_path / name).mkdir()
        write_contents(each, tmp_path / name)
    assert compare_checkpoints(tmp_path / "a", tmp_path / "b") == found


Change = Callable[[CheckpointContents], Any]

CHANGES: dict[str, Change] = {
    "model.0.layers.9.weight": lambda c: c.models[0]["layers.9.weight"][1, 2].add_(1),
    "model.0.layers.10.weight": lambda c: c.models[0]["layers.10.weight"][0, 0].neg_(),
    "model.0.mask": lambda c: c.state["non_persistent_buffers"][0]["mask"].fill_(True),
    "model.1.bias": lambda c: c.models[1]["bias"].mul_(2),
    "optimizer.0.state.0.n_iter": lambda c: c.state["optimizers"][0]["state"][0].update(n_iter=4),
    "optimizer.0.state.1.step": lambda c: c.state["optimizers"][0]["state"][1]["step"].add_(1),
    "optimizer.1.state.0.momentum": lambda c: c.state["optimizers"][1]["state"][0].pop("momentum"),
    "optimizer.1.state.0.t": lambda c: c.state["optimizers"][1]["state"][0].update(t=0.25),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_difference_is_named_and_digests_agree(name: str) -> None:
    first, second = contents(), contents()
    CHANGES[name](second)
    found = compare_contents(first, second)
    assert [difference.name for difference in found.values] == [name]
    assert not found.is_equal
    assert hashed(first) != hashed(second)


def test_the_first_is_that_of_models_before_optimizers_with_numbers_in_order() -> None:
    second = contents()
    for change in reversed(list(CHANGES.values())):
        change(second)
    found = compare_contents(contents(), second)
    order = ["model.0.layers.9.weight", "model.0.layers.10.weight", *list(CHANGES)[2:]]
    assert [difference.name for difference in found.values] == order
    assert found.first is found.values[0]
    assert found.first.describe() == (
        "model.0.layers.9.weight (float32, 2 x 3) at [1, 2]: 14.0 and 15.0, 1048576 units in the "
        "last place apart; 1 of 6 elements differ, by at most 1048576 units in the last place"
    )
    described = {difference.name: difference.describe() for difference in found.values}
    assert described["optimizer.0.state.0.n_iter"] == (
        "optimizer.0.state.0.n_iter: 3 in the first, 4 in the second"
    )
    assert described["optimizer.1.state.0.momentum"] == (
        "optimizer.1.state.0.momentum: float32, 2 in the first, absent in the second"
    )
    assert described["optimizer.1.state.0.t"].startswith(
        "optimizer.1.state.0.t (float) has 0.5 and 0.25, 4503599627370496 units"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.arange(6.0), "float32, 2 x 3 in the first, float32, 6 in the second"),
        (torch.ones(2, 3).half(), "float32, 2 x 3 in the first, float16, 2 x 3 in the second"),
        (torch.tensor(1.0), "float32, 2 x 3 in the first, float32, a scalar in the second"),
    ],
)
def test_shapes_and_types_are_differences_of_their_own(value: torch.Tensor, text: str) -> None:
    second = contents()
    second.models[0]["layers.9.weight"] = value
    found = compare_contents(contents(), second).first
    assert found is not None
    assert found.distance is None
    assert found.describe() == f"model.0.layers.9.weight: {text}"


def test_tensors_that_one_lacks_are_named_whichever_it_is() -> None:
    second = contents()
    second.models.append({"new": torch.ones(1)})
    second.state["non_persistent_buffers"].append({})
    for pair, text in {
        (0, 1): "model.2.new: absent in the first, float32, 1 in the second",
        (1, 0): "model.2.new: float32, 1 in the first, absent in the second",
    }.items():
        both = (contents(), second)
        found = compare_contents(both[pair[0]], both[pair[1]])
        assert [difference.describe() for difference in found.values] == [text]


def test_what_is_recorded_of_the_runs_is_told_and_does_not_decide() -> None:
    second = contents()
    second.metadata["batches"] = 12
    second.metadata["identity"]["seed"] = 8
    second.metadata["hyperparameters"]["optimizer"] = {"lr": 0.2, "eps": 1}
    second.metadata["versions"]["torch"] = "2.12.0"
    second.metadata["experiment_config"] = {"seed": 8, "name": "b", "validation_period": "5ba"}
    found = compare_contents(contents(), second)
    assert found.is_equal
    assert [(fact.name, fact.first, fact.second) for fact in found.facts] == [
        ("batches", 8, 12),
        ("configuration.validation_period", "1ep", "5ba"),
        ("hyperparameters.optimizer.eps", "absent", 1),
        ("hyperparameters.optimizer.lr", 0.1, 0.2),
        ("identity.seed", 7, 8),
        ("versions.torch", "2.13.0", "2.12.0"),
    ]


def test_what_else_goes_on_after_a_resume_is_told() -> None:
    second = copy.deepcopy(contents())
    second.state["lr_schedulers"][0]["last_epoch"] = 9
    second.state["optimizers"][0]["param_groups"][0]["lr"] = 0.2
    second.state["trial"]["seen"] = torch.tensor([1, 3])
    second.models[1]["extra"]["calls"] = 4
    found = compare_contents(contents(), second)
    assert found.is_equal
    assert [(rest.name, rest.first, rest.second) for rest in found.state] == [
        ("lr_schedulers.0.last_epoch", 8, 9),
        ("models.1.extra.calls", 3, 4),
        ("optimizers.0.param_groups.0.lr", 0.1, 0.2),
        ("trial.seen", "tensor (int64, 2)", "tensor (int64, 2)"),
    ]


def test_it_is_json() -> None:
    second = contents()
    second.models[0]["layers.9.weight"][0, 1] = float("nan")
    second.state["trial"]["seen"] = torch.tensor([4, 4])
    data = json.loads(json.dumps(compare_contents(contents(), second).to_json()))
    assert data["first"] == data["tensors"][0]
    assert data["first"] == {
        "name": "model.0.layers.9.weight",
        "first": "float32, 2 x 3",
        "second": "float32, 2 x 3",
        "index": [0, 1],
        "values": ["10.0", "nan"],
        "num_differing": 1,
        "num_elements": 6,
        "num_not_finite": 1,
        "unit": "ulp",
        "distance": None,
        "largest_distance": None,
    }
    assert (data["equal"], data["num_compared"], data["num_differing"]) == (False, 10, 1)
