"""Reduces what the slots have found over all processes, and writes it down on the chief."""

from __future__ import annotations

import logging
import math
import time
from typing import Protocol

from trialrun.controller.engine.callbacks import Callbacks
from trialrun.controller.engine.evaluation import Evaluated
from trialrun.controller.engine.execution import Execution
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.reports.metrics import TrainingWindow
from trialrun.controller.engine.reports.reducers import Phase
from trialrun.controller.engine.schedule import Plan

logger = logging.getLogger(__name__)


class Journal(Protocol):
    """Where the chief writes down what happens; nothing here may wait for a disk."""

    def progress(self, batches_completed: int) -> None:
        """Takes note of the clock."""

    def training_metrics(
        self,
        *,
        batches: int,
        epoch: int,
        metrics: dict[str, float],
        records_per_second: float | None,
    ) -> None:
        """Takes the reduced metrics of a reporting period."""

    def validation_metrics(
        self,
        *,
        batches: int,
        epoch: int,
        metrics: dict[str, float],
        num_records: int,
        duration_seconds: float,
    ) -> None:
        """Takes the reduced metrics of a validation."""


class Reporter:
    """Reports training metrics, validation metrics and the clock.

    Args:
        execution: Keeps the clock and the reducers' contents.
        window: The training metrics since the last report.
        plan: Says how long an epoch and how large a batch is.
        collectives: The processes.
        journal: Where the chief writes; None elsewhere.
        callbacks: Told what was reported.
    """

    def __init__(
        self,
        *,
        execution: Execution,
        window: TrainingWindow,
        plan: Plan,
        collectives: Collectives,
        journal: Journal | None,
        callbacks: Callbacks,
    ) -> None:
        self._execution = execution
        self._window = window
        self._reducers = execution.reducers
        self._plan = plan
        self._collectives = collectives
        self._journal = journal
        self._callbacks = callbacks
        self._warned: set[str] = set()
        self._restart_speed()

    def progress(self, batches_completed: int) -> None:
        """Takes note of the clock."""
        if self._journal is not None:
            self._journal.progress(batches_completed)

    def training(self) -> dict[str, float] | None:
        """Reports the batches since the last report.

        Returns:
            The metrics, on every process; None when there were no batches.
        """
        if not len(self._window):
            return None
        wants_batches = self._callbacks.listen_to("on_training_workload_end")
        reduced = self._window.reduce(with_batches=wants_batches)
        metrics = self._add_reducers(reduced.means)
        # A metric that the trial returns under such a name is its own.
        metrics = {**metrics, **self._execution.stepping.metrics(), **metrics}
        self._warn_of_non_finite(metrics, "training")
        if self._journal is not None:
            self._journal.training_metrics(
                batches=self._clock,
                epoch=self._epoch,
                metrics=metrics,
                records_per_second=self._records_per_second(),
            )
        self._callbacks.call("on_training_workload_end", dict(metrics), reduced.batches)
        self._restart_speed()
        return metrics

    def validation(self, evaluated: Evaluated) -> None:
        """Reports a whole validation."""
        # The time was not spent on training.
        self._speed_started += evaluated.duration_seconds
        self._warn_of_non_finite(evaluated.metrics, "validation")
        if self._journal is not None:
            self._journal.validation_metrics(
                batches=self._clock,
                epoch=self._epoch,
                metrics=evaluated.metrics,
                num_records=evaluated.num_records,
                duration_seconds=evaluated.duration_seconds,
            )

    def warn_once(self, key: str, message: str) -> None:
        """Warns on the chief, the first time that the key is heard of."""
        if key not in self._warned and self._collectives.is_chief:
            logger.warning(message)
        self._warned.add(key)

    @property
    def _clock(self) -> int:
        return self._execution.batches_completed

    @property
    def _epoch(self) -> int:
        return self._clock // self._plan.epoch_length

    def _restart_speed(self) -> None:
        self._speed_started = time.monotonic()
        self._speed_first_batch = self._clock

    def _records_per_second(self) -> float | None:
        if self._plan.global_batch_size is None:
            return None
        records = (self._clock - self._speed_first_batch) * self._plan.global_batch_size
        return records / max(time.monotonic() - self._speed_started, 1e-9)

    def _add_reducers(self, means: dict[str, float]) -> dict[str, float]:
        metrics = means
        if self._reducers.takes_part(Phase.TRAINING):
            per_slot = self._reducers.per_slot(Phase.TRAINING, self._clock)
            gathered = self._collectives.gather(per_slot, "training reducers")
            reduced = None
            if gathered is not None:
                all_slots = [results for process_slots in gathered for results in process_slots]
                reduced = self._reducers.across_slots(Phase.TRAINING, self._clock, all_slots, means)
            metrics = self._collectives.broadcast(reduced, "training reducers")
        self._reducers.reset(Phase.TRAINING)
        return metrics

    def _warn_of_non_finite(self, metrics: dict[str, float], kind: str) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                self.warn_once(
                    f"{kind} {name}",
                    f"The {kind} metric {name!r} is {value} at batch {self._clock}. It is recorded "
                    "so; later batches are not warned of.",
                )
