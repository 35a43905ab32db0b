from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from trialrun import Batch, ConfigurationError, Epoch, Time
from trialrun.controller.config import (
    CheckpointPolicy,
    not_divisible,
    parse_hyperparameter,
    read_config,
    read_config_file,
    with_hyperparameters,
)

NO_LENGTH = (
    "is not a length. Write a whole number of batches or epochs, or a time, with its unit: 5000ba, "
    "20ep, 90min, 2h."
)


def message(data: dict[str, Any]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_config({"max_length": "5ba", **data})
    return str(caught.value)


def test_only_the_length_is_required() -> None:
    config = read_config({"max_length": "20ep"})
    assert config.max_length == Epoch(20)
    assert (config.slots, config.processes, config.seed, config.aggregation_frequency) == (
        1,
        None,
        0,
        1,
    )
    assert config.reporting_period == Batch(100)
    assert (config.validation_period, config.checkpoint_period) == (Epoch(1), Epoch(1))
    assert config.checkpoint_policy is CheckpointPolicy.BEST
    with pytest.raises(ConfigurationError) as caught:
        read_config({})
    assert str(caught.value) == (
        "The configuration key 'max_length' is missing. Set it in trial.yaml or by a flag, such as "
        "--max-length 20ep."
    )


def test_periods_carry_their_units_and_may_be_absent() -> None:
    config = read_config(
        {
            "max_length": "2h",
            "reporting_period": "10ba",
            "validation_period": None,
            "checkpoint_period": "5min",
        }
    )
    assert config.max_length == Time(7200)
    assert config.reporting_period == Batch(10)
    assert config.validation_period is None
    assert config.checkpoint_period == Time(300)


def test_a_configuration_reads_back_what_it_writes() -> None:
    config = read_config(
        {
            "max_length": "90min",
            "slots": 4,
            "processes": 2,
            "validation_period": None,
            "checkpoint_policy": "all",
            "searcher": {"metric": "accuracy", "smaller_is_better": False},
            "checkpoint_gc": {"save_trial_best": 0, "save_trial_latest": 5},
            "hyperparameters": {"lr": 0.1, "layers": [1, 2]},
            "data": {"folder": "/data", "splits": {"train": [0, 1]}},
            "labels": ["a", "b"],
            "seed": 2**63 - 1,
        }
    )
    assert read_config(config.to_json()) == config
    assert config.to_json()["max_length"] == "90min"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"slot": 2}, "Unknown configuration key 'slot'. Did you mean 'slots'?"),
        (
            {"searcher": {"metrc": "x"}},
            "Unknown configuration key 'searcher.metrc'. Did you mean 'metric'?",
        ),
        (
            {"checkpoint_gc": {"zzz": 1}},
            "Unknown configuration key 'checkpoint_gc.zzz'. Known: save_trial_best, "
            "save_trial_latest.",
        ),
        (
            {"max_length": 20},
            f"Configuration key 'max_length' is 20: '20' {NO_LENGTH}",
        ),
        (
            {"validation_period": "7 weeks"},
            f"Configuration key 'validation_period' is '7 weeks': '7 weeks' {NO_LENGTH}",
        ),
        (
            {"reporting_period": None},
            f"Configuration key 'reporting_period' is None: 'None' {NO_LENGTH}",
        ),
        (
            {"slots": 0},
            "Configuration key 'slots' is 0: Input should be greater than or equal to 1",
        ),
        (
            {"max_restarts": -1},
            "Configuration key 'max_restarts' is -1: Input should be greater than or equal to 0",
        ),
        (
            {"hang_timeout": "20ba"},
            "Configuration key 'hang_timeout' is '20ba': it must be a time, such as 30min, or "
            "null.",
        ),
        (
            {"slots": 6, "processes": 4},
            "6 slots cannot be executed by 4 processes: the number of processes must divide the "
            "slots. Choose one of 1, 2, 3, 6.",
        ),
        (
            {"slots": 4, "hyperparameters": {"global_batch_size": 10}},
            "global_batch_size=10 is not divisible by 4 slots. Choose a multiple of 4, such as 12.",
        ),
        (
            {"searcher": {"name": "asha"}},
            "Configuration key 'searcher.name' is 'asha': 'asha' is not a known searcher. Known: "
            "single.",
        ),
        (
            {"checkpoint_policy": "bset"},
            "Configuration key 'checkpoint_policy' is 'bset': Input should be 'best', 'all' or "
            "'none'",
        ),
        (
            {"checkpoint_gc": {"save_trial_latest": 0}},
            "Configuration key 'checkpoint_gc.save_trial_latest' is 0: Input should be greater "
            "than or equal to 1",
        ),
        (
            {"seed": -1},
            "Configuration key 'seed' is -1: Input should be greater than or equal to 0",
        ),
        (
            {"seed": 2**63},
            f"Configuration key 'seed' is {2**63}: Input should be less than {2**63}",
        ),
        (
            {"data": {"begin": datetime.date(2024, 5, 1)}},
            "Configuration key 'data' is {'begin': datetime.date(2024, 5, 1)}: the value of "
            "'begin' cannot be kept as JSON. Use numbers, strings, booleans, null, lists, and "
            "mappings whose keys are strings; quote dates.",
        ),
        (
            {"labels": "one"},
            "Configuration key 'labels' is 'one': Input should be a valid list",
        ),
        (
            {"hyperparameters": [1]},
            "Configuration key 'hyperparameters' is [1]: Input should be a valid dictionary",
        ),
    ],
)
def test_a_wrong_key_or_value_is_named_with_the_rule(data: dict[str, Any], expected: str) -> None:
    assert message(data) == expected


