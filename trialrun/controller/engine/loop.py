"""The loop: train a batch, then report, validate and checkpoint when due, in this order.

One clock, the number of batches completed, decides everything. A checkpoint comes last at its
boundary, so that all that belongs to the boundary is in it.
"""

from __future__ import annotations

import enum
import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from trialrun._units import Unit
from trialrun._wrapped import WrappedReducer
from trialrun.controller.checkpoints.contents import CheckpointContents
from trialrun.controller.config import CheckpointPolicy
from trialrun.controller.engine.collectives import Collectives
from trialrun.controller.engine.evaluation import Evaluator
from trialrun.controller.engine.execution import Execution
from trialrun.controller.engine.metrics import TrainingWindow, reduce_custom
from trialrun.controller.engine.schedule import Event, Plan, Stopwatch
from trialrun.controller.engine.slot_state import Phase
from trialrun.controller.engine.snapshot import Progress, Snapshots
from trialrun.controller.engine.stopping import Agreement, StopRequest

logger = logging.getLogger(__name__)


class Outcome(enum.Enum):
    """Why the loop ended."""

    COMPLETED = "completed"
    PAUSED = "paused"


class Journal(Protocol):
    """Where the chief writes down what happens; nothing here may wait for a disk."""

    def progress(self, batches_completed: int) -> None:
        """Takes note of the clock."""

    def training_metrics(
        self, *, batches: int, epoch: int, metrics: dict[str, float], records_per_second: float
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


class CheckpointSink(Protocol):
    """Where the chief hands checkpoints for writing."""

    def save(self, contents: CheckpointContents, metrics: dict[str, float] | None) -> None:
        """Starts writing a checkpoint."""


class TrainingLoop:
    """Trains one trial to its end, or to the boundary at which a stop is agreed on.

    Args:
        execution: Trains a batch on the slots of this process.
        batches: Loaded shares of the slots of this process, from the present batch on.
        evaluator: Evaluates the validation data.
        snapshots: Captures the state for a checkpoint.
        window: Metrics since the last report.
        reducers: The wrapped reducers.
        plan: Length and periods.
        stopwatch: Training time.
        progress: What a checkpoint remembered; a new one at the start.
        policy: Whether validations are followed by checkpoints.
        searched_metric: The validation metric that says which checkpoint is best.
        smaller_is_better: Whether less of it is better.
        step_zero_validation: Whether to validate before the first batch.
        metadata: JSON data that every checkpoint repeats.
        collectives: The processes.
        stop_request: This process's wish to stop.
        journal: Where the chief writes down what happens; None elsewhere.
        sink: Where the chief hands checkpoints; None elsewhere.
    """

    def __init__(
        self,
        *,
        execution: Execution,
        batches: Iterator[Any],
        snapshots: Snapshots,
        window: TrainingWindow,
        reducers: Sequence[WrappedReducer],
        plan: Plan,
        stopwatch: Stopwatch,
        progress: Progress,
        policy: CheckpointPolicy,
        searched_metric: str,
        smaller_is_better: bool,
        step_zero_validation: bool,
        metadata: dict[str, Any],
        collectives: Collectives,
        stop_request: StopRequest,
        journal: Journal | None,
        sink: CheckpointSink | None,
    ) -> None:
        self._execution = execution
        self._batches = batches
        self._snapshots = snapshots
        self._window = window
        self._training_reducers = [wrapped for wrapped in reducers if wrapped.for_training]
        self._plan = plan
        self._stopwatch = stopwatch
        self._progress = progress
        self._policy = policy
        self._searched_metric = searched_metric
        self._smaller_is_better = smaller_is_better
        self._step_zero_validation = step_zero_validation
        self._metadata = metadata
        self._collectives = collectives
        self._stop_request = stop_request
        self._journal = journal
        self._sink = sink
        # The batch of the newest checkpoint; a resumed loop stands at one.
        self._checkpointed_batches = self._clock or None
        self._speed = _Speed(self._clock)
        self._stop = False
        self._time_is_up = False
        self._warned: set[str] = set()
        self.agreement = Agreement(collectives, self._wishes)
        self._agreed = [0] * len(Event)

    def run(self, evaluator: Evaluator) -> Outcome:
        """Trains until the trial is complete or all processes agreed to stop.

        Args:
            evaluator: Evaluates the validation data; it asks this loop's ``agreement`` to go on.
        """
        self._evaluator = evaluator
        self._validate_if_owed()
        while not (self._stop or self._is_at_end):
            self._train_to_boundary()
            self._report_if_due()
            self._validate_if_due()
            self._checkpoint_if_due()
        if self._is_at_end:
            self._report()
            self._validate()
        self._checkpoint()
        complete = self._is_at_end and self._is_validated
        return Outcome.COMPLETED if complete else Outcome.PAUSED

    def _train_to_boundary(self) -> None:
        """Trains until something is due: by the plan, or because it was agreed on."""
        for completed in range(self._clock + 1, self._plan.next_boundary(self._clock) + 1):
            self.agreement.begin()
            self._execution.train_batch(self._batches, self._window)
            self._agreed = self.agreement.settle()
            if self._journal is not None:
                self._journal.progress(completed)
            if any(self._agreed):
                break
        # A window is never cut short: a stop waits for its end, and is agreed on again there.
        if self._is_at_window_end:
            self._stop = bool(self._agreed[Event.STOP])
            self._time_is_up = bool(self._agreed[Event.END])

    # What may be due at a boundary, in this order.

    def _report_if_due(self) -> None:
        if self._is_due(Event.REPORT, self._plan.reporting_period, span=1):
            self._report()

    def _validate_if_due(self) -> None:
        if self._is_at_window_end and self._is_due(
            Event.VALIDATION, self._plan.validation_period, span=self._plan.window
        ):
            self._validate()

    def _checkpoint_if_due(self) -> None:
        if self._is_at_window_end and self._is_due(
            Event.CHECKPOINT, self._plan.checkpoint_period, span=self._plan.window
        ):
            self._checkpoint()

    def _validate_if_owed(self) -> None:
        """Validates where a stop came before the validation that its boundary was due."""
        plan, clock = self._plan, self._clock
        due = plan.is_due(plan.validation_period, clock, plan.window) or self._is_at_end
        if due or (clock == 0 and self._step_zero_validation):
            self._validate()

    # The verbs.

    def _report(self) -> None:
        if not len(self._window):
            return
        means = self._window.reduce()
        metrics = self._add_training_reducers(means)
        self._stopwatch.happened(Event.REPORT)
        self._progress.training_metrics = metrics
        self._warn_of_non_finite(metrics, "training")
        if self._journal is not None:
            self._journal.training_metrics(
                batches=self._clock,
                epoch=self._epoch,
                metrics=metrics,
                records_per_second=self._speed.measure(self._clock) * self._plan.global_batch_size,
            )
        self._speed.restart(self._clock)

    def _validate(self) -> None:
        if self._is_validated:
            return
        started = time.monotonic()
        evaluated = self._evaluator.evaluate()
        if evaluated is None:
            self._stop = True
            return
        duration = time.monotonic() - started
        self._speed.exclude(duration)
        self._stopwatch.happened(Event.VALIDATION)
        self._progress.validated_batches = self._clock
        self._progress.validation_metrics = evaluated.metrics
        self._warn_of_non_finite(evaluated.metrics, "validation")
        if self._journal is not None:
            self._journal.validation_metrics(
                batches=self._clock,
                epoch=self._epoch,
                metrics=evaluated.metrics,
                num_records=evaluated.num_records,
                duration_seconds=duration,
            )
        improved = self._note_best(evaluated.metrics)
        if self._policy is CheckpointPolicy.ALL or (
            self._policy is CheckpointPolicy.BEST and improved
        ):
            # Also where a stop left a checkpoint of this batch, which lacks these metrics.
            self._checkpointed_batches = None
            self._checkpoint()

    def _checkpoint(self) -> None:
        if self._checkpointed_batches == self._clock:
            return
        self._checkpointed_batches = self._clock
        self._stopwatch.happened(Event.CHECKPOINT)
        validation_metrics = self._progress.validation_metrics if self._is_validated else None
        metadata = {
            "batches": self._clock,
            "epoch": self._epoch,
            "validation_metrics": validation_metrics,
            "training_metrics": self._progress.training_metrics,
            **self._metadata,
        }
        contents = self._snapshots.capture(
            self._progress, self._stopwatch.elapsed_seconds, metadata
        )
        if contents is not None and self._sink is not None:
            self._sink.save(contents, validation_metrics)

    # What the verbs ask.

    @property
    def _clock(self) -> int:
        return self._execution.batches_completed

    @property
    def _epoch(self) -> int:
        return self._clock // self._plan.epoch_length

    @property
    def _is_at_window_end(self) -> bool:
        return self._clock % self._plan.window == 0

    @property
    def _is_at_end(self) -> bool:
        total = self._plan.total_batches
        return self._time_is_up if total is None else self._clock >= total

    @property
    def _is_validated(self) -> bool:
        return self._progress.validated_batches == self._clock

    def _is_due(self, event: Event, unit: Unit | None, span: int) -> bool:
        return bool(self._agreed[event]) or self._plan.is_due(unit, self._clock, span)

    def _wishes(self) -> list[int]:
        wishes = [0] * len(Event)
        wishes[Event.STOP] = int(bool(self._stop_request))
        if self._collectives.is_chief:  # one watch decides: the processes' watches differ
            for event in self._stopwatch.events:
                wishes[event] = int(self._stopwatch.is_due(event))
        return wishes

    def _add_training_reducers(self, means: dict[str, float]) -> dict[str, float]:
        if not self._training_reducers:
            return means
        per_slot = []
        for slot in self._execution.slot_numbers:
            self._execution.reducers.enter(Phase.TRAINING, slot)
            reducers = [wrapped.reducer for wrapped in self._training_reducers]
            per_slot.append([reducer.per_slot_reduce() for reducer in reducers])
            for reducer in reducers:
                reducer.reset()
        gathered = self._collectives.gather(per_slot, "training reducers")
        metrics = None
        if gathered is not None:
            all_slots = [results for process_slots in gathered for results in process_slots]
            metrics = reduce_custom(self._training_reducers, all_slots, means)
        result: dict[str, float] = self._collectives.broadcast(metrics, "training reducers")
        return result

    def _note_best(self, metrics: dict[str, float]) -> bool:
        """Notes the searched metric where it is the best so far; NaN never is, a tie neither."""
        name = self._searched_metric
        if name not in metrics:
            self._warn_once(
                name,
                f"The validation metrics {sorted(metrics)} have no {name!r}, so no checkpoint can "
                "be the best one. Set searcher.metric to one of them.",
            )
            return False
        value, best = metrics[name], self._progress.best_metric
        if math.isnan(value):
            return False
        better = best is None or (value < best if self._smaller_is_better else value > best)
        if better:
            self._progress.best_metric = value
            self._progress.best_batches = self._clock
        return better

    def _warn_of_non_finite(self, metrics: dict[str, float], kind: str) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                self._warn_once(
                    f"{kind} {name}",
                    f"The {kind} metric {name!r} is {value} at batch {self._clock}. It is recorded "
                    "so; later batches are not warned of.",
                )

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned and self._collectives.is_chief:
            logger.warning(message)
        self._warned.add(key)


class _Speed:
    """Batches per second of training since the last report, validations left out."""

    def __init__(self, batches: int) -> None:
        self.restart(batches)

    def restart(self, batches: int) -> None:
        """Begins to measure."""
        self._started = time.monotonic()
        self._first_batch = batches

    def exclude(self, seconds: float) -> None:
        """Leaves out time that was not training."""
        self._started += seconds

    def measure(self, batches: int) -> float:
        """Returns batches per second since ``restart``."""
        return (batches - self._first_batch) / max(time.monotonic() - self._started, 1e-9)
