"""Reads a Determined experiment configuration as one of trialrun's.

What it leaves out has Determined's default where trialrun has the same thing to choose, with these
exceptions: ``seed`` is 0 and not drawn, ``checkpoint_period`` is an epoch and not never (a killed
run then loses an epoch, not all), two checkpoints are kept and not one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from trialrun._errors import ConfigurationError, nearest_name
from trialrun._units import Batch, Epoch, parse_unit
from trialrun.controller.config import ExperimentConfig, read_config
from trialrun.controller.determined_config.entrypoint import Entrypoint, read_entrypoint
from trialrun.controller.determined_config.keys import (
    BY_NAME,
    KEYS,
    TOP_LEVEL,
    is_empty,
    unknown_keys,
    value_at,
    with_value,
)
from trialrun.controller.determined_config.lengths import UNITS, read_length, whole_number
from trialrun.controller.determined_config.search_space import read_space, refusal

T = TypeVar("T")

MARKERS = (
    "entrypoint",
    "resources",
    "min_validation_period",
    "min_checkpoint_period",
    "scheduling_unit",
    "perform_initial_validation",
    "records_per_epoch",
    "checkpoint_storage",
    "optimizations",
    "reproducibility",
    "environment",
    "bind_mounts",
)
"""Keys by which a configuration is known to be Determined's. Each of its files has one of them or
a ``searcher.max_length`` with a unit below it; trialrun has none of them, and none like them."""

SEARCHERS = (
    "single",
    "random",
    "grid",
    "adaptive_asha",
    "async_halving",
    "adaptive",
    "adaptive_simple",
    "sync_halving",
    "pbt",
    "custom",
)

_NOT_KEPT = (
    "bind_mounts",
    "checkpoint_storage",
    "environment",
    "integrations",
    "internal",
    "pbs",
    "security",
    "slurm",
    "tensorboard_storage",
)
"""Sections about machines, which may hold passwords; records are read by others."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """A Determined configuration, read."""

    config: ExperimentConfig
    entrypoint: Entrypoint | None
    remarks: tuple[tuple[str, str], ...]
    """What means nothing or something else here: the keys, and one sentence on them."""


def markers_in(data: Mapping[str, Any]) -> list[str]:
    """Returns the keys that only a Determined configuration has."""
    found = [key for key in MARKERS if key in data]
    length = value_at(data, "searcher.max_length")
    if isinstance(length, Mapping) and any(unit in length for unit in UNITS):
        found.append("searcher.max_length")
    return found


def own_keys_in(data: Mapping[str, Any]) -> list[str]:
    """Returns the keys that only trialrun's own configuration has."""
    return [key for key in data if key in ExperimentConfig.model_fields and key not in TOP_LEVEL]


def is_determined(data: Mapping[str, Any]) -> bool:
    """Returns whether this is a Determined configuration: it has keys that only those have.

    One that has keys of trialrun as well is trialrun's, with mistakes in it.
    """
    return bool(markers_in(data)) and not own_keys_in(data)


def read_determined_config(
    data: Mapping[str, Any], flags: Mapping[str, Any], needs_length: bool = True
) -> Reading:
    """Reads a Determined configuration.

    Args:
        data: Its keys and values, those of the hyperparameter flags in place.
        flags: Keys of trialrun that win over it.
        needs_length: Whether it must say how long to train.

    Raises:
        ConfigurationError: Something in it is wrong, or cannot be done here. Each problem is named,
            by the key that the user wrote.
    """
    return _Reader(data, flags, needs_length).read()