def test_every_problem_is_named_in_one_go() -> None:
    assert message({"slot": 1, "aggregation_frequency": 0}).splitlines() == [
        "Configuration key 'aggregation_frequency' is 0: Input should be greater than or equal to "
        "1",
        "Unknown configuration key 'slot'. Did you mean 'slots'?",
    ]


def test_processes_that_do_not_divide_the_slots_are_answered_with_the_divisors() -> None:
    assert not_divisible(4, 3).endswith("Choose one of 1, 2, 4.")


def test_a_key_that_was_written_otherwise_is_named_as_it_was_written() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_config(
            {"max_length": "1ep", "slots": 0, "searcher": {"metric": 3}, "labels": [1]},
            {"slots": "resources.slots_per_trial", "labels": "tags"},
        )
    assert [line.partition(" is ")[0] for line in str(caught.value).splitlines()] == [
        "Configuration key 'tags.0'",
        "Configuration key 'searcher.metric'",
        "Configuration key 'resources.slots_per_trial'",
    ]


# The file.


def test_numbers_in_a_file_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "trial.yaml"
    file.write_text("hyperparameters: {a: 1e-3, b: 2E5, c: .5, d: 7, e: 1.5e+2, f: -3e2, g: x1e3}")
    values = read_config_file(file)["hyperparameters"]
    assert values == {"a": 0.001, "b": 2e5, "c": 0.5, "d": 7, "e": 150.0, "f": -300.0, "g": "x1e3"}
    assert isinstance(values["d"], int)


def test_an_empty_file_configures_nothing(tmp_path: Path) -> None:
    file = tmp_path / "trial.yaml"
    file.write_text("# nothing yet\n")
    assert read_config_file(file) == {}


def test_a_file_that_is_missing_or_no_mapping_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "trial.yaml"
    with pytest.raises(ConfigurationError) as caught:
        read_config_file(file)
    assert str(caught.value) == f"There is no configuration file {file}."
    file.write_text("- a\n- b\n")
    with pytest.raises(ConfigurationError) as caught:
        read_config_file(file)
    assert str(caught.value) == (
        f"{file} holds a list; it must hold keys and values, such as 'max_length: 20ep'."
    )


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfe\x00", b"a: !!python/name:os.system x"])
def test_a_file_that_is_no_plain_yaml_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "trial.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read_config_file(file)
    assert str(caught.value).startswith(f"{file} cannot be read as YAML: ")


# The flag --hp.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr=1e-3", ("lr", 0.001)),
        ("n=12", ("n", 12)),
        ("deep=[1, 2e5]", ("deep", [1, 200000.0])),
        ("flag=true", ("flag", True)),
        ("text=a=b", ("text", "a=b")),
        ("empty=", ("empty", None)),
    ],
)
def test_a_hyperparameter_is_read_as_yaml(text: str, expected: tuple[str, Any]) -> None:
    parsed = parse_hyperparameter(text, {})
    assert parsed == expected
    assert type(parsed[1]) is type(expected[1])


@pytest.mark.parametrize("text", ["lr", "=3", ""])
def test_a_flag_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_hyperparameter(text, {})
    assert str(caught.value) == f"--hp {text!r} is not of the form NAME=VALUE, such as lr=0.1."


def test_a_flag_names_a_hyperparameter_of_the_configuration_if_it_has_any() -> None:
    assert parse_hyperparameter("lr=2", {"lr": 1}) == ("lr", 2)
    with pytest.raises(ConfigurationError) as caught:
        parse_hyperparameter("l_r=2", {"lr": 1})
    assert str(caught.value) == (
        "There is no hyperparameter 'l_r' in the configuration. Did you mean 'lr'?"
    )


def test_a_dotted_name_reaches_into_a_mapping() -> None:
    known = {"optimizer": {"lr": 1, "betas": {"first": 0.9}}, "lr": 3, "a.b": 4}
    texts = ["optimizer.lr=2", "optimizer.betas.first=0.8", "a.b=5", "lr=6"]
    assert with_hyperparameters(known, texts) == {
        "optimizer": {"lr": 2, "betas": {"first": 0.8}},
        "lr": 6,
        "a.b": 5,
    }
    assert known["optimizer"] == {"lr": 1, "betas": {"first": 0.9}}
    # Without a configuration nothing says that the dot is no part of a name.
    assert with_hyperparameters({}, ["a.b=1", "c=2"]) == {"a.b": 1, "c": 2}


@pytest.mark.parametrize(
    ("texts", "name", "advice"),
    [
        (["optimizer.l_r=2"], "optimizer.l_r", " Did you mean 'optimizer.lr'?"),
        (["optimizer=sgd", "optimizer.lr=2"], "optimizer.lr", " Did you mean 'optimizer'?"),
        (["lr.optimizer=2"], "lr.optimizer", " Did you mean 'optimizer'?"),
    ],
)
def test_a_dotted_name_that_leads_nowhere_is_refused(
    texts: list[str], name: str, advice: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        with_hyperparameters({"optimizer": {"lr": 1}, "lr": 3}, texts)
    assert str(caught.value) == (
        f"There is no hyperparameter {name!r} in the configuration." + advice
    )


def test_a_value_that_is_no_yaml_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^--hp 'a=\[1': the value cannot be read: while"):
        parse_hyperparameter("a=[1", {})
