"""Every key of a Determined experiment configuration, and what becomes of it here.

``docs/from-determined.md`` has the same table for people; a test compares the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from trialrun._errors import nearest_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """One key, dotted where it is below a section."""

    name: str
    becomes: str = ""
    """The key of trialrun that says the same, dotted; "" where there is none."""
    is_renamed: bool = False
    """Whether the value stays as it is; else ``reading`` translates it."""
    default: Any = None
    """What Determined takes where the key is left out, as far as a trial may want to read it."""
    instead: str = ""
    """Why a key has no meaning here, and what to do instead where there is something."""
    asks_for_nothing: tuple[Any, ...] = ()
    """Values, besides the default and empty ones, with which a key asks for nothing."""


def _renamed(name: str, becomes: str, default: Any = None) -> Key:
    return Key(name=name, becomes=becomes, is_renamed=True, default=default)


def _translated(name: str, becomes: str, default: Any = None) -> Key:
    return Key(name=name, becomes=becomes, default=default)


def _no_meaning(instead: str, *names: str | tuple[str, Any]) -> list[Key]:
    """Makes keys for which one sentence holds; a pair is a name with Determined's default."""
    pairs = [(name, None) if isinstance(name, str) else name for name in names]
    return [Key(name=name, instead=instead, default=default) for name, default in pairs]


_NO_CONTAINER = (
    "No container is started: the trial runs on this machine, in the Python environment that "
    "trialrun runs in. Install there what the trial imports, and give it paths that exist here."
)
_NO_CLUSTER = "There is no cluster to schedule on: trialrun starts at once, on this machine."
_ONE_TRIAL = "One trial is trained, with the hyperparameters as given: there is no search yet."
_OWN_STORAGE = "Checkpoints lie in trialrun's home. Choose it with --home or TRIALRUN_HOME."
_NO_HOROVOD = (
    "It tunes Horovod, which is not used: gradients are added in full precision, in one fixed "
    "order."
)
_NO_GROUPS = "Experiments are not grouped. Use labels, or a home for each group, with --home."
_NO_MASTER = "It speaks to parts of a Determined cluster, which is not there."

KEYS: tuple[Key, ...] = (
    _renamed("name", "name"),
    _renamed("description", "description", ""),
    _renamed("labels", "labels", []),
    *_no_meaning(_NO_GROUPS, ("workspace", "Uncategorized"), ("project", "Uncategorized")),
    # Read by ``entrypoint``: the FILE argument of submit stands in its place.
    Key(name="entrypoint"),
    _translated("hyperparameters", "hyperparameters", {}),
    _renamed("data", "data", {}),
    _translated("searcher.name", "searcher.name", "single"),
    _renamed("searcher.metric", "searcher.metric"),
    _renamed("searcher.smaller_is_better", "searcher.smaller_is_better", True),
    _translated("searcher.max_length", "max_length"),
    _translated("searcher.max_time", "max_length"),
    _translated("searcher.time_metric", "max_length"),
    # Refused where they are set: to leave them out unsaid would change the result.
    Key(name="searcher.source_trial_id"),
    Key(name="searcher.source_checkpoint_uuid"),
    *_no_meaning(
        _ONE_TRIAL,
        "searcher.max_trials",
        "searcher.max_concurrent_trials",
        "searcher.mode",
        "searcher.divisor",
        "searcher.max_rungs",
        "searcher.num_rungs",
        "searcher.bracket_rungs",
        "searcher.stop_once",
        "searcher.train_stragglers",
        "searcher.budget",
        "searcher.unit",
        "searcher.population_size",
        "searcher.num_rounds",
        "searcher.length_per_round",
        "searcher.replace_function",
        "searcher.explore_function",
    ),
    _translated("resources.slots_per_trial", "slots", 1),
    *_no_meaning(
        _NO_CLUSTER,
        "resources.max_slots",
        ("resources.weight", 1),
        "resources.priority",
        "resources.resource_pool",
        "resources.agent_label",
        ("resources.is_single_node", False),
        ("resources.native_parallel", False),
        "resources.slots",
    ),
    *_no_meaning(_NO_CONTAINER, "resources.shm_size", "resources.devices"),
    _translated("scheduling_unit", "reporting_period", 100),
    _translated("min_validation_period", "validation_period", {"batches": 0}),
    _translated("min_checkpoint_period", "checkpoint_period", {"batches": 0}),
    _renamed("perform_initial_validation", "step_zero_validation", False),
    _renamed("checkpoint_policy", "checkpoint_policy", "best"),
    _translated("checkpoint_storage.save_experiment_best", "checkpoint_gc.save_trial_best", 0),
    _translated("checkpoint_storage.save_trial_best", "checkpoint_gc.save_trial_best", 1),
    _translated("checkpoint_storage.save_trial_latest", "checkpoint_gc.save_trial_latest", 1),
    *_no_meaning(
        _OWN_STORAGE,
        "checkpoint_storage.type",
        "checkpoint_storage.host_path",
        "checkpoint_storage.storage_path",
        "checkpoint_storage.container_path",
        "checkpoint_storage.checkpoint_path",
        "checkpoint_storage.tensorboard_path",
        "checkpoint_storage.propagation",
        "checkpoint_storage.bucket",
        "checkpoint_storage.prefix",
        "checkpoint_storage.endpoint_url",
        "checkpoint_storage.access_key",
        "checkpoint_storage.secret_key",
        "checkpoint_storage.container",
        "checkpoint_storage.connection_string",
        "checkpoint_storage.account_url",
        "checkpoint_storage.credential",
        "checkpoint_storage.hdfs_url",
        "checkpoint_storage.hdfs_path",
        "checkpoint_storage.user",
    ),
    _renamed("optimizations.aggregation_frequency", "aggregation_frequency", 1),
    # Refused where it is false and changes the result.
    Key(name="optimizations.average_aggregated_gradients", default=True),
    *_no_meaning(
        "Training metrics are always averaged over all slots.",
        ("optimizations.average_training_metrics", True),
    ),
    *_no_meaning(
        "Precision is the business of the trial: context.experimental.use_amp() in its __init__.",
        ("optimizations.mixed_precision", "O0"),
    ),
    *_no_meaning(
        _NO_HOROVOD,
        ("optimizations.gradient_compression", False),
        ("optimizations.tensor_fusion_threshold", 64),
        ("optimizations.tensor_fusion_cycle_time", 1),
        ("optimizations.auto_tune_tensor_fusion", False),
        "optimizations.grad_updates_size_file",
    ),
    _renamed("reproducibility.experiment_seed", "seed"),
    _renamed("max_restarts", "max_restarts", 5),
    *_no_meaning(
        "The length of an epoch is taken from the trial's own training data, as Determined's "
        "PyTorchTrial takes it.",
        ("records_per_epoch", 0),
    ),
    *_no_meaning(
        _NO_CONTAINER,
        "bind_mounts",
        "environment.image",
        "environment.registry_auth",
        "environment.ports",
        "environment.proxy_ports",
        "environment.pod_spec",
        "environment.add_capabilities",
        "environment.drop_capabilities",
        ("environment.force_pull_image", False),
    ),
    *_no_meaning(
        "The trial sees the variables of the shell. Set them there before trialrun submit.",
        "environment.environment_variables",
    ),
    *_no_meaning(_NO_CLUSTER, "slurm", "pbs", "preemption_timeout"),
    *_no_meaning(
        "There is no profiler of machines. context.set_profiler is torch's, for the trial.",
        ("profiling.enabled", False),
        ("profiling.begin_on_batch", 0),
        "profiling.end_after_batch",
        ("profiling.sync_timings", True),
    ),
    *_no_meaning(
        "Set PYTHONFAULTHANDLER=1 in the shell to see the stacks of a crash.", ("debug", False)
    ),
    *_no_meaning(
        "Logs are files in trialrun's home, and stay there. trialrun logs prints them.",
        "log_policies",
        "log_pattern_policies",
        "retention_policy",
    ),
    *_no_meaning(
        "TensorBoard's events lie in trialrun's home, in the folder of the experiment.",
        "tensorboard_storage",
    ),
    *_no_meaning(_NO_MASTER, "integrations", "internal", "security"),
    *_no_meaning("It was removed from Determined too. Read the data in the trial.", "data_layer"),
)
"""In the order of the table in the docs."""

