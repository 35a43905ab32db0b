"""Writes reported metrics as TensorBoard events, on a thread of its own.

Importing TensorBoard takes some tenths of a second, and a disk may take any time; training waits
for neither. Training metrics keep their names, validation metrics begin with ``val_``. The records
are what counts: where events cannot be written, that is said once, and training goes on.
"""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from trialrun._tensorboard import TensorBoard
from trialrun.controller.checkpoints.contents import CheckpointContents
from trialrun.controller.engine.loop import CheckpointSink
from trialrun.controller.engine.reports.reporting import Journal

logger = logging.getLogger(__name__)

_VALIDATION_PREFIX = "val_"


class TensorBoardLog:
    """The chief's thread that writes events.

    Args:
        tensorboard: Where they go, and whether the trial wants them.
    """

    def __init__(self, tensorboard: TensorBoard) -> None:
        self._tensorboard = tensorboard
        # It starts its thread at the first task.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="tensorboard")
        self._has_written = False
        self._has_failed = False

    def write(self, metrics: Mapping[str, float], batches: int) -> None:
        """Writes metrics soon, if the trial wants it."""
        if self._tensorboard.can_log_metrics and not self._has_failed:
            self._has_written = True
            copied = dict(metrics)
            self._do(lambda: self._tensorboard.writer().log_metrics(copied, batches))

    def flush(self) -> concurrent.futures.Future[None] | None:
        """Hands everything to the operating system soon.

        Returns:
            What says when that is done, and never fails; None where there is nothing.
        """
        return self._do(self._tensorboard.flush) if self._is_in_use else None

    def close(self) -> None:
        """Waits until everything is written."""
        if self._is_in_use:
            self._do(self._tensorboard.close)
        self._thread.shutdown()

    @property
    def _is_in_use(self) -> bool:
        return self._has_written or self._tensorboard.has_writer

    def _do(self, task: Callable[[], None]) -> concurrent.futures.Future[None]:
        return self._thread.submit(self._attempt, task)

    def _attempt(self, task: Callable[[], None]) -> None:
        try:
            task()
        except Exception as error:  # of the disk, or of another release of tensorboard
            if not self._has_failed:
                logger.warning(
                    "TensorBoard's events cannot be written: %s: %s. Metrics are on record all the "
                    "same; see them with: trialrun metrics",
                    type(error).__name__,
                    error,
                )
            self._has_failed = True


class TensorBoardJournal:
    """A journal that also writes the metrics that it hears of as events.

    Args:
        journal: Where all is written down.
        log: Where metrics go besides.
    """

    def __init__(self, journal: Journal, log: TensorBoardLog) -> None:
        self._journal = journal
        self._log = log

    def progress(self, batches_completed: int) -> None:
        """Takes note of the clock."""
        self._journal.progress(batches_completed)

    def training_metrics(
        self,
        *,
        batches: int,
        epoch: int,
        metrics: dict[str, float],
        records_per_second: float | None,
    ) -> None:
        """Takes the reduced metrics of a reporting period."""
        self._journal.training_metrics(
            batches=batches,
            epoch=epoch,
            metrics=metrics,
            records_per_second=records_per_second,
        )
        self._log.write(metrics, batches)

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
        self._journal.validation_metrics(
            batches=batches,
            epoch=epoch,
            metrics=metrics,
            num_records=num_records,
            duration_seconds=duration_seconds,
        )
        self._log.write({_validation_name(name): value for name, value in metrics.items()}, batches)


class CheckpointWriter(CheckpointSink, Protocol):
    """A checkpoint sink that lets others finish before a checkpoint counts."""

    def save(
        self,
        contents: CheckpointContents,
        metrics: dict[str, float] | None,
        on_written: Callable[[Path], None] | None = None,
    ) -> None:
        """Starts writing a checkpoint, which is recorded after ``on_written`` has returned."""


class TensorBoardSink:
    """A checkpoint sink that has the events of a checkpoint's batches on the disk before it counts.

    A resume from it does not write them again. The loop waits for neither.

    Args:
        writer: Where checkpoints go.
        log: What is flushed.
    """

    def __init__(self, writer: CheckpointWriter, log: TensorBoardLog) -> None:
        self._writer = writer
        self._log = log

    def save(self, contents: CheckpointContents, metrics: dict[str, float] | None) -> None:
        """Starts writing a checkpoint."""
        flushed = self._log.flush()
        if flushed is None:
            self._writer.save(contents, metrics)
        else:
            self._writer.save(contents, metrics, lambda folder: flushed.result())

    def save_now(
        self,
        contents: CheckpointContents,
        metrics: dict[str, float] | None,
        on_written: Callable[[Path], None],
    ) -> str | None:
        """Writes a checkpoint while the caller waits."""
        flushed = self._log.flush()

        def written(folder: Path) -> None:
            on_written(folder)
            if flushed is not None:
                flushed.result()

        return self._writer.save_now(contents, metrics, written)


def _validation_name(name: str) -> str:
    return name if name.startswith(_VALIDATION_PREFIX) else _VALIDATION_PREFIX + name
