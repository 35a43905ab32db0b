"""Writes down what a training process reports, in the background, and loses none of it."""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, select

from trialrun._errors import BookkeepingError
from trialrun._wording import count
from trialrun.controller.bookkeeping._pending import Pending
from trialrun.controller.bookkeeping.database import Database
from trialrun.controller.bookkeeping.schema import AttemptRow
from trialrun.controller.bookkeeping.states import CheckpointState, StopRequest

_logger = logging.getLogger(__name__)

# Between commits: what a reader lags behind, at most. Each costs the loop's process 2 ms.
_COMMIT_SECONDS = 0.5
_PROGRESS_SECONDS = 0.5  # between writes of the clock alone
_POLL_SECONDS = 0.5  # between looks for a stop request
_RETRY_SECONDS = 0.25  # between tries while the database cannot be written
# Shorter than elsewhere: while another process writes, stop requests can still be read.
_LOCK_TIMEOUT_SECONDS = 1.0
# For a database that another program has locked: what was trained meanwhile is worth the wait.
_CLOSE_SECONDS = 600.0
_ABANDON_SECONDS = 5.0  # for the thread to see that close() has given up


class Recorder:
    """The background writer of one attempt.

    Each reporting method puts a value in a queue and returns: it waits neither for the disk nor for
    another process. One thread writes the queue, everything that came within half a second in one
    transaction. When the database is locked or the disk is full it keeps the values, warns once and
    tries again.

    Use it in a ``with`` block. At its end, however it ends, everything queued is on disk; so it is
    when the interpreter ends without ``close``. (A process that ends by ``os._exit``, as a
    ``multiprocessing`` child does, has only the ``with`` block.)
    """

    # Whose records: fixed.
    _database: Database
    _trial_id: int
    _attempt_id: int
    _pid: int  # the thread lives in this process only, not in a forked child

    # The queue, under the condition's lock. The thread takes all of it, as one batch.
    _condition: threading.Condition
    _queued: Pending
    _batch: Pending  # taken, and not known to be on disk yet
    _num_taken: int  # batches
    _num_written: int  # batches
    _flush_target: int  # number of batches that somebody waits for
    _failure: Exception | None  # why the last try failed; None after a success

    # The end.
    _is_closing: bool  # no more reports: write what there is, and end
    _is_abandoned: bool  # close() waits no longer
    _is_closed: bool

    def __init__(
        self,
        database: Database,
        attempt: AttemptRow,
        *,
        on_stop: Callable[[StopRequest], None] | None = None,
    ) -> None:
        """Starts the thread.

        Args:
            database: Where the attempt is recorded.
            attempt: Whose values these are.
            on_stop: Called once, on the recorder's thread, when somebody asks the attempt to stop.
        """
        self._database = database
        self._trial_id = attempt.trial_id
        self._attempt_id = attempt.id
        self._pid = os.getpid()
        self._condition = threading.Condition()
        self._queued = Pending()
        self._batch = Pending()
        self._num_taken = 0
        self._num_written = 0
        self._flush_target = 0
        self._failure = None
        self._is_closing = False
        self._is_abandoned = False
        self._is_closed = False
        self._newest_progress: int | None = None
        self._queued_progress: int | None = None
        self._next_progress = time.monotonic()
        self._on_stop = on_stop
        self._next_poll = time.monotonic()
        # A daemon, as Python waits for other threads *before* it runs atexit's functions.
        self._thread = threading.Thread(target=self._run, name="trialrun-recorder", daemon=True)
        atexit.register(self.close)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except BookkeepingError as failure:
            if error is None:
                raise
            _logger.error("%s", failure)  # the error that ended the block matters more

    # What the training process reports.

    def training_metrics(
        self,
        *,
        batches: int,
        epoch: int,
        metrics: Mapping[str, float],
        records_per_second: float | None = None,
    ) -> None:
        """Queues training metrics; a second report for the same batches replaces the first.

        Args:
            batches: Batches completed.
            epoch: Epoch of the last batch, counted from 0.
            metrics: By name; anything that ``float`` takes.
            records_per_second: Speed since the last report.
        """
        row = self._row(batches=int(batches), epoch=int(epoch), metrics=_floats(metrics))
        row.update(records_per_second=records_per_second, reported_at=datetime.now(UTC))
        with self._condition:
            self._open_queue().training_metrics.append(row)

    def validation_metrics(
        self,
        *,
        batches: int,
        epoch: int,
        metrics: Mapping[str, float],
        num_records: int | None,
        duration_seconds: float,
    ) -> None:
        """Queues validation metrics; a second report for the same batches replaces the first.

        Args:
            batches: Batches completed.
            epoch: Epoch of the last batch, counted from 0.
            metrics: By name; anything that ``float`` takes.
            num_records: Size of the validation set, if it is known.
            duration_seconds: How long it took.
        """
        row = self._row(batches=int(batches), epoch=int(epoch), metrics=_floats(metrics))
        row.update(
            num_records=num_records,
            duration_seconds=duration_seconds,
            reported_at=datetime.now(UTC),
        )
        with self._condition:
            self._open_queue().validation_metrics.append(row)

    def progress(self, batches_completed: int) -> None:
        """Takes note of the trial's clock; only the newest value is written, twice a second.

        It is called for every batch, so it takes no lock: one assignment is whole or absent.
        """
        self._newest_progress = batches_completed

    def plan(self, plan: dict[str, Any], *, total_batches: int | None, device: str) -> None:
        """Queues how the attempt will run.

        Args:
            plan: As JSON.
            total_batches: At which the trial is complete; None if its length is a time.
            device: What it runs on, in words.
        """
        plan = _json(plan)
        with self._condition:
            queue = self._open_queue()
            queue.attempt.update(plan=plan, device=device)
            queue.trial["total_batches"] = total_batches

    def training_started(self) -> None:
        """Queues that the first batch starts now."""
        with self._condition:
            self._open_queue().attempt["training_started_at"] = datetime.now(UTC)

    def checkpoint(
        self,
        *,
        uuid: str,
        batches: int,
        digest: str,
        size_bytes: int,
        path: Path,
        files: dict[str, dict[str, Any]],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Queues a checkpoint that is whole on disk; what was reported before it comes no later.

        Args:
            uuid: In 36 lower-case characters.
            batches: Batches completed.
            digest: Of its tensors.
            size_bytes: Of all its files.
            path: Its folder.
            files: ``{name: {"size_bytes": int, "blake3": hex}}``.
            metrics: Validation metrics of the same batch, if there are some.
        """
        row = self._row(
            uuid=uuid,
            batches=batches,
            state=CheckpointState.COMPLETED,
            digest=digest,
            size_bytes=size_bytes,
            path=str(path.absolute()),
            files=_json(files),
            metrics=None if metrics is None else _floats(metrics),
            created_at=datetime.now(UTC),
        )
        with self._condition:
            self._open_queue().checkpoints.append(row)

    def checkpoint_state(self, uuid: str, state: CheckpointState) -> None:
        """Queues what became of a checkpoint's files."""
        with self._condition:
            self._open_queue().checkpoint_states[uuid] = state

    # Waiting for the disk.

    @property
    def is_held_up(self) -> bool:
        """Whether the last try to write failed, such as on a locked database."""
        return self._failure is not None

    def flush(self, timeout_seconds: float = 60.0) -> None:
        """Waits until everything queued so far is on disk.

        Args:
            timeout_seconds: How long to wait at most.

        Raises:
            BookkeepingError: It is not, and why; the values are kept, and tried again.
        """
        self._check_process()
        with self._condition:
            self._queue_progress()
            target = self._num_taken + (1 if self._queued else 0)
            self._flush_target = max(self._flush_target, target)
            self._condition.notify_all()
            if not self._condition.wait_for(lambda: self._num_written >= target, timeout_seconds):
                raise BookkeepingError(
                    f"{self._held()} not on disk after {timeout_seconds:g} seconds: "
                    f"{self._reason()} They are kept, and tried again."
                )

    def close(self, timeout_seconds: float = _CLOSE_SECONDS) -> None:
        """Writes everything queued and ends the thread; later calls do nothing.

        Args:
            timeout_seconds: How long to try at most.

        Raises:
            BookkeepingError: Something could not be written in this time, and why. It is lost; when
                the trial is resumed from its last recorded checkpoint, it is reported again.
        """
        if self._is_closed or os.getpid() != self._pid:
            return
        with self._condition:
            self._is_closing = True
            self._condition.notify_all()
        self._thread.join(timeout_seconds)
        with self._condition:
            self._is_abandoned = True
            self._condition.notify_all()
        self._thread.join(_ABANDON_SECONDS)
        self._is_closed = True
        atexit.unregister(self.close)
        if self._queued or self._batch:
            raise BookkeepingError(
                f"{self._held()} not on disk after {timeout_seconds:g} seconds, and lost: "
                f"{self._reason()} Then resume the trial: it reports them again."
            )

    # On the caller's thread, under the lock.

    def _open_queue(self) -> Pending:
        self._check_process()
        if self._is_closing:
            raise RuntimeError(
                f"The recorder of attempt {self._attempt_id} is closed. Report before its end."
            )
        return self._queued

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"The recorder of attempt {self._attempt_id} belongs to process {self._pid}, and "
                f"this is process {os.getpid()}. Report from the process that made it."
            )

    def _row(self, **values: Any) -> dict[str, Any]:
        return {"trial_id": self._trial_id, "attempt_id": self._attempt_id, **values}

    def _held(self) -> str:
        held = len(self._queued) + len(self._batch)
        verb = "is" if held == 1 else "are"
        return f"{count(held, 'value')} reported by attempt {self._attempt_id} {verb}"

    def _reason(self) -> str:
        return str(self._failure) if self._failure else "Its disk is slow. Try again."

    # On the recorder's thread.

    def _run(self) -> None:
        while True:
            try:
                # After a failure nothing is known about a connection, so each has its own.
                with self._database.connect(
                    lock_timeout_seconds=_LOCK_TIMEOUT_SECONDS
                ) as connection:
                    self._serve(connection)
                return
            except Exception as failure:  # whatever it was: the values are kept
                self._note_failure(failure)
            with self._condition:
                if not self._is_abandoned:
                    self._condition.wait(_RETRY_SECONDS)
                if self._is_abandoned:
                    return

    def _serve(self, connection: Connection) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(self._is_urgent, _COMMIT_SECONDS)
                if self._queued or self._is_urgent() or time.monotonic() >= self._next_progress:
                    self._queue_progress()
                if self._queued and not self._batch:
                    self._batch, self._queued = self._queued, Pending()
                    self._num_taken += 1
                is_last = self._is_closing and not self._queued
            if self._batch:
                with self._database.session(connection) as session:
                    self._batch.write(session, trial_id=self._trial_id, attempt_id=self._attempt_id)
                self._note_success()
            if is_last:
                return
            self._look_for_stop_request(connection)

    def _queue_progress(self) -> None:
        """Puts the clock into the queue, under the lock."""
        self._next_progress = time.monotonic() + _PROGRESS_SECONDS
        batches = self._newest_progress
        if batches != self._queued_progress:
            self._queued.trial["batches_completed"] = batches
            self._queued_progress = batches

    def _is_urgent(self) -> bool:
        return self._is_closing or self._flush_target > self._num_written

    def _note_success(self) -> None:
        with self._condition:
            self._batch = Pending()
            self._num_written += 1
            had_failed = self._failure is not None
            self._failure = None
            self._condition.notify_all()
        if had_failed:
            _logger.warning("The records of attempt %d are written again.", self._attempt_id)

    def _note_failure(self, failure: Exception) -> None:
        with self._condition:
            is_first = self._failure is None
            self._failure = failure
        if is_first:
            _logger.warning(
                "The records of attempt %d cannot be written; they are kept, and tried again. %s",
                self._attempt_id,
                failure,
            )

    def _look_for_stop_request(self, connection: Connection) -> None:
        if self._on_stop is None or time.monotonic() < self._next_poll:
            return
        self._next_poll = time.monotonic() + _POLL_SECONDS
        with self._database.snapshot(connection) as session:
            request = session.scalar(
                select(AttemptRow.stop_requested).where(AttemptRow.id == self._attempt_id)
            )
        if request is None:
            return
        on_stop, self._on_stop = self._on_stop, None
        try:
            on_stop(request)
        except Exception:
            _logger.exception("The stop request of attempt %d found no ear.", self._attempt_id)


def _json(value: dict[str, Any]) -> dict[str, Any]:
    # A copy, for the same two reasons as below.
    copy: dict[str, Any] = json.loads(json.dumps(value))
    return copy


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
    # A copy, as the caller may go on with the mapping; and a bad value fails at its report.
    return {name: float(value) for name, value in metrics.items()}
