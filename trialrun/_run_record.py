"""What is on record about the run that a trial belongs to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The experiment and the trial, as the records know them.

    Args:
        experiment_config: The experiment's configuration as JSON data; None where there is none.
        experiment_id: The experiment's number; 0 where nothing is recorded, as in a rehearsal.
        trial_id: The trial's number; 0 where nothing is recorded.
    """

    experiment_config: Mapping[str, Any] | None = None
    experiment_id: int = 0
    trial_id: int = 0