BY_NAME: Mapping[str, Key] = {key.name: key for key in KEYS}

SECTIONS: Mapping[str, tuple[str, ...]] = {
    section: tuple(
        name.removeprefix(f"{section}.") for name in BY_NAME if name.startswith(f"{section}.")
    )
    for section in dict.fromkeys(name.partition(".")[0] for name in BY_NAME if "." in name)
}
"""The keys that hold keys: each with the names below it."""

TOP_LEVEL: tuple[str, ...] = tuple(dict.fromkeys(name.partition(".")[0] for name in BY_NAME))


def unknown_keys(data: Mapping[str, Any]) -> Iterator[str]:
    """Gives one sentence for each key that Determined does not know, with the nearest that it does.

    Args:
        data: A Determined configuration.
    """
    for name, value in data.items():
        if name not in TOP_LEVEL:
            yield _unknown(str(name), str(name), TOP_LEVEL)
        elif name in SECTIONS and isinstance(value, dict):
            for inner in value:
                if inner not in SECTIONS[name]:
                    yield _unknown(f"{name}.{inner}", str(inner), SECTIONS[name])
        elif name in SECTIONS and value is not None:
            example = f"{SECTIONS[name][0]}"
            yield (
                f"Configuration key {name!r} is {value!r}: it must hold keys and values, such as "
                f"{example}."
            )


def _unknown(key: str, name: str, known: tuple[str, ...]) -> str:
    return f"Unknown key {key!r} in a Determined configuration." + nearest_name(name, known)


def value_at(data: Mapping[str, Any], key: str) -> Any:
    """Returns the value of a dotted key, or None where it is not there."""
    section, _, name = key.rpartition(".")
    holder = data.get(section) if section else data
    return holder.get(name) if isinstance(holder, Mapping) else None


def with_value(data: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Returns a copy in which a dotted key has another value."""
    section, _, name = key.rpartition(".")
    if not section:
        return {**data, name: value}
    holder = data.get(section)
    inner = holder if isinstance(holder, Mapping) else {}
    return {**data, section: {**inner, name: value}}


def is_empty(value: Any) -> bool:
    """Returns whether nothing is said: null, or empty however deep."""
    if isinstance(value, dict):
        return all(is_empty(inner) for inner in value.values())
    return value is None or (isinstance(value, str | list) and not value)
