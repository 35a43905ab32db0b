"""The configuration of a submission: a file, and flags that win; loads no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from trialrun._errors import ConfigurationError
from trialrun.controller.config import (
    ExperimentConfig,
    read_config,
    read_config_file,
    with_hyperparameters,
)
from trialrun.controller.determined_config import (
    choose_class,
    is_determined,
    markers_in,
    own_keys_in,
    read_determined_config,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Submission:
    """What is to be trained, and how."""

    config: ExperimentConfig
    trial_class: str | None
    """None: the only one of the file."""
    remarks: str = ""
    """What the user should read once, before training begins."""


def read_submission(
    trial_file: Path,
    trial_class: str | None,
    config_file: str | None,
    hyperparameters: tuple[str, ...],
    flags: dict[str, Any],
    test_mode: bool,
) -> Submission:
    """Returns the configuration of a file and of the flags, which win.

    Args:
        trial_file: The trial; ``trial.yaml`` beside it is read when no file is named.
        trial_class: The class in it, where one is named.
        config_file: The named file, if any: trialrun's own or a Determined configuration.
        hyperparameters: ``NAME=VALUE`` each.
        flags: Configuration keys with what their flags say; None where one is not given.
        test_mode: Whether this is a rehearsal, which needs no length.

    Raises:
        ConfigurationError: Something in it is wrong.
    """
    beside = trial_file.with_name("trial.yaml")
    data: dict[str, Any] = {}
    file = config_file or beside.name
    if config_file is not None:
        data = read_config_file(Path(config_file))
    elif beside.is_file():
        data = read_config_file(beside)
    known = data.get("hyperparameters")
    values = with_hyperparameters(known if isinstance(known, dict) else {}, hyperparameters)
    if values:
        data["hyperparameters"] = values
    given = {name: value for name, value in flags.items() if value is not None}
    if is_determined(data):
        return _read_determined(data, file, trial_file, trial_class, given, test_mode)
    foreign, own = markers_in(data), own_keys_in(data)
    data.update(given)
    if test_mode:
        data.setdefault("max_length", "1ep")  # a rehearsal has its own
    try:
        return Submission(config=read_config(data), trial_class=trial_class)
    except ConfigurationError as error:
        if not foreign:
            raise
        raise ConfigurationError(
            f"{error}\n{foreign[0]!r} is a key of Determined. {file} is read as trialrun's own, "
            f"because it has {own[0]!r}: write it in one of the two ways."
        ) from None


def _read_determined(
    data: dict[str, Any],
    file: str,
    trial_file: Path,
    trial_class: str | None,
    flags: dict[str, Any],
    test_mode: bool,
) -> Submission:
    reading = read_determined_config(data, flags, needs_length=not test_mode)
    remarks = list(reading.remarks)
    if reading.entrypoint is not None:
        trial_class, remark = choose_class(reading.entrypoint, trial_file, trial_class)
        if remark:
            remarks.insert(0, ("entrypoint", remark))
    lines = [
        f"{file} is a Determined configuration. These keys mean something else here, or nothing:"
    ]
    lines += [f"  {keys}: {sentence}" for keys, sentence in remarks]
    return Submission(
        config=reading.config,
        trial_class=trial_class,
        remarks="\n".join(lines) if remarks else "",
    )
