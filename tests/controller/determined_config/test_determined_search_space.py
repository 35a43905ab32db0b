from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from trialrun.controller.config import with_hyperparameters
from trialrun.controller.determined_config.search_space import Searched, read_space, refusal

OPEN = {
    "batch": {"type": "int", "minval": 16, "maxval": 64, "count": 3},
    "dropout": {"type": "double", "minval": 0.25, "maxval": 0.75},
    "lr": {"type": "log", "base": 10, "minval": -4, "maxval": -2},
    "optimizer": {
        "name": {"type": "categorical", "vals": ["sgd nesterov", "adam"]},
        "decay": {"type": "log", "minval": -5, "maxval": -3, "base": 2.0},
        "momentum": 0.9,
    },
    "layers": [{"type": "const", "val": 8}, {"width": {"type": "int", "minval": 1, "maxval": 9}}],
    "epsilon": {"type": "const", "val": 1e-8},
}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (3, 3),
        ("text", "text"),
        (None, None),
        ([1, [2, {"a": 3}]], [1, [2, {"a": 3}]]),
        ({"type": "const", "val": 0.5}, 0.5),
        ({"type": "const", "val": None}, None),
        ({"type": "const", "val": {"deep": [1]}}, {"deep": [1]}),
        ({"deep": {"deeper": {"type": "const", "val": 7}}}, {"deep": {"deeper": 7}}),
        ([{"type": "const", "val": 1}, 2], [1, 2]),
        ({}, {}),
    ],
)
def test_a_value_is_the_value(written: Any, value: Any) -> None:
    assert read_space({"x": written}) == ({"x": value}, [], [])


def test_spaces_are_open_and_each_has_an_example_in_its_middle() -> None:
    values, searched, problems = read_space(OPEN)
    assert problems == []
    assert values == {"optimizer": {"momentum": 0.9}, "epsilon": 1e-8}
    assert searched == [
        Searched("batch", "int", 40),
        Searched("dropout", "double", 0.5),
        Searched("lr", "log", 0.001),
        Searched("optimizer.name", "categorical", "sgd nesterov"),
        Searched("optimizer.decay", "log", 0.062),  # 2**-4, on two digits
        Searched("layers", "list", [8, {"width": 5}]),
    ]


def test_the_flags_that_a_refusal_proposes_close_the_space() -> None:
    _, searched, _ = read_space(OPEN)
    message = refusal("random", searched)
    proposed = re.search(r"such as: (--hp .*) \(or write", message)
    assert proposed is not None
    words = shlex.split(proposed[1])
    assert words[::2] == ["--hp"] * 6
    values, still_open, problems = read_space(with_hyperparameters(OPEN, words[1::2]))
    assert (still_open, problems) == ([], [])
    assert values == {
        "batch": 40,
        "dropout": 0.5,
        "lr": 0.001,
        "optimizer": {"name": "sgd nesterov", "decay": 0.062, "momentum": 0.9},
        "layers": [8, {"width": 5}],
        "epsilon": 1e-8,
    }


def test_a_refusal_says_what_is_open_and_how_to_train_one_point() -> None:
    _, searched, _ = read_space({"lr": OPEN["lr"], "optimizer": OPEN["optimizer"]})
    assert refusal("adaptive_asha", searched) == (
        "searcher.name is 'adaptive_asha', and values are open for lr (log), optimizer.name "
        "(categorical), optimizer.decay (log). trialrun has no search yet: it trains one trial. "
        "To train one point of the space, give each of them a value, such as: --hp lr=0.001 "
        "--hp 'optimizer.name=sgd nesterov' --hp optimizer.decay=0.062 (or write values into the "
        "file, and searcher.name: single)."
    )


@pytest.mark.parametrize(
    "value",
    ["text", "yes", "1e-3", "null", "a: b", "[1", "it's", 3, 1e-08, True, None, [1, "two"], 5e20],
)
def test_an_example_of_any_kind_survives_the_flag(value: Any) -> None:
    words = shlex.split(Searched("x", "categorical", value).flag)
    assert words[0] == "--hp"
    (found,) = with_hyperparameters({"x": 0}, words[1:]).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            {"type": "dobule", "minval": 0, "maxval": 1},
            "Configuration key 'hyperparameters.a.x.type' is 'dobule': a hyperparameter with a "
            "type is one of const, int, double, log, categorical. Did you mean 'double'?",
        ),
        (
            {"type": 3},
            "Configuration key 'hyperparameters.a.x.type' is 3: a hyperparameter with a "
            "type is one of const, int, double, log, categorical.",
        ),
        (
            {"type": "const"},
            "The configuration key 'hyperparameters.a.x.val' is missing: a hyperparameter of this "
            "type has it.",
        ),
        (
            {"type": "const", "vals": 3, "val": 3},
            "Unknown key 'hyperparameters.a.x.vals' in a Determined configuration. Did you mean "
            "'val'?",
        ),
        (
            {"type": "int", "minval": 1, "maxval": 2.5},
            "Configuration key 'hyperparameters.a.x.maxval' is 2.5: Input should be a valid "
            "integer, got a number with a fractional part",
        ),
        (
            {"type": "int", "minval": 3, "maxval": 3},
            "Configuration key 'hyperparameters.a.x' is {'type': 'int', 'minval': 3, 'maxval': "
            "3}: minval=3 is not less than maxval=3.",
        ),
        (
            {"type": "double", "minval": "low", "maxval": 1},
            "Configuration key 'hyperparameters.a.x.minval' is 'low': Input should be a valid "
            "number, unable to parse string as a number",
        ),
        (
            {"type": "double", "minval": 0, "maxval": float("inf")},
            "Configuration key 'hyperparameters.a.x.maxval' is inf: Input should be a finite "
            "number",
        ),
        (
            {"type": "log", "minval": -4, "maxval": -1},
            "The configuration key 'hyperparameters.a.x.base' is missing: a hyperparameter of this "
            "type has it.",
        ),
        (
            {"type": "log", "minval": -4, "maxval": -1, "base": 0},
            "Configuration key 'hyperparameters.a.x.base' is 0: Input should be greater than 0",
        ),
        (
            {"type": "log", "minval": 1, "maxval": 400, "base": 10},
            "Configuration key 'hyperparameters.a.x' is {'type': 'log', 'minval': 1, 'maxval': "
            "400, 'base': 10}: 10 to the power of 400 is no finite number. minval and maxval are "
            "exponents.",
        ),
        (
            {"type": "categorical", "vals": []},
            "Configuration key 'hyperparameters.a.x.vals' is []: List should have at least 1 item "
            "after validation, not 0",
        ),
        (
            {"type": "int", "minval": 0, "maxval": 9, "count": 0},
            "Configuration key 'hyperparameters.a.x.count' is 0: Input should be greater than or "
            "equal to 1",
        ),
    ],
)
def test_a_wrong_space_is_named_with_the_rule(written: Any, expected: str) -> None:
    assert read_space({"a": {"x": written}, "b": 1}) == ({"a": {}, "b": 1}, [], [expected])
