"""The loop: train to the next boundary, then report, validate and checkpoint what is due.

One clock, the number of batches completed, decides everything. A checkpoint comes last at its
boundary, so that all that belongs to the boundary is in it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from trialrun._units import Unit
from trialrun.controller.checkpoints.best import is_better
from trialrun.controller.checkpoints.contents import CheckpointContents
from trialrun.controller.config import CheckpointPolicy, ExperimentConfig
from trialrun.controller.engine.callbacks import Callbacks
from trialrun.controller.engine.evaluation import Evaluator
from trialrun.controller.engine.execution import Execution
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.reports.metrics import TrainingWindow
from trialrun.controller.engine.reports.reporting import Reporter
from trialrun.controller.engine.schedule import Event, Plan, Stopwatch
from trialrun.controller.engine.snapshot import Progress, Snapshots
from trialrun.controller.engine.stopping import Agreement


class Outcome(enum.Enum):
    """Why the loop ended."""

    COMPLETED = "completed"
    PAUSED = "paused"


class CheckpointSink(Protocol):
    """Where the chief hands checkpoints for writing."""

    def save(self, contents: CheckpointContents, metrics: dict[str, float] | None) -> None:
        """Starts writing a checkpoint."""

    def save_now(
        self,
        contents: CheckpointContents,
        metrics: dict[str, float] | None,
        on_written: Callable[[Path], None],
    ) -> str | None:
        """Writes a checkpoint while the caller waits.

        Args:
            contents: What to write.
            metrics: The validation metrics at this batch, if there are any.
            on_written: Called with the folder when the files are there; it may add others.

        Returns:
            The checkpoint's UUID; None where it could not be written.

        Raises:
            Exception: Whatever ``on_written`` raises.
        """


class TrainingLoop:
    """Trains one trial to its end, or to the boundary at which a stop is agreed on.

    The end is the plan's, or the one that the trial itself asks for; it is then remembered, since
    a trial that ends early does so wherever it was stopped before.

    Args:
        config: Which checkpoints are wanted, and by which metric they are compared.
        plan: Length and periods.
        execution: Trains a batch on the slots of this process; keeps the clock.
        batches: Loaded shares of the slots of this process, from the present batch on.
        window: Where the metrics of batches are collected.
        reporter: Reports them.
        evaluator: Evaluates the validation data.
        snapshots: Captures the state for a checkpoint.
        progress: What a checkpoint remembered; a new one at the start.
        stopwatch: Training time.
        agreement: What all processes agree on at a boundary.
        callbacks: Told of checkpoints; they may ask for the trial's end at a boundary.
        collectives: The processes.
        metadata: JSON data that every checkpoint repeats.
        sink: Where the chief hands checkpoints; None elsewhere.
    """

    def __init__(
        self,
        *,
        config: ExperimentConfig,
        plan: Plan,
        execution: Execution,
        batches: Iterator[Any],
        window: TrainingWindow,
        reporter: Reporter,
        evaluator: Evaluator,
        snapshots: Snapshots,
        progress: Progress,
        stopwatch: Stopwatch,
        agreement: Agreement,
        callbacks: Callbacks,
        collectives: Collectives,
        metadata: dict[str, Any],
        sink: CheckpointSink | None,
    ) -> None:
        self._config = config
        self._plan = plan
        self._execution = execution
        self._batches = batches
        self._window = window
        self._reporter = reporter
        self._evaluator = evaluator
        self._snapshots = snapshots
        self._progress = progress
        self._stopwatch = stopwatch
        self._agreement = agreement
        self._callbacks = callbacks
        self._collectives = collectives
        self._metadata = metadata
        self._sink = sink
        self._agreed = [0] * len(Event)
        self._stop = False
        self._time_is_up = stopwatch.is_over
        # The batch of the newest checkpoint; a resumed loop stands at one.
        self._checkpointed_batches = self._clock or None

    def run(self) -> Outcome:
        """Trains until the trial is complete or all processes agreed to stop."""
        self._validate_if_owed()
        self._hear_callbacks()
        while not (self._stop or self._is_at_end):
            self._train_to_boundary()
            self._report_if_due()
            self._validate_if_due()
            self._checkpoint_if_due()
            self._hear_callbacks()
        if self._is_at_end:
            # Where a callback ended the trial, neither was due by the plan.
            self._report()
            if not self._stop:
                self._validate()
        self._checkpoint()
        complete = self._is_at_end and self._is_validated
        return Outcome.COMPLETED if complete else Outcome.PAUSED

    def _train_to_boundary(self) -> None:
        """Trains until something is due: by the plan, or because it was agreed on."""
        for completed in range(self._clock + 1, self._plan.next_boundary(self._clock) + 1):
            self._agreement.begin()
            self._execution.train_batch(self._batches, self._window)
            self._agreed = self._agreement.settle()
            self._reporter.progress(completed)
            if any(self._agreed):
                break
        self._execution.meet()
        # A window is never cut short: a stop waits for its end, and is agreed on again there.
        if self._is_at_window_end:
            self._stop = bool(self._agreed[Event.STOP])
            self._time_is_up = bool(self._agreed[Event.END])
            self._end_early_if(self._agreed)

    # What may be due at a boundary, in this order.

    def _report_if_due(self) -> None:
        if self._is_at_end or self._is_due(Event.REPORT, self._plan.reporting_period, span=1):
            self._report()

    def _validate_if_due(self) -> None:
        due = self._is_due(Event.VALIDATION, self._plan.validation_period, span=self._plan.window)
        if self._is_at_end or (self._is_at_window_end and due):
            self._validate()

    def _checkpoint_if_due(self) -> None:
        if self._is_at_window_end and self._is_due(
            Event.CHECKPOINT, self._plan.checkpoint_period, span=self._plan.window
        ):
            self._checkpoint()
        stretch = self._plan.stretch
        if stretch is not None and self._clock in stretch.checkpoints:
            self._checkpoint()
            self._stop |= self._clock == stretch.end

    def _validate_if_owed(self) -> None:
        """Validates where a stop came before the validation that its boundary was due."""
        plan, clock = self._plan, self._clock
        due = plan.is_due(plan.validation_period, clock, plan.window) or self._is_at_end
        if due or (clock == 0 and self._config.step_zero_validation):
            self._validate()

    def _hear_callbacks(self) -> None:
        """Ends here where a callback asked for it, rather than after another batch.

        Only where something is due: what ``train_batch`` has asked for would be heard a batch
        earlier in a run that was stopped here than in one that was not.
        """
        if not self._callbacks.listen_to_boundaries or not self._is_at_window_end:
            return
        is_due_in_time = any(self._agreed[event] for event in self._stopwatch.events)
        if is_due_in_time or self._plan.is_boundary(self._clock):
            self._agreement.begin()
            agreed = self._agreement.settle()
            self._stop |= bool(agreed[Event.STOP])
            self._end_early_if(agreed)

    def _end_early_if(self, agreed: list[int]) -> None:
        if agreed[Event.EARLY_END] and self._progress.ended_at is None:
            self._progress.ended_at = self._clock
            # One of this batch may be there, which does not know that it is the last.
            self._checkpointed_batches = None

    # The verbs.

    def _report(self) -> None:
        self._stopwatch.happened(Event.REPORT)
        metrics = self._reporter.training()
        if metrics is not None:
            self._progress.training_metrics = metrics
            self._hear_callbacks()

    def _validate(self) -> None:
        if self._is_validated:
            return
        evaluated = self._evaluator.evaluate()
        if evaluated is None:
            self._stop = True
            return
        self._stopwatch.happened(Event.VALIDATION)
        self._progress.validated_batches = self._clock
        self._progress.validation_metrics = evaluated.metrics
        self._reporter.validation(evaluated)
        self._hear_callbacks()
        improved = self._note_best(evaluated.metrics)
        policy = self._config.checkpoint_policy
        if policy is CheckpointPolicy.ALL or (policy is CheckpointPolicy.BEST and improved):
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
            "epoch": self._clock // self._plan.epoch_length,
            "validation_metrics": validation_metrics,
            "training_metrics": self._progress.training_metrics,
            **self._metadata,
        }
        contents = self._snapshots.capture(self._progress, self._stopwatch.state_dict(), metadata)
        if self._callbacks.listen_to_writing:
            self._write_now(contents, validation_metrics)
        elif contents is not None and self._sink is not None:
            self._sink.save(contents, validation_metrics)

    def _write_now(
        self, contents: CheckpointContents | None, metrics: dict[str, float] | None
    ) -> None:
        """Lets callbacks see a checkpoint on the disk: then everybody waits for it."""
        uuid = None
        if contents is not None and self._sink is not None:
            uuid = self._sink.save_now(
                contents,
                metrics,
                lambda folder: self._callbacks.call("on_checkpoint_write_end", str(folder)),
            )
        uuid = self._collectives.broadcast(uuid, "UUID of the checkpoint")
        if uuid is not None:
            self._callbacks.call("on_checkpoint_upload_end", uuid)

    # What the verbs ask.

    @property
    def _clock(self) -> int:
        return self._execution.batches_completed

    @property
    def _is_at_window_end(self) -> bool:
        return self._clock % self._plan.window == 0

    @property
    def _is_at_end(self) -> bool:
        if self._progress.ended_at is not None:
            return True
        total = self._plan.total_batches
        return self._time_is_up if total is None else self._clock >= total

    @property
    def _is_validated(self) -> bool:
        return self._progress.validated_batches == self._clock

    def _is_due(self, event: Event, unit: Unit | None, span: int) -> bool:
        return bool(self._agreed[event]) or self._plan.is_due(unit, self._clock, span)

    def _note_best(self, metrics: dict[str, float]) -> bool:
        """Notes the searched metric where it is the best so far; NaN never is, a tie neither."""
        searcher, progress = self._config.searcher, self._progress
        if searcher.metric not in metrics:
            self._reporter.warn_once(
                f"no {searcher.metric}",
                f"The validation metrics {sorted(metrics)} have no {searcher.metric!r}, so no "
                "checkpoint can be the best one. Set searcher.metric to one of them.",
            )
            return False
        value, best = metrics[searcher.metric], progress.best_metric
        if not is_better(value, best, searcher.smaller_is_better):
            return False
        progress.best_metric, progress.best_batches = value, self._clock
        return True
