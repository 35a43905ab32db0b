"""An experiment's configuration: what ``trial.yaml`` and the flags of ``submit`` may say."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic
import yaml

from trialrun._batch_size import check_global_batch_size
from trialrun._errors import ConfigurationError, nearest_name
from trialrun._units import Batch, Epoch, Time, Unit, parse_unit
from trialrun._wording import count, type_of


class CheckpointPolicy(enum.Enum):
    """Which validations are followed by a checkpoint."""

    BEST = "best"
    """Those that improve on the best value of the searched metric."""
    ALL = "all"
    """Every one."""
    NONE = "none"
    """None: checkpoints come from ``checkpoint_period``, stops and the end alone."""


class Deterministic(enum.Enum):
    """What happens to operations of torch that give other bits each time."""

    STRICT = "strict"
    """They are an error, and fresh memory is filled, so that what reads it repeats too."""
    WARN = "warn"
    """They are warned of, once each; where torch has another implementation, that one is taken."""
    OFF = "off"
    """Nothing: torch is left as it is."""


class Advice(enum.Enum):
    """What trialrun says once to make a run faster; none of it changes the result."""

    DATA_WAIT = "data-wait"
    """Training waits for data."""


def _read_unit(value: object) -> object:
    if isinstance(value, Batch | Epoch | Time):
        return value
    try:
        return parse_unit(str(value))
    except ConfigurationError as error:
        raise ValueError(str(error)) from None


Length = Annotated[
    Unit, pydantic.BeforeValidator(_read_unit), pydantic.PlainSerializer(str, return_type=str)
]
"""A length or period with its unit, such as ``20ep``."""


def _require_time(unit: Batch | Epoch | Time) -> Batch | Epoch | Time:
    if not isinstance(unit, Time):
        raise ValueError("it must be a time, such as 30min, or null.")
    return unit


Duration = Annotated[Length, pydantic.AfterValidator(_require_time)]
"""A length that is a time, such as ``30min``."""


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class SearcherConfig(_Section):
    """How hyperparameters are chosen, and by which metric checkpoints are compared."""

    name: str = "single"
    """``single``: one trial with the hyperparameters as given."""
    metric: str = "loss"
    """The validation metric that says which checkpoint is best."""
    smaller_is_better: bool = True
    """Whether less of the metric is better."""

    @pydantic.field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name != "single":
            raise ValueError(f"{name!r} is not a known searcher. Known: single.")
        return name


class CheckpointGcConfig(_Section):
    """Which checkpoints stay on the disk; records of all stay."""

    save_trial_best: int = pydantic.Field(default=1, ge=0)
    """The best so many, by the searched metric."""
    save_trial_latest: int = pydantic.Field(default=2, ge=1)
    """The newest so many: more than one, so that a damaged file costs a period, not the run."""


class ExperimentConfig(_Section):
    """The configuration of one experiment, checked."""

    name: str = ""
    """For people; default: the trial file's name."""
    description: str = ""
    """For people."""
    labels: list[str] = []
    """For people."""
    hyperparameters: dict[str, Any] = {}
    """What ``context.get_hparam`` returns; ``global_batch_size`` is the one that trialrun knows."""
    data: dict[str, Any] = {}
    """Where and how the trial finds its data; trialrun only keeps it."""
    searcher: SearcherConfig = SearcherConfig()
    slots: int = pydantic.Field(default=1, ge=1)
    """Logical data-parallel workers that share each batch: part of the mathematics."""
    processes: int | None = pydantic.Field(default=None, ge=1)
    """Physical processes, a divisor of the slots; default: as many as the machine can serve."""
    intra_op_threads: int | None = pydantic.Field(default=None, ge=1)
    """CPU threads with which a slot computes; default: cores // slots, at least 1."""
    max_length: Length
    """When the trial is complete."""
    reporting_period: Length = Batch(100)
    """How often training metrics are reported."""
    validation_period: Length | None = Epoch(1)
    """How often the validation data is evaluated; null: only at the end."""
    checkpoint_period: Length | None = Epoch(1)
    """How often a checkpoint is taken; null: only as ``checkpoint_policy`` says and at the end."""
    checkpoint_policy: CheckpointPolicy = CheckpointPolicy.BEST
    """Which validations are followed by a checkpoint: best, all or none."""
    checkpoint_gc: CheckpointGcConfig = CheckpointGcConfig()
    step_zero_validation: bool = False
    """Whether to validate before the first batch."""
    aggregation_frequency: int = pydantic.Field(default=1, ge=1)
    """Batches whose gradients make one optimizer step."""
    max_restarts: int = pydantic.Field(default=5, ge=0)
    """How often a trial that has failed is started again from its newest whole checkpoint."""
    hang_timeout: Duration | None = Time(1800)
    """After how long without progress a trial counts as hung, and is restarted; null: never."""
    seed: int = pydantic.Field(default=0, ge=0, lt=2**63)
    """All of a trial's randomness is a function of it. The same command gives the same bits."""
    deterministic: Deterministic = Deterministic.WARN
    """Whether operations of torch that give other bits each time are refused, warned of, or not."""
    from_checkpoint: str | None = None
    """Begin with the weights of this checkpoint: its UUID, or its folder or that of an export."""
    from_checkpoint_partial: bool = False
    """Whether weights that do not fit are left as the trial makes them, instead of refused."""
    tensorboard: bool | None = None
    """Whether reported metrics are TensorBoard events too; default: where it is installed."""
    silence: list[Advice] = []
    """Advice that is not wanted, by its id."""
    determined: dict[str, Any] = {}
    """The Determined configuration that this one was read from; trialrun writes it."""

    @pydantic.field_validator("deterministic", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        # YAML reads an unquoted off as false.
        return "off" if value is False else value

    @pydantic.field_validator("hyperparameters", "data", "determined")
    @classmethod
    def _plain(cls, mapping: dict[str, Any]) -> dict[str, Any]:
        for name, value in mapping.items():
            try:
                survives = json.loads(json.dumps(value, allow_nan=False)) == value
            except (TypeError, ValueError):
                survives = False
            if not survives:
                raise ValueError(
                    f"the value of {name!r} cannot be kept as JSON. Use numbers, strings, "
                    "booleans, null, lists, and mappings whose keys are strings; quote dates."
                )
        return mapping

    @pydantic.model_validator(mode="after")
    def _divisible(self) -> ExperimentConfig:
        if self.processes is not None and self.slots % self.processes:
            raise ValueError(not_divisible(self.slots, self.processes))
        if self.from_checkpoint_partial and self.from_checkpoint is None:
            raise ValueError(
                "from_checkpoint_partial (--partial) says how weights are taken, but "
                "from_checkpoint (--from-checkpoint) does not say whose. Give both, or neither."
            )
        size = self.hyperparameters.get("global_batch_size")
        if size is not None:
            try:
                check_global_batch_size(size, self.slots)
            except ConfigurationError as error:
                raise ValueError(str(error)) from None
        return self

    def to_json(self) -> dict[str, Any]:
        """Returns the configuration as JSON data, from which ``read_config`` makes it again."""
        return self.model_dump(mode="json")


def not_divisible(slots: int, processes: int) -> str:
    """Returns the message for a number of processes that does not divide the slots."""
    divisors = [str(p) for p in range(1, slots + 1) if slots % p == 0]
    return (
        f"{count(slots, 'slot')} cannot be executed by {count(processes, 'process')}: "
        f"the number of processes must divide the slots. Choose one of {', '.join(divisors)}."
    )


def read_config(
    data: Mapping[str, Any], written_as: Mapping[str, str] | None = None
) -> ExperimentConfig:
    """Checks configuration data.

    Args:
        data: Keys and values.
        written_as: For keys that the user wrote under another name, that name, which errors use.

    Raises:
        ConfigurationError: A key is unknown (the nearest known one is named), a value is wrong, or
            the length is missing.
    """
    try:
        return ExperimentConfig.model_validate(dict(data))
    except pydantic.ValidationError as error:
        raise ConfigurationError(_explain(error, written_as or {})) from None


def read_config_file(path: Path) -> dict[str, Any]:
    """Reads a YAML file of configuration data, unchecked.

    Raises:
        ConfigurationError: The file is missing, is no YAML, or holds no mapping.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_YamlLoader)  # noqa: S506
    except FileNotFoundError:
        raise ConfigurationError(f"There is no configuration file {path}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path} cannot be read as YAML: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigurationError(
            f"{path} holds {type_of(data)}; it must hold keys and values, such as "
            "'max_length: 20ep'."
        )
    return data


def parse_hyperparameter(text: str, known: Mapping[str, Any]) -> tuple[str, Any]:
    """Reads ``NAME=VALUE`` of a ``--hp`` flag; the value is read as YAML.

    Args:
        text: What the user typed.
        known: The hyperparameters in the configuration; if there are any, the name must be one.
            Dots lead into mappings: ``optimizer.lr``.

    Raises:
        ConfigurationError: There is no ``=``, or the name is unknown.
    """
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ConfigurationError(f"--hp {text!r} is not of the form NAME=VALUE, such as lr=0.1.")
    names = set(_dotted_names(known))
    if known and name not in names:
        raise ConfigurationError(
            f"There is no hyperparameter {name!r} in the configuration." + nearest_name(name, names)
        )
    try:
        return name, yaml.load(value, Loader=_YamlLoader)  # noqa: S506
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--hp {text!r}: the value cannot be read: {error}") from None


def with_hyperparameters(known: Mapping[str, Any], texts: Iterable[str]) -> dict[str, Any]:
    """Returns the hyperparameters of a configuration with the values of ``--hp`` flags in place.

    Args:
        known: The hyperparameters in the configuration.
        texts: ``NAME=VALUE`` each; a dotted name reaches into a mapping.

    Raises:
        ConfigurationError: A text is of another form, or names a hyperparameter that is not there.
    """
    values = dict(known)
    for text in texts:
        name, value = parse_hyperparameter(text, values if known else {})
        values = _with_value(values, name, value)
    return values


def _dotted_names(mapping: Mapping[str, Any]) -> Iterator[str]:
    for name, value in mapping.items():
        yield str(name)
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in _dotted_names(value))


def _with_value(values: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Returns a copy with one value replaced; the given mappings stay as they are."""
    outer, _, inner = name.partition(".")
    if name not in values and isinstance(values.get(outer), dict):
        return values | {outer: _with_value(values[outer], inner, value)}
    return values | {name: value}


class _YamlLoader(yaml.SafeLoader):
    """YAML 1.2's numbers: PyYAML, as YAML 1.1 wants it, reads ``1e-3`` as a string."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def _explain(error: pydantic.ValidationError, written_as: Mapping[str, str]) -> str:
    """Returns one sentence for each problem, with the key's path and the nearest known name."""
    return "\n".join(_explain_one(problem, written_as) for problem in error.errors())


def _explain_one(problem: Any, written_as: Mapping[str, str]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    for name, other in written_as.items():
        if key == name or key.startswith(f"{name}."):
            key = other + key.removeprefix(name)
            break
    if problem["type"] == "extra_forbidden":
        section = _section_at(location[:-1])
        return f"Unknown configuration key {key!r}." + nearest_name(
            location[-1], section.model_fields
        )
    if problem["type"] == "missing":
        return (
            f"The configuration key {key!r} is missing. Set it in trial.yaml or by a flag, such as "
            "--max-length 20ep."
        )
    if problem["type"] == "value_error" and not location:
        return str(problem["ctx"]["error"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"Configuration key {key!r} is {problem['input']!r}: {message}"


def _section_at(location: list[str]) -> type[pydantic.BaseModel]:
    section: type[pydantic.BaseModel] = ExperimentConfig
    for name in location:
        annotation = section.model_fields[name].annotation
        assert isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)
        section = annotation
    return section