class _Reader:
    def __init__(
        self, data: Mapping[str, Any], flags: Mapping[str, Any], needs_length: bool
    ) -> None:
        self._data = data
        self._flags = flags
        self._needs_length = needs_length
        self._translated: dict[str, Any] = {}
        self._written_as: dict[str, str] = {}
        self._problems: list[str] = []
        self._remarks: dict[str, list[str]] = {}  # sentence: keys

    def read(self) -> Reading:
        self._problems += unknown_keys(self._data)
        self._read_hyperparameters()
        for key in KEYS:
            value = self._value(key.name)
            if key.is_renamed and value is not None:
                self._put(key.name, key.becomes, value)
            elif key.instead and not (
                is_empty(value) or value == key.default or value in key.asks_for_nothing
            ):
                self._remark(key.name, key.instead)
        self._read_slots()
        self._read_lengths()
        self._read_checkpoints()
        self._refuse_what_would_change_the_result()
        entrypoint = None
        if self._value("entrypoint") is not None:
            entrypoint = self._try(lambda: read_entrypoint(self._value("entrypoint")))
        return Reading(
            config=self._read_translated(),
            entrypoint=entrypoint,
            remarks=tuple((", ".join(keys), text) for text, keys in self._remarks.items()),
        )

    # One subject each.

    def _read_hyperparameters(self) -> None:
        searcher = self._value("searcher.name") or "single"
        if searcher not in SEARCHERS:
            self._problems.append(
                f"Configuration key 'searcher.name' is {searcher!r}: Determined has no such "
                "searcher." + nearest_name(str(searcher), SEARCHERS)
            )
        space = self._value("hyperparameters")
        if not isinstance(space, dict | None):
            self._put("hyperparameters", "hyperparameters", space)  # which says what is wrong
            return
        values, searched, problems = read_space(space or {})
        self._put("hyperparameters", "hyperparameters", values)
        self._problems += problems
        if searched:
            self._problems.append(refusal(str(searcher), searched))
        elif searcher != "single":
            self._remark("searcher.name", BY_NAME["searcher.max_trials"].instead)

    def _read_slots(self) -> None:
        slots = self._value("resources.slots_per_trial")
        if slots is None:
            return
        self._put("resources.slots_per_trial", "slots", slots)
        if slots == 0:
            self._put("resources.slots_per_trial", "slots", 1)
            self._remark(
                "resources.slots_per_trial",
                "0 is one slot here. To keep it off the GPU, set CUDA_VISIBLE_DEVICES= in the "
                "shell.",
            )

    def _read_lengths(self) -> None:
        self._read_max_length()
        # Determined validates at the end alone where it is told nothing.
        self._put_length("min_validation_period", "validation_period")
        self._translated.setdefault("validation_period", None)
        self._put_length("min_checkpoint_period", "checkpoint_period")
        unit = self._value("scheduling_unit")
        if unit is not None:
            number = self._try(lambda: whole_number("scheduling_unit", unit, least=1))
            if number is not None:
                self._put("scheduling_unit", "reporting_period", f"{number}ba")

    def _read_max_length(self) -> None:
        if "max_length" in self._flags:
            return
        problems = len(self._problems)
        length, time = self._value("searcher.max_length"), self._value("searcher.max_time")
        if isinstance(length, int | float):
            self._problems.append(
                f"Configuration key 'searcher.max_length' is {length!r}, without a unit: write "
                "{batches: 900} or {epochs: 2}, or give --max-length 20ep."
            )
        elif length is not None:
            self._put_length("searcher.max_length", "max_length")
            if len(self._problems) == problems and "max_length" not in self._translated:
                self._problems.append(
                    f"Configuration key 'searcher.max_length' is {length!r}: it must be at least 1."
                )
        elif time is not None:
            self._read_max_time(time)
        elif self._needs_length:
            self._problems.append(
                "The configuration key 'searcher.max_length' is missing. Set it, such as "
                "{epochs: 20}, or give --max-length 20ep. What a script hands to Trainer.fit is "
                "not read."
            )
        if "max_length" not in self._translated:
            self._translated["max_length"] = "1ep"  # there is a problem, or it is a rehearsal

    def _read_max_time(self, time: Any) -> None:
        metric = self._value("searcher.time_metric")
        if metric not in ("batches", "epochs"):
            self._problems.append(
                f"Configuration key 'searcher.time_metric' is {metric!r}: trialrun measures the "
                "length of a trial in batches or epochs. Write one of these, or give --max-length "
                "20ep."
            )
            return
        number = self._try(lambda: whole_number("searcher.max_time", time, least=1))
        if number is not None:
            suffix = Batch.suffix if metric == "batches" else Epoch.suffix
            self._put("searcher.max_time", "max_length", f"{number}{suffix}")

    def _read_checkpoints(self) -> None:
        # One trial is all of the experiment, so the best of either are the best of both.
        key = "checkpoint_storage.save_trial_best"
        best = max(self._count(key), self._count("checkpoint_storage.save_experiment_best"))
        self._put(key, "checkpoint_gc.save_trial_best", best)
        key = "checkpoint_storage.save_trial_latest"
        if self._value(key) is None:
            return
        latest = self._count(key)
        self._put(key, "checkpoint_gc.save_trial_latest", max(latest, 1))
        if latest == 0:
            self._remark(key, "The newest is always kept: a run that was stopped goes on from it.")

    def _refuse_what_would_change_the_result(self) -> None:
        for key in ("searcher.source_trial_id", "searcher.source_checkpoint_uuid"):
            value = self._value(key)
            if value is not None:
                self._problems.append(
                    f"Configuration key {key!r} is {value!r}: it names a checkpoint of a "
                    "Determined cluster, which trialrun cannot read. Load its weights in the "
                    "trial's __init__, and leave the key out."
                )
        frequency = self._value("optimizations.aggregation_frequency")
        averages = self._value("optimizations.average_aggregated_gradients")
        if averages is False and frequency not in (None, 1):
            self._problems.append(
                "Configuration key 'optimizations.average_aggregated_gradients' is False, which "
                "here is said of each optimizer. Leave the key out, and write "
                "context.wrap_optimizer(optimizer, average_aggregated_gradients=False) in the "
                "trial."
            )

    def _read_translated(self) -> ExperimentConfig:
        data = dict(self._translated)
        for key in self._flags:
            self._written_as.pop(key, None)
        data.update(self._flags)
        data["determined"] = self._kept(
            data.get("seed", ExperimentConfig.model_fields["seed"].default)
        )
        try:
            config = read_config(data, self._written_as)
        except ConfigurationError as error:
            self._problems.append(str(error))
        if self._problems:
            raise ConfigurationError("\n".join(self._problems))
        return config

    def _kept(self, seed: Any) -> dict[str, Any]:
        """Returns the configuration as a trial may want to read it: with flags and defaults."""
        kept: dict[str, Any] = {}
        for key in KEYS:
            if key.name.partition(".")[0] in _NOT_KEPT:
                continue
            value = self._value(key.name)
            if value is None:
                value = key.default
            if value is not None:
                kept = with_value(kept, key.name, _plain(value))
        for flag, name in (("name", "name"), ("slots", "resources.slots_per_trial")):
            if flag in self._flags:
                kept = with_value(kept, name, self._flags[flag])
        # The one that is used, also where nobody chose it.
        kept = with_value(kept, "reproducibility.experiment_seed", _plain(seed))
        if "max_length" in self._flags:
            kept = with_value(kept, "searcher.max_length", _as_length(self._flags["max_length"]))
        return kept

    # Helpers.

    def _value(self, key: str) -> Any:
        return value_at(self._data, key)

    def _put(self, name: str, becomes: str, value: Any) -> None:
        self._translated = with_value(self._translated, becomes, value)
        self._written_as[becomes] = name

    def _put_length(self, name: str, becomes: str) -> None:
        value = self._value(name)
        if value is None:
            return
        hyperparameters = self._translated.get("hyperparameters")
        size = value_at(hyperparameters or {}, "global_batch_size")
        length = self._try(lambda: read_length(name, value, size))
        if length is not None:
            self._put(name, becomes, length)

    def _count(self, name: str) -> int:
        value = self._value(name)
        number = None if value is None else self._try(lambda: whole_number(name, value))
        return BY_NAME[name].default if number is None else number

    def _try(self, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except ConfigurationError as error:
            self._problems.append(str(error))
            return None

    def _remark(self, key: str, sentence: str) -> None:
        self._remarks.setdefault(sentence, []).append(key)


def _plain(value: Any) -> Any:
    """Returns what JSON can hold of a value; dates and what is not finite become text."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _as_length(text: str) -> dict[str, int] | None:
    """Returns ``20ep`` as Determined writes it; a time, which it does not know, is None."""
    try:
        unit = parse_unit(text)
    except ConfigurationError:
        return None  # it is told where the flag is checked
    if isinstance(unit, Epoch):
        return {"epochs": unit.value}
    return {"batches": unit.value} if isinstance(unit, Batch) else None
