from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from python_start import call_in_processes

from trialrun._errors import BookkeepingError
from trialrun.controller.bookkeeping import (
    AttemptRow,
    Database,
    RunState,
    StopRequest,
    TrialRow,
    add_log_file,
    attempts_of_trial,
    claim_trial,
    finish_attempt,
    get_attempt,
    get_trial,
    log_files_of_trial,
    replace_attempt,
    request_stop,
    running_attempts,
)

from .conftest import new_attempt, new_experiment


def test_claim_starts_an_attempt_and_finish_ends_both(database: Database, trial: TrialRow) -> None:
    attempt = claim_trial(
        database,
        trial.id,
        hostname="here",
        pid=42,
        num_processes=2,
        first_batch=10,
        resumed_from="0" * 36,
    )
    assert attempt is not None
    assert (attempt.number, attempt.state) == (1, RunState.RUNNING)
    assert (attempt.hostname, attempt.pid, attempt.num_processes) == ("here", 42, 2)
    assert (attempt.first_batch, attempt.resumed_from) == (10, "0" * 36)
    running = get_trial(database, trial.id)
    assert (running.state, running.started_at) == (RunState.RUNNING, attempt.started_at)

    assert finish_attempt(
        database, attempt.id, RunState.ERROR, error="It broke.", error_traceback="at line 1"
    )
    ended = get_attempt(database, attempt.id)
    assert (ended.state, ended.error, ended.error_traceback) == (
        RunState.ERROR,
        "It broke.",
        "at line 1",
    )
    trial = get_trial(database, trial.id)
    assert trial.state is RunState.ERROR
    assert trial.ended_at == ended.ended_at is not None


def test_resumed_trial_keeps_its_first_start_and_counts_attempts(
    database: Database, attempt: AttemptRow
) -> None:
    finish_attempt(database, attempt.id, RunState.PAUSED)
    second = new_attempt(database, attempt.trial_id)
    assert second.number == 2
    trial = get_trial(database, attempt.trial_id)
    assert (trial.state, trial.started_at, trial.ended_at) == (
        RunState.RUNNING,
        attempt.started_at,
        None,
    )
    assert [row.id for row in attempts_of_trial(database, trial.id)] == [attempt.id, second.id]


def test_only_the_first_end_counts(database: Database, attempt: AttemptRow) -> None:
    assert finish_attempt(database, attempt.id, RunState.KILLED)
    assert not finish_attempt(database, attempt.id, RunState.DEAD)
    second = new_attempt(database, attempt.trial_id)
    assert not finish_attempt(database, attempt.id, RunState.DEAD)  # must not end the second
    assert get_attempt(database, attempt.id).state is RunState.KILLED
    assert get_attempt(database, second.id).state is RunState.RUNNING
    assert get_trial(database, attempt.trial_id).state is RunState.RUNNING


def test_attempt_cannot_end_as_running(database: Database, attempt: AttemptRow) -> None:
    with pytest.raises(ValueError, match="cannot end as RUNNING"):
        finish_attempt(database, attempt.id, RunState.RUNNING)


def test_unknown_trial_or_attempt_is_an_error(database: Database) -> None:
    with pytest.raises(BookkeepingError, match="There is no trial 5"):
        claim_trial(database, 5, hostname="here", pid=1, num_processes=1)
    with pytest.raises(BookkeepingError, match="There is no attempt with the id 5"):
        get_attempt(database, 5)


def test_one_of_many_threads_wins_the_claim(database: Database, trial: TrialRow) -> None:
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda pid: _claim(database.url, trial.id, pid), range(16)))
    _check_one_winner(database, trial, won)


def test_one_of_many_processes_wins_the_claim(database: Database, trial: TrialRow) -> None:
    won = call_in_processes(_claim, [(database.url, trial.id, pid) for pid in range(6)])
    _check_one_winner(database, trial, won)


def _claim(url: str, trial_id: int, pid: int) -> int | None:
    database = Database.open(url)
    attempt = claim_trial(database, trial_id, hostname="here", pid=pid, num_processes=1)
    return None if attempt is None else attempt.pid


def _check_one_winner(database: Database, trial: TrialRow, won: list[int | None]) -> None:
    winners = [pid for pid in won if pid is not None]
    assert len(winners) == 1
    assert [row.pid for row in attempts_of_trial(database, trial.id)] == winners


def test_stop_is_requested_of_running_attempts_only(
    database: Database, attempt: AttemptRow
) -> None:
    assert request_stop(database, attempt.id)
    assert get_attempt(database, attempt.id).stop_requested is StopRequest.PAUSE
    finish_attempt(database, attempt.id, RunState.PAUSED)
    assert not request_stop(database, attempt.id)


def test_running_attempts_are_listed(database: Database, attempt: AttemptRow) -> None:
    other = new_attempt(database, new_experiment(database)[1].id)
    ids = [row.id for row in running_attempts(database)]
    assert ids == [attempt.id, other.id]
    assert [row.id for row in running_attempts(database, trial_id=other.trial_id)] == [other.id]
    finish_attempt(database, attempt.id, RunState.COMPLETED)
    assert [row.id for row in running_attempts(database)] == [other.id]


def test_log_files_are_listed_by_attempt_and_process(
    database: Database, attempt: AttemptRow
) -> None:
    finish_attempt(database, attempt.id, RunState.DEAD)
    second = new_attempt(database, attempt.trial_id)
    for row, process in ((second, 0), (attempt, 1), (attempt, 0)):
        path = Path(f"/logs/{row.number}-{process}.log")
        add_log_file(database, row.id, process=process, path=path)
    paths = [row.path for row in log_files_of_trial(database, attempt.trial_id)]
    assert paths == ["/logs/1-0.log", "/logs/1-1.log", "/logs/2-0.log"]


def replace(database: Database, attempt: AttemptRow) -> AttemptRow | None:
    return replace_attempt(
        database,
        attempt,
        RunState.ERROR,
        error="Process 1 was killed.",
        error_traceback=None,
        first_batch=8,
        resumed_from="1" * 36,
    )


def test_an_attempt_is_replaced_while_its_trial_runs_on(
    database: Database, trial: TrialRow
) -> None:
    first = new_attempt(database, trial.id)
    second = replace(database, first)
    assert second is not None
    assert (second.number, second.first_batch, second.resumed_from) == (2, 8, "1" * 36)
    assert (second.hostname, second.pid, second.num_processes) == ("here", 1, 1)
    assert second.stop_requested is None
    ended = get_attempt(database, first.id)
    assert (ended.state, ended.error) == (RunState.ERROR, "Process 1 was killed.")
    assert ended.ended_at == second.started_at
    assert [row.id for row in running_attempts(database)] == [second.id]
    running = get_trial(database, trial.id)
    assert (running.state, running.ended_at) == (RunState.RUNNING, None)


def test_an_attempt_that_was_asked_to_stop_is_not_replaced(
    database: Database, trial: TrialRow
) -> None:
    attempt = new_attempt(database, trial.id)
    assert request_stop(database, attempt.id)
    assert replace(database, attempt) is None
    assert [row.id for row in running_attempts(database)] == [attempt.id]


def test_an_attempt_that_has_ended_is_not_replaced(database: Database, trial: TrialRow) -> None:
    attempt = new_attempt(database, trial.id)
    assert finish_attempt(database, attempt.id, RunState.KILLED)
    assert replace(database, attempt) is None
    assert [row.state for row in attempts_of_trial(database, trial.id)] == [RunState.KILLED]
