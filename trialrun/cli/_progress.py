"""Shows a running attempt: it reads the records and log files, as any other terminal could.

On a terminal: one live line below what processes print. In a pipe: one plain line for each report.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from trialrun._wording import count
from trialrun.cli._output import format_duration, format_metrics
from trialrun.controller.bookkeeping import (
    CheckpointState,
    Database,
    checkpoints_of_trial,
    get_attempt,
    get_trial,
    log_files_of_trial,
    reports_of_trial,
    validation_metrics_of_trial,
)
from trialrun.controller.checkpoints.best import best_first
from trialrun.controller.config import ExperimentConfig
from trialrun.controller.experiments import PreparedAttempt
from trialrun.controller.launch.failures import without_failures
from trialrun.controller.logs import LogTail
from trialrun.controller.running import Restarted
from trialrun.controller.warm_start import describe_warm_start

_LOOK_SECONDS = 0.2
_MOST_METRICS = 6  # on a line; ``trialrun metrics`` prints all


class TrialView:
    """What the user sees of a trial: its attempts, one after the other.

    Args:
        database: Where it is recorded.
        prepared: Its first attempt.
    """

    def __init__(self, database: Database, prepared: PreparedAttempt) -> None:
        self._database = database
        self._view = AttemptView(database, prepared)
        # Ticks come on another thread than restarts.
        self._lock = threading.Lock()

    def show_start(self) -> None:
        """Says what runs, where it is recorded, and from where it goes on."""
        self._view.show_start()

    def tick(self) -> None:
        """Shows what is new; it is called more often than it looks."""
        with self._lock:
            self._view.tick()

    def show_restart(self, restarted: Restarted) -> None:
        """Says why an attempt ended and from where the next one goes on."""
        restart, prepared = restarted.restart, restarted.prepared
        checkpoint = prepared.checkpoint
        start = "batch 0"
        if checkpoint is not None:
            start = f"batch {checkpoint.batches}, checkpoint {checkpoint.uuid}"
        delay = f", in {restart.delay_seconds:g} s" if restart.delay_seconds else ""
        with self._lock:
            self._view.close()
            self._view = AttemptView(self._database, prepared)
            if restarted.failure.traceback:
                click.echo(restarted.failure.traceback, err=True)
            click.echo(
                f"Restart {restart.number} of {restart.most}{delay}, from {start}: "
                f"{restarted.failure.message}",
                err=True,
            )
            for warning in prepared.warnings:
                click.echo(f"Warning: {warning}", err=True)

    def close(self) -> None:
        """Shows the rest and takes the live line away."""
        self._view.close()


class AttemptView:
    """What the user sees of an attempt.

    Args:
        database: Where it is recorded.
        prepared: The attempt.
    """

    def __init__(self, database: Database, prepared: PreparedAttempt) -> None:
        self._database = database
        self._prepared = prepared
        self._folder = prepared.folder.attempt(prepared.attempt.number)
        self._first_batch = prepared.attempt.first_batch
        self._next_training = self._first_batch + 1
        # Batch 0 is validated where that was asked for; a resume begins with what is owed.
        self._next_validation = self._first_batch + bool(self._is_validated(self._first_batch))
        self._tails: list[LogTail] = []
        self._plan: dict[str, Any] | None = None
        self._last_look = 0.0
        self._latest = ""
        self._started: tuple[float, int] | None = None
        self._live: Progress | None = None
        self._line: TaskID | None = None

    def _is_validated(self, batches: int) -> bool:
        rows = validation_metrics_of_trial(
            self._database, self._prepared.trial.id, start=batches, stop=batches + 1
        )
        return bool(rows)

    def show_start(self) -> None:
        """Says what runs, where it is recorded, and from where it goes on."""
        prepared = self._prepared
        experiment, attempt, config = prepared.experiment, prepared.attempt, prepared.config
        click.echo(
            f"Experiment {experiment.id} ({experiment.name}): seed {prepared.trial.seed}, "
            f"{count(config.slots, 'slot')} on "
            f"{count(attempt.num_processes, 'process')}, "
            f"{count(config.intra_op_threads or 1, 'thread')} each"
        )
        click.echo(f"Records: {self._database.name}")
        click.echo(f"Files: {experiment.directory}")
        checkpoint = prepared.checkpoint
        if checkpoint is None:
            start = "at batch 0"
            if config.from_checkpoint is not None:
                start += f", {describe_warm_start(experiment)}"
            click.echo(f"Start: {start}")
        else:
            click.echo(f"Resumes: at batch {checkpoint.batches}, checkpoint {checkpoint.uuid}")
        for warning in prepared.warnings:
            click.echo(f"Warning: {warning}", err=True)

    def tick(self) -> None:
        """Shows what is new; it is called more often than it looks."""
        if time.monotonic() - self._last_look < _LOOK_SECONDS:
            return
        self._last_look = time.monotonic()
        self._look()

    def close(self) -> None:
        """Shows the rest and takes the live line away."""
        self._look(at_end=True)
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _look(self, at_end: bool = False) -> None:
        self._show_plan()
        if not self._tails:
            self._tails = self._open_tails()
        prefix = len(self._tails) > 1
        for tail in self._tails:
            for line in without_failures(tail.new_lines(at_end), self._folder):
                self._print(f"[process {tail.process}] {line}" if prefix else line)
        if self._plan is not None:
            self._show_reports()
            self._show_progress()

    def _show_plan(self) -> None:
        if self._plan is not None:
            return
        attempt = get_attempt(self._database, self._prepared.attempt.id)
        if attempt.plan is not None:
            self._plan = attempt.plan
            self._print(f"Plan: {attempt.plan['description']}, on {attempt.device}")
            self._start_live_line()

    def _open_tails(self) -> list[LogTail]:
        """Opens the attempt's log files, which are on record as soon as it is launched."""
        rows = log_files_of_trial(self._database, self._prepared.trial.id)
        return [LogTail(row) for row in rows if row.attempt_id == self._prepared.attempt.id]

    def _show_reports(self) -> None:
        trial_id = self._prepared.trial.id
        lines: list[tuple[int, str]] = []
        training, validation = reports_of_trial(
            self._database,
            trial_id,
            first_training=self._next_training,
            first_validation=self._next_validation,
        )
        for row in training:
            self._next_training = row.batches + 1
            self._latest = format_metrics(row.metrics, _MOST_METRICS)
            speed = f", {row.records_per_second:.0f} records/s" if row.records_per_second else ""
            if self._live is None:
                text = f"{self._latest}{speed}{self._time_left(row.batches)}"
                lines.append((row.batches, text))
        for found in validation:
            self._next_validation = found.batches + 1
            metrics = format_metrics(found.metrics, _MOST_METRICS)
            num_records = count(found.num_records or 0, "record")
            lines.append((found.batches, f"validated {num_records}: {metrics}"))
        # The sort is stable: at one batch the report comes before the validation.
        for batches, text in sorted(lines, key=lambda line: line[0]):
            self._print(f"{self._position(batches)}: {text}")

    def _show_progress(self) -> None:
        batches = get_trial(self._database, self._prepared.trial.id).batches_completed
        if self._started is None and batches > self._first_batch:
            self._started = (time.monotonic(), batches)
        if self._live is None or self._line is None:
            return
        self._live.update(
            self._line,
            completed=batches,
            description=f"{self._position(batches)}: {self._latest}"
            f"{self._speed(batches)}{self._time_left(batches)}",
        )

    def _start_live_line(self) -> None:
        if not sys.stdout.isatty():
            return
        assert self._plan is not None
        # Colour and markup stay out: metrics may be named [anything].
        self._live = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            console=Console(highlight=False),
            transient=True,
        )
        self._line = self._live.add_task("", total=self._plan["total_batches"])
        self._live.start()

    def _print(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, markup=False, soft_wrap=True)
        else:
            click.echo(text)

    def _position(self, batches: int) -> str:
        assert self._plan is not None
        total = self._plan["total_batches"]
        length = self._plan["epoch_length"]
        epoch = f" (epoch {batches / length:.2f})" if length else ""
        return f"batch {batches}{f'/{total}' if total else ''}{epoch}"

    def _batches_per_second(self, batches: int) -> float | None:
        if self._started is None:
            return None
        since, first = self._started
        elapsed = time.monotonic() - since
        return (batches - first) / elapsed if batches > first and elapsed > 0 else None

    def _speed(self, batches: int) -> str:
        assert self._plan is not None
        rate = self._batches_per_second(batches)
        size = self._plan["global_batch_size"]
        return f", {rate * size:.0f} records/s" if rate and size else ""

    def _time_left(self, batches: int) -> str:
        assert self._plan is not None
        rate, total = self._batches_per_second(batches), self._plan["total_batches"]
        if not rate or not total:
            return ""
        return f", {format_duration(max(total - batches, 0) / rate)} left"


def show_checkpoints(database: Database, trial_id: int, config: ExperimentConfig) -> None:
    """Says where the newest and the best checkpoint of a trial are."""
    rows = checkpoints_of_trial(database, trial_id, state=CheckpointState.COMPLETED)
    if rows:
        click.echo(f"Latest checkpoint: {rows[0].path}")
    searcher = config.searcher
    for best in best_first(rows, searcher.metric, searcher.smaller_is_better)[:1]:
        value = (best.metrics or {})[searcher.metric]
        click.echo(f"Best checkpoint ({searcher.metric} {value:.6g}): {best.path}")
