"""The configuration of a submission: a file, and flags that win; loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trialrun.controller.config import (
    ExperimentConfig,
    parse_hyperparameter,
    read_config,
    read_config_file,
)


def read_submission(
    trial_file: Path,
    config_file: str | None,
    hyperparameters: tuple[str, ...],
    flags: dict[str, Any],
    test_mode: bool,
) -> ExperimentConfig:
    """Returns the configuration of a file and of the flags, which win.

    Args:
        trial_file: The trial; ``trial.yaml`` beside it is read when no file is named.
        config_file: The named file, if any.
        hyperparameters: ``NAME=VALUE`` each.
        flags: Configuration keys with what their flags say; None where one is not given.
        test_mode: Whether this is a rehearsal, which needs no length.

    Raises:
        ConfigurationError: Something in it is wrong.
    """
    beside = trial_file.with_name("trial.yaml")
    data: dict[str, Any] = {}
    if config_file is not None:
        data = read_config_file(Path(config_file))
    elif beside.is_file():
        data = read_config_file(beside)
    known = data.get("hyperparameters")
    values = dict(known) if isinstance(known, dict) else {}
    configured = dict(values)
    values.update(parse_hyperparameter(text, configured) for text in hyperparameters)
    if values:
        data["hyperparameters"] = values
    data.update({name: value for name, value in flags.items() if value is not None})
    if test_mode:
        data.setdefault("max_length", "1ep")  # a rehearsal has its own
    return read_config(data)
