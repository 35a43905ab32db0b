"""What may be said to ``fit``: a configuration, and lengths that carry their unit."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

from trialrun._errors import ConfigurationError
from trialrun._units import Batch, Epoch, Time, Unit, parse_unit
from trialrun.controller.config import ExperimentConfig, read_config


class AsConfigured(enum.Enum):
    """The type of an argument that was left out."""

    AS_CONFIGURED = "as configured"

    def __repr__(self) -> str:
        return self.name


AS_CONFIGURED: Final = AsConfigured.AS_CONFIGURED
"""What ``exp_conf`` says, else the default of ``docs/configuration.md``."""


def fit_configuration(
    config_data: Mapping[str, Any], *, test_mode: bool, **arguments: Any
) -> ExperimentConfig:
    """Returns the configuration of a fit.

    Args:
        config_data: What ``init`` was told; it may lack lengths and periods.
        test_mode: Whether it is for a rehearsal, which needs no length.
        arguments: Configuration keys with what ``fit`` was told.

    Raises:
        ConfigurationError: An argument is wrong, or there is no length.
    """
    given = {name: value for name, value in arguments.items() if value is not AS_CONFIGURED}
    for name in ("checkpoint_period", "validation_period", "max_length", "reporting_period"):
        if name in given:
            given[name] = _read_length(name, given[name])
    data = {**config_data, **given}
    if test_mode:
        data.setdefault("max_length", "1ep")  # a rehearsal has its own
    if data.get("max_length") is None:
        raise ConfigurationError(
            "fit has no max_length: when is the trial complete? Give one, such as "
            "fit(max_length=Epoch(5)), or max_length in exp_conf."
        )
    return read_config(data)


def _read_length(name: str, value: object) -> Unit | None:
    if value is None and name != "reporting_period":
        return None
    if isinstance(value, Batch | Epoch | Time):
        return value
    if isinstance(value, str):
        try:
            return parse_unit(value)
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from None
    if isinstance(value, int) and not isinstance(value, bool):
        raise ConfigurationError(
            f"{name}={value} has no unit. Write Batch({value}), Epoch({value}) or Time({value}) "
            "for seconds."
        )
    raise ConfigurationError(
        f"{name}={value!r} is no length. Write Batch(500), Epoch(5), Time(7200) for seconds, or "
        "text such as '5ep'."
    )
