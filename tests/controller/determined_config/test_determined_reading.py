"""Every key of a Determined configuration: what it becomes here, and what is wrong with a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trialrun import ConfigurationError
from trialrun.controller.config import ExperimentConfig, read_config, read_config_file
from trialrun.controller.determined_config import is_determined, read_determined_config
from trialrun.controller.determined_config.keys import KEYS, Key
from trialrun.controller.determined_config.reading import MARKERS, Reading

EXAMPLES = Path(__file__).parent / "examples"
MINIMAL: dict[str, Any] = {
    "entrypoint": "model_def:MyTrial",
    "searcher": {"name": "single", "metric": "loss", "max_length": {"epochs": 2}},
}


def example(name: str) -> dict[str, Any]:
    return read_config_file(EXAMPLES / f"{name}.yaml")


def with_key(key: str, value: Any) -> dict[str, Any]:
    section, _, name = key.rpartition(".")
    if not section:
        return {**MINIMAL, key: value}
    return {**MINIMAL, section: {**MINIMAL.get(section, {}), name: value}}


def read(key: str, value: Any, **flags: Any) -> Reading:
    return read_determined_config(with_key(key, value), flags)


def problems(data: dict[str, Any], **flags: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read_determined_config(data, flags)
    return str(caught.value).splitlines()


def value_of(config: ExperimentConfig, key: str) -> Any:
    value: Any = config.to_json()
    for part in key.split("."):
        value = value[part]
    return value


# Whole files, as people have them.


def test_one_slot_and_one_set_of_hyperparameters() -> None:
    reading = read_determined_config(example("const"), {})
    assert reading.remarks == ()
    assert reading.config.model_copy(update={"determined": {}}) == read_config(
        {
            "name": "digits_const",
            "description": "One set of hyperparameters on one slot.",
            "labels": ["digits", "baseline"],
            "data": {"url": "https://example.com/digits.tar.gz", "shards": [0, 1, 2]},
            "hyperparameters": {
                "global_batch_size": 64,
                "learning_rate": 0.001,
                "n_filters": [32, 64],
                "dropout": 0.25,
            },
            "searcher": {"metric": "validation_loss"},
            "max_length": "937ba",
            "validation_period": None,
            "checkpoint_period": "1ep",
        }
    )


def test_several_slots_with_everything_that_a_cluster_wants_to_know() -> None:
    reading = read_determined_config(example("distributed"), {})
    assert reading.config.model_copy(update={"determined": {}}) == read_config(
        {
            "name": "detector_distributed",
            "hyperparameters": {
                "global_batch_size": 16,
                "backbone": "resnet50",
                "optimizer": {"name": "sgd", "lr": 0.02, "warmup": {"steps": 500, "factor": 0.001}},
            },
            "searcher": {"metric": "box_ap", "smaller_is_better": False},
            "slots": 4,
            "max_length": "12ep",
            "reporting_period": "400ba",
            "validation_period": "2ep",
            "checkpoint_period": "62ba",  # 1000 // 16
            "checkpoint_policy": "all",
            "checkpoint_gc": {"save_trial_best": 3, "save_trial_latest": 4},
            "step_zero_validation": True,
            "aggregation_frequency": 2,
            "seed": 1717,
            "max_restarts": 3,
        }
    )
    assert [keys for keys, _ in reading.remarks] == [
        "workspace, project",
        "resources.resource_pool",
        "resources.shm_size, bind_mounts, environment.image",
        "checkpoint_storage.type, checkpoint_storage.host_path",
        "records_per_epoch",
        "environment.environment_variables",
    ]


def test_a_configuration_as_a_cluster_prints_it_says_little() -> None:
    reading = read_determined_config(example("expanded"), {})
    assert [keys for keys, _ in reading.remarks] == [
        "checkpoint_storage.type, checkpoint_storage.bucket, checkpoint_storage.secret_key"
    ]
    assert value_of(reading.config, "max_length") == "31ba"  # 1000 // 32
    assert value_of(reading.config, "validation_period") is None
    assert value_of(reading.config, "checkpoint_period") == "1ep"


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.yaml")))
def test_every_example_is_known_as_determineds(name: str) -> None:
    assert is_determined(example(name))


# Which files are Determined's.


@pytest.mark.parametrize("key", [*MARKERS])
def test_a_key_that_only_determined_has_decides(key: str) -> None:
    assert key not in ExperimentConfig.model_fields
    assert key in {each.name.partition(".")[0] for each in KEYS}
    assert is_determined({"name": "x", key: None})


def test_a_length_below_the_searcher_decides_when_it_has_a_unit() -> None:
    assert is_determined({"searcher": {"max_length": {"epochs": 3}}})
    assert not is_determined({"searcher": {"max_length": "3ep"}})
    assert not is_determined({"searcher": 3})


@pytest.mark.parametrize(
    "key", sorted(set(ExperimentConfig.model_fields) - {key.name.split(".")[0] for key in KEYS})
)
def test_a_key_that_only_trialrun_has_makes_it_trialruns(key: str) -> None:
    assert not is_determined({**MINIMAL, key: None})


def test_what_both_have_decides_nothing() -> None:
    shared = {"name": "x", "labels": [], "data": {}, "hyperparameters": {"lr": {"type": "const"}}}
    assert not is_determined(shared)
    assert not is_determined({})


# Each key.

TRANSLATED: list[tuple[str, Any, str, Any]] = [
    ("name", "digits", "name", "digits"),
    ("description", "why", "description", "why"),
    ("labels", ["a", "b"], "labels", ["a", "b"]),
    ("hyperparameters", {"lr": {"type": "const", "val": 3}}, "hyperparameters", {"lr": 3}),
    ("data", {"url": "x", "n": [1]}, "data", {"url": "x", "n": [1]}),
    ("searcher.name", "single", "searcher.name", "single"),
    ("searcher.metric", "accuracy", "searcher.metric", "accuracy"),
    ("searcher.smaller_is_better", False, "searcher.smaller_is_better", False),
    ("searcher.max_length", {"batches": 7}, "max_length", "7ba"),
    ("resources.slots_per_trial", 3, "slots", 3),
    ("scheduling_unit", 7, "reporting_period", "7ba"),
    ("min_validation_period", {"batches": 5}, "validation_period", "5ba"),
    ("min_validation_period", {"epochs": 5}, "validation_period", "5ep"),
    ("min_validation_period", {"batches": 0}, "validation_period", None),
    ("min_checkpoint_period", {"epochs": 3}, "checkpoint_period", "3ep"),
    ("min_checkpoint_period", {"epochs": 0}, "checkpoint_period", "1ep"),
    ("perform_initial_validation", True, "step_zero_validation", True),
    ("checkpoint_policy", "none", "checkpoint_policy", "none"),
    ("checkpoint_storage.save_trial_best", 4, "checkpoint_gc.save_trial_best", 4),
    ("checkpoint_storage.save_trial_best", 0, "checkpoint_gc.save_trial_best", 0),
    ("checkpoint_storage.save_experiment_best", 5, "checkpoint_gc.save_trial_best", 5),
    ("checkpoint_storage.save_experiment_best", 0, "checkpoint_gc.save_trial_best", 1),
    ("checkpoint_storage.save_trial_latest", 6, "checkpoint_gc.save_trial_latest", 6),
    ("checkpoint_storage.save_trial_latest", 0, "checkpoint_gc.save_trial_latest", 1),
    ("optimizations.aggregation_frequency", 4, "aggregation_frequency", 4),
    ("reproducibility.experiment_seed", 42, "seed", 42),
    ("max_restarts", 2, "max_restarts", 2),
]


@pytest.mark.parametrize(("key", "value", "becomes", "expected"), TRANSLATED)
def test_a_key_becomes_trialruns(key: str, value: Any, becomes: str, expected: Any) -> None:
    assert value_of(read(key, value).config, becomes) == expected
    # It is no default that the test sees, save where the value asks for nothing.
    if value not in (0, "single", {"batches": 0}, {"epochs": 0}):
        assert value_of(read_determined_config(MINIMAL, {}).config, becomes) != expected


def test_every_key_that_becomes_trialruns_is_tested() -> None:
    tested = {(key, becomes) for key, _, becomes, _ in TRANSLATED}
    time = {("searcher.max_time", "max_length"), ("searcher.time_metric", "max_length")}  # below
    assert tested | time == {(key.name, key.becomes) for key in KEYS if key.becomes}


@pytest.mark.parametrize(("metric", "expected"), [("batches", "900ba"), ("epochs", "900ep")])
def test_a_time_is_a_length_where_there_is_no_length(metric: str, expected: str) -> None:
    searcher = {"name": "single", "time_metric": metric, "max_time": 900}
    reading = read_determined_config({**MINIMAL, "searcher": searcher}, {})
    assert value_of(reading.config, "max_length") == expected
    both = {**searcher, "max_length": {"epochs": 3}}
    reading = read_determined_config({**MINIMAL, "searcher": both}, {})
    assert value_of(reading.config, "max_length") == "3ep"


@pytest.mark.parametrize("key", [key for key in KEYS if key.instead], ids=lambda key: str(key.name))
def test_a_key_without_a_meaning_is_listed_with_the_reason(key: Key) -> None:
    assert read(key.name, "something").remarks == ((key.name, key.instead),)
    for nothing in (None, "", [], {}, {"cpu": []}, key.default, *key.asks_for_nothing):
        assert read(key.name, nothing).remarks == ()


@pytest.mark.parametrize("key", [key for key in KEYS if not key.instead], ids=lambda key: key.name)
def test_null_is_the_same_as_nothing(key: Key) -> None:
    if key.name != "searcher.max_length":  # which must be there
        found, expected = read(key.name, None).config, read_determined_config(MINIMAL, {}).config
        update: dict[str, Any] = {"determined": {}}
        assert found.model_copy(update=update) == expected.model_copy(update=update)


def test_no_slots_are_one_and_no_latest_checkpoint_is_one_and_both_are_said() -> None:
    reading = read("resources.slots_per_trial", 0)
    assert reading.config.slots == 1
    assert reading.remarks == (
        (
            "resources.slots_per_trial",
            "0 is one slot here. To keep it off the GPU, set CUDA_VISIBLE_DEVICES= in the shell.",
        ),
    )
    assert read("checkpoint_storage.save_trial_latest", 0).remarks == (
        (
            "checkpoint_storage.save_trial_latest",
            "The newest is always kept: a run that was stopped goes on from it.",
        ),
    )


def test_sums_over_a_window_are_refused_where_there_is_a_window() -> None:
    alone = {"average_aggregated_gradients": False}
    assert read("optimizations", alone).remarks == ()
    assert problems({**MINIMAL, "optimizations": {**alone, "aggregation_frequency": 4}}) == [
        "Configuration key 'optimizations.average_aggregated_gradients' is False, which here is "
        "said of each optimizer. Leave the key out, and write context.wrap_optimizer(optimizer, "
        "average_aggregated_gradients=False) in the trial."
    ]


@pytest.mark.parametrize(
    ("key", "value"), [("source_trial_id", 17), ("source_checkpoint_uuid", "a-b")]
)
def test_weights_that_are_on_a_cluster_are_refused(key: str, value: Any) -> None:
    assert problems(with_key(f"searcher.{key}", value)) == [
        f"Configuration key 'searcher.{key}' is {value!r}: it names a checkpoint of a Determined "
        "cluster, which trialrun cannot read. Load its weights in the trial's __init__, and leave "
        "the key out."
    ]


# Bad input.

WRONG: list[tuple[str, Any, str]] = [
    (
        "resource",
        {"slots_per_trial": 2},
        "Unknown key 'resource' in a Determined configuration. Did you mean 'resources'?",
    ),
    (
        "resources.slot_per_trial",
        2,
        "Unknown key 'resources.slot_per_trial' in a Determined configuration. Did you mean "
        "'slots_per_trial'?",
    ),
    (
        "reproducibility.zzz",
        2,
        "Unknown key 'reproducibility.zzz' in a Determined configuration. Known: experiment_seed.",
    ),
    (
        "resources",
        4,
        "Configuration key 'resources' is 4: it must hold keys and values, such as "
        "slots_per_trial.",
    ),
    (
        "resources.slots_per_trial",
        "two",
        "Configuration key 'resources.slots_per_trial' is 'two': Input should be a valid integer, "
        "unable to parse string as an integer",
    ),
    (
        "resources.slots_per_trial",
        -1,
        "Configuration key 'resources.slots_per_trial' is -1: Input should be greater than or "
        "equal to 1",
    ),
    (
        "reproducibility.experiment_seed",
        -5,
        "Configuration key 'reproducibility.experiment_seed' is -5: Input should be greater than "
        "or equal to 0",
    ),
    (
        "optimizations.aggregation_frequency",
        0,
        "Configuration key 'optimizations.aggregation_frequency' is 0: Input should be greater "
        "than or equal to 1",
    ),
    (
        "checkpoint_policy",
        "bset",
        "Configuration key 'checkpoint_policy' is 'bset': Input should be 'best', 'all' or 'none'",
    ),
    (
        "perform_initial_validation",
        "maybe",
        "Configuration key 'perform_initial_validation' is 'maybe': Input should be a valid "
        "boolean, unable to interpret input",
    ),
    (
        "labels",
        "digits",
        "Configuration key 'labels' is 'digits': Input should be a valid list",
    ),
    (
        "labels",
        ["a", 3],
        "Configuration key 'labels.1' is 3: Input should be a valid string",
    ),
    (
        "data",
        [1],
        "Configuration key 'data' is [1]: Input should be a valid dictionary",
    ),
    (
        "hyperparameters",
        [1],
        "Configuration key 'hyperparameters' is [1]: Input should be a valid dictionary",
    ),
    (
        "scheduling_unit",
        0,
        "Configuration key 'scheduling_unit' is 0: it must be at least 1.",
    ),
    (
        "checkpoint_storage.save_experiment_best",
        "all",
        "Configuration key 'checkpoint_storage.save_experiment_best' is 'all': Input should be a "
        "valid integer, unable to parse string as an integer",
    ),
    (
        "checkpoint_storage.save_trial_latest",
        -1,
        "Configuration key 'checkpoint_storage.save_trial_latest' is -1: Input should be greater "
        "than or equal to 0",
    ),
    (
        "min_validation_period",
        5,
        "Configuration key 'min_validation_period' is 5: it must hold one of batches, records, "
        "epochs with a whole number, such as {epochs: 2}.",
    ),
    (
        "searcher.max_length",
        20,
        "Configuration key 'searcher.max_length' is 20, without a unit: write {batches: 900} or "
        "{epochs: 2}, or give --max-length 20ep.",
    ),
    (
        "searcher.max_length",
        "20ep",
        "Configuration key 'searcher.max_length' is '20ep': it must hold one of batches, records, "
        "epochs with a whole number, such as {epochs: 2}.",
    ),
    (
        "searcher.max_length",
        {"epochs": 0},
        "Configuration key 'searcher.max_length' is {'epochs': 0}: it must be at least 1.",
    ),
    (
        "searcher.max_length",
        None,
        "The configuration key 'searcher.max_length' is missing. Set it, such as {epochs: 20}, or "
        "give --max-length 20ep. What a script hands to Trainer.fit is not read.",
    ),
    (
        "searcher",
        {"max_time": 3, "time_metric": "seconds"},
        "Configuration key 'searcher.time_metric' is 'seconds': trialrun measures the length of a "
        "trial in batches or epochs. Write one of these, or give --max-length 20ep.",
    ),
    (
        "searcher",
        {"max_time": 0, "time_metric": "batches"},
        "Configuration key 'searcher.max_time' is 0: it must be at least 1.",
    ),
    (
        "searcher.name",
        "adaptive_ahsa",
        "Configuration key 'searcher.name' is 'adaptive_ahsa': Determined has no such searcher. "
        "Did you mean 'adaptive_asha'?",
    ),
    (
        "entrypoint",
        {"command": "x"},
        "Configuration key 'entrypoint' is {'command': 'x'}: it must be text, such as "
        "model_def:MyTrial, or a list of words.",
    ),
    (
        "hyperparameters",
        {"global_batch_size": 10},
        "global_batch_size=10 is not divisible by 4 slots. Choose a multiple of 4, such as 12.",
    ),
]


@pytest.mark.parametrize(("key", "value", "expected"), WRONG)
def test_a_wrong_key_or_value_is_named_as_the_user_wrote_it(
    key: str, value: Any, expected: str
) -> None:
    flags = {"slots": 4} if "4 slots" in expected else {}
    assert problems(with_key(key, value), **flags) == [expected]


def test_every_problem_is_named_in_one_go() -> None:
    data = with_key("resources", {"slots_per_trial": "x", "slotz": 1})
    assert problems({**data, "scheduling_unit": "often", "labels": 1}) == [
        "Unknown key 'resources.slotz' in a Determined configuration. Did you mean 'slots'?",
        "Configuration key 'scheduling_unit' is 'often': Input should be a valid integer, unable "
        "to parse string as an integer",
        "Configuration key 'labels' is 1: Input should be a valid list",
        "Configuration key 'resources.slots_per_trial' is 'x': Input should be a valid integer, "
        "unable to parse string as an integer",
    ]


# Flags.


def test_flags_win_and_their_values_are_kept_with_the_configuration() -> None:
    flags = {"name": "mine", "slots": 2, "processes": 1, "seed": 9, "max_length": "7ba"}
    reading = read_determined_config(example("distributed"), flags)
    config = reading.config.to_json()
    assert {name: config[name] for name in flags} == flags
    kept = reading.config.determined
    assert kept["name"] == "mine"
    assert kept["resources"]["slots_per_trial"] == 2
    assert kept["reproducibility"] == {"experiment_seed": 9}
    assert kept["searcher"]["max_length"] == {"batches": 7}


@pytest.mark.parametrize(
    ("flag", "kept"), [("20ep", {"epochs": 20}), ("20ba", {"batches": 20}), ("2h", None)]
)
def test_a_length_given_by_a_flag_is_kept_as_determined_writes_it(flag: str, kept: Any) -> None:
    reading = read_determined_config(MINIMAL, {"max_length": flag})
    assert value_of(reading.config, "max_length") == flag
    assert reading.config.determined["searcher"]["max_length"] == kept


@pytest.mark.parametrize("length", [20, None, {"records": 5}, "zzz"])
def test_a_flag_mends_a_length_that_has_no_meaning(length: Any) -> None:
    reading = read("searcher.max_length", length, max_length="4ep")
    assert value_of(reading.config, "max_length") == "4ep"


def test_a_wrong_flag_is_named_by_itself() -> None:
    data = with_key("resources.slots_per_trial", 2)
    assert problems(data, slots=0, max_length="20") == [
        "Configuration key 'slots' is 0: Input should be greater than or equal to 1",
        "Configuration key 'max_length' is '20': '20' is not a length. Write a whole number of "
        "batches or epochs, or a time, with its unit: 5000ba, 20ep, 90min, 2h.",
    ]


def test_a_rehearsal_needs_no_length() -> None:
    data = with_key("searcher.max_length", None)
    reading = read_determined_config(data, {}, needs_length=False)
    assert value_of(reading.config, "max_length") == "1ep"


# What is kept of it.


def test_the_configuration_is_kept_with_defaults_and_without_passwords() -> None:
    kept = read_determined_config(example("expanded"), {}).config.determined
    assert "0123456789" not in str(kept)
    assert not {"checkpoint_storage", "environment", "bind_mounts", "integrations"} & set(kept)
    assert kept["hyperparameters"] == {"global_batch_size": {"type": "const", "val": 32}}
    kept = read_determined_config(MINIMAL, {}).config.determined
    assert kept["resources"]["slots_per_trial"] == 1
    assert kept["searcher"]["max_length"] == {"epochs": 2}
    assert kept["searcher"]["smaller_is_better"] is True
    assert kept["optimizations"]["aggregation_frequency"] == 1
    assert kept["records_per_epoch"] == 0
    assert kept["reproducibility"] == {"experiment_seed": 0}
    assert kept["data"] == {}


def test_what_json_cannot_hold_is_kept_as_text(tmp_path: Path) -> None:
    file = tmp_path / "det.yaml"
    file.write_text(
        "searcher: {max_length: {epochs: 1}}\n"
        "log_policies: [{since: 2024-05-01, level: .nan, 7: seven}]\n"
    )
    reading = read_determined_config(read_config_file(file), {})
    assert reading.config.determined["log_policies"] == [
        {"since": "2024-05-01", "level": "nan", "7": "seven"}
    ]


def test_a_reading_is_recorded_and_read_back() -> None:
    config = read_determined_config(example("distributed"), {}).config
    assert read_config(config.to_json()) == config
