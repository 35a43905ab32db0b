"""What may look over a trial's shoulder while it trains, such as ``trialrun verify``."""

from __future__ import annotations

from typing import Protocol

from trialrun._trial import Trial
from trialrun.controller.engine.reports.tensorboard_log import CheckpointWriter
from trialrun.controller.engine.runtime import Runtime


class TrialObserver(Protocol):
    """Sees what a trial is called with; it is sent to every process, so it survives pickling."""

    def observe(self, trial: Trial, runtime: Runtime) -> None:
        """Is called once in each process, when the trial is built and nothing else has begun."""

    def around(self, sink: CheckpointWriter) -> CheckpointWriter:
        """Returns what the chief hands checkpoints to, in place of the sink."""
