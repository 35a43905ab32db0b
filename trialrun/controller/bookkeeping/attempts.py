"""Attempts: at most one runs a trial at a time, whoever asks, and its end is told once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from trialrun._errors import BookkeepingError
from trialrun.controller.bookkeeping.database import Database
from trialrun.controller.bookkeeping.experiments import no_trial
from trialrun.controller.bookkeeping.schema import AttemptRow, LogFileRow, TrialRow
from trialrun.controller.bookkeeping.states import RunState, StopRequest


def claim_trial(
    database: Database,
    trial_id: int,
    *,
    hostname: str,
    pid: int,
    num_processes: int,
    first_batch: int = 0,
    resumed_from: str | None = None,
) -> AttemptRow | None:
    """Takes a trial that is not running and starts its next attempt; safe against every race.

    Args:
        database: Where the trial is recorded.
        trial_id: Which trial.
        hostname: Where the attempt runs.
        pid: Process that stands for the attempt: when it is gone, the attempt is dead.
        num_processes: Physical workers.
        first_batch: Batches completed at the start.
        resumed_from: Uuid of the checkpoint that it starts from.

    Returns:
        The attempt, or None when another attempt runs the trial.

    Raises:
        BookkeepingError: There is no such trial.
    """
    now = datetime.now(UTC)
    take = (
        update(TrialRow)
        .where(TrialRow.id == trial_id, TrialRow.state != RunState.RUNNING)
        .values(
            state=RunState.RUNNING,
            started_at=func.coalesce(TrialRow.started_at, now),
            ended_at=None,
        )
        .returning(TrialRow.id)
    )
    with database.session() as session:
        if session.scalar(take) is None:
            if session.get(TrialRow, trial_id) is None:
                raise BookkeepingError(no_trial(trial_id))
            return None
        last = select(func.max(AttemptRow.number)).where(AttemptRow.trial_id == trial_id)
        attempt = AttemptRow(
            trial_id=trial_id,
            number=(session.scalar(last) or 0) + 1,
            state=RunState.RUNNING,
            hostname=hostname,
            pid=pid,
            num_processes=num_processes,
            first_batch=first_batch,
            resumed_from=resumed_from,
            started_at=now,
        )
        return _added(session, attempt)


def replace_attempt(
    database: Database,
    attempt: AttemptRow,
    state: RunState,
    *,
    error: str,
    error_traceback: str | None,
    first_batch: int,
    resumed_from: str | None,
) -> AttemptRow | None:
    """Ends a running attempt and begins the trial's next one, by the same process, in one moment.

    So nobody sees a trial that does not run, and a stop request goes to the one or to the other.

    Args:
        database: Where the attempt is recorded.
        attempt: The one that has failed.
        state: Its end; not RUNNING.
        error: What went wrong, for people: one line.
        error_traceback: Where it went wrong.
        first_batch: Batches completed at the start of the next one.
        resumed_from: Uuid of the checkpoint that the next one starts from.

    Returns:
        The next attempt; None, and nothing is changed, where the attempt was asked to stop or has
        ended already.
    """
    now = datetime.now(UTC)
    end_attempt = (
        update(AttemptRow)
        .where(
            AttemptRow.id == attempt.id,
            AttemptRow.state == RunState.RUNNING,
            AttemptRow.stop_requested.is_(None),
        )
        .values(state=state, error=error, error_traceback=error_traceback, ended_at=now)
        .returning(AttemptRow.id)
    )
    with database.session() as session:
        if session.scalar(end_attempt) is None:
            return None
        following = AttemptRow(
            trial_id=attempt.trial_id,
            number=attempt.number + 1,
            state=RunState.RUNNING,
            hostname=attempt.hostname,
            pid=attempt.pid,
            num_processes=attempt.num_processes,
            first_batch=first_batch,
            resumed_from=resumed_from,
            started_at=now,
        )
        return _added(session, following)


def _added(session: Session, attempt: AttemptRow) -> AttemptRow:
    """Adds a row and returns it with all its columns, readable after the session."""
    session.add(attempt)
    session.flush()
    session.refresh(attempt)
    return attempt


def finish_attempt(
    database: Database,
    attempt_id: int,
    state: RunState,
    *,
    error: str | None = None,
    error_traceback: str | None = None,
) -> bool:
    """Records how an attempt ended, in it and in its trial; only the first call counts.

    Args:
        database: Where the attempt is recorded.
        attempt_id: Which attempt.
        state: Its end; not RUNNING.
        error: What went wrong, for people: one line.
        error_traceback: Where it went wrong.

    Returns:
        Whether this call ended it; False when it had ended before, or there is no such attempt.
    """
    if state.is_running:
        raise ValueError(f"An attempt cannot end as {state.name}. Give the state that it ended in.")
    now = datetime.now(UTC)
    end_attempt = (
        update(AttemptRow)
        .where(AttemptRow.id == attempt_id, AttemptRow.state == RunState.RUNNING)
        .values(state=state, error=error, error_traceback=error_traceback, ended_at=now)
        .returning(AttemptRow.trial_id)
    )
    with database.session() as session:
        trial_id = session.scalar(end_attempt)
        if trial_id is None:
            return False
        session.execute(
            update(TrialRow).where(TrialRow.id == trial_id).values(state=state, ended_at=now)
        )
        return True


def request_stop(
    database: Database, attempt_id: int, request: StopRequest = StopRequest.PAUSE
) -> bool:
    """Asks a running attempt to stop at its next batch boundary.

    Returns:
        Whether it was running, so that it will hear.
    """
    ask = (
        update(AttemptRow)
        .where(AttemptRow.id == attempt_id, AttemptRow.state == RunState.RUNNING)
        .values(stop_requested=request)
        .returning(AttemptRow.id)
    )
    with database.session() as session:
        return session.scalar(ask) is not None


def get_attempt(database: Database, attempt_id: int) -> AttemptRow:
    """Finds an attempt by its id.

    Raises:
        BookkeepingError: There is none.
    """
    with database.snapshot() as session:
        attempt = session.get(AttemptRow, attempt_id)
    if attempt is None:
        raise BookkeepingError(
            f"There is no attempt with the id {attempt_id}. `trialrun show` lists an experiment's."
        )
    return attempt


def attempts_of_trial(database: Database, trial_id: int) -> list[AttemptRow]:
    """Lists the attempts at a trial, the first one first."""
    query = select(AttemptRow).where(AttemptRow.trial_id == trial_id).order_by(AttemptRow.number)
    with database.snapshot() as session:
        return list(session.scalars(query))


def running_attempts(database: Database, *, trial_id: int | None = None) -> list[AttemptRow]:
    """Lists the attempts that are recorded as running, of one trial or of all.

    A process that died without a word is still among them, until ``finish_attempt`` says DEAD.
    """
    query = select(AttemptRow).where(AttemptRow.state == RunState.RUNNING).order_by(AttemptRow.id)
    if trial_id is not None:
        query = query.where(AttemptRow.trial_id == trial_id)
    with database.snapshot() as session:
        return list(session.scalars(query))


def add_log_file(database: Database, attempt_id: int, *, process: int, path: Path) -> None:
    """Records where a process of an attempt writes what it prints."""
    with database.session() as session:
        session.add(LogFileRow(attempt_id=attempt_id, process=process, path=str(path.absolute())))


def log_files_of_trial(database: Database, trial_id: int) -> list[LogFileRow]:
    """Lists the log files of a trial: the first attempt first, then by process."""
    query = (
        select(LogFileRow)
        .join(AttemptRow, AttemptRow.id == LogFileRow.attempt_id)
        .where(AttemptRow.trial_id == trial_id)
        .order_by(AttemptRow.number, LogFileRow.process)
    )
    with database.snapshot() as session:
        return list(session.scalars(query))
