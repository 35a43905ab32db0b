from __future__ import annotations

import logging
import os
import sqlite3
import threading
from pathlib import Path

import pytest
from python_start import run_python
from sqlalchemy import delete

from trialrun._errors import BookkeepingError
from trialrun.controller.bookkeeping import (
    AttemptRow,
    CheckpointState,
    Database,
    ExperimentRow,
    Recorder,
    StopRequest,
    get_attempt,
    get_checkpoint,
    get_trial,
    recorder,
    request_stop,
    training_metrics_of_trial,
)

UUID = "aaaa1111-0000-4000-8000-000000000001"
WAIT_SECONDS = 30.0


def report(writer: Recorder, start: int, stop: int) -> None:
    for batches in range(start, stop):
        writer.training_metrics(
            batches=batches, epoch=0, metrics={"loss": 1 / batches}, records_per_second=9.5
        )
        writer.progress(batches)


def reported_batches(database: Database, attempt: AttemptRow) -> list[int]:
    return [row.batches for row in training_metrics_of_trial(database, attempt.trial_id)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a locked database show at once."""
    monkeypatch.setattr(recorder, "_LOCK_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(recorder, "_RETRY_SECONDS", 0.05)


def test_everything_is_on_disk_after_the_block(database: Database, attempt: AttemptRow) -> None:
    with Recorder(database, attempt) as writer:
        writer.plan({"slots": 4}, total_batches=5000, device="2 x H200")
        writer.training_started()
        report(writer, 1, 5001)
    rows = training_metrics_of_trial(database, attempt.trial_id)
    assert [row.batches for row in rows] == list(range(1, 5001))
    assert rows[3].metrics == {"loss": 0.25}
    assert (rows[3].records_per_second, rows[3].attempt_id) == (9.5, attempt.id)
    assert rows[3].reported_at >= attempt.started_at
    trial = get_trial(database, attempt.trial_id)
    assert (trial.batches_completed, trial.total_batches) == (5000, 5000)
    ended = get_attempt(database, attempt.id)
    assert (ended.plan, ended.device) == ({"slots": 4}, "2 x H200")
    assert ended.training_started_at is not None


def test_everything_is_on_disk_after_an_error_in_the_block(
    database: Database, attempt: AttemptRow
) -> None:
    with pytest.raises(KeyboardInterrupt), Recorder(database, attempt) as writer:
        report(writer, 1, 1001)
        raise KeyboardInterrupt
    assert reported_batches(database, attempt) == list(range(1, 1001))


@pytest.mark.parametrize("end", ["sys.exit(3)", "raise SystemError", "pass"])
def test_everything_is_on_disk_after_the_interpreter_ended_without_close(
    database: Database, attempt: AttemptRow, end: str
) -> None:
    script = (
        "import sys\n"
        "from trialrun.controller.bookkeeping import Database, Recorder, get_attempt\n"
        f"database = Database.open({database.url!r})\n"
        f"recorder = Recorder(database, get_attempt(database, {attempt.id}))\n"
        "for batches in range(1, 2001):\n"
        "    recorder.training_metrics(batches=batches, epoch=0, metrics={'loss': 0.5})\n"
        f"{end}\n"
    )
    run_python("-c", script)
    assert reported_batches(database, attempt) == list(range(1, 2001))


def test_flush_leaves_the_recorder_open(database: Database, attempt: AttemptRow) -> None:
    with Recorder(database, attempt) as writer:
        for start in (1, 101, 201):
            report(writer, start, start + 100)
            writer.flush()
            assert reported_batches(database, attempt) == list(range(1, start + 100))
        writer.flush()


def test_threads_may_report_at_once(database: Database, attempt: AttemptRow) -> None:
    with Recorder(database, attempt) as writer:
        threads = [
            threading.Thread(target=report, args=(writer, start, start + 500))
            for start in (1, 501, 1001, 1501)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert reported_batches(database, attempt) == list(range(1, 2001))


def test_checkpoint_and_its_later_state_may_share_a_commit(
    database: Database, attempt: AttemptRow
) -> None:
    with Recorder(database, attempt) as writer:
        writer.checkpoint(
            uuid=UUID, batches=1, digest="d", size_bytes=1, path=Path("/c"), files={}, metrics=None
        )
        writer.checkpoint_state(UUID, CheckpointState.DELETED)
    assert get_checkpoint(database, UUID).state is CheckpointState.DELETED


def test_metrics_may_be_changed_after_their_report(database: Database, attempt: AttemptRow) -> None:
    metrics = {"loss": 1.0}
    with Recorder(database, attempt) as writer:
        writer.training_metrics(batches=1, epoch=0, metrics=metrics)
        metrics["loss"] = 2.0
    assert training_metrics_of_trial(database, attempt.trial_id)[0].metrics == {"loss": 1.0}


def test_bad_value_fails_where_it_is_reported(database: Database, attempt: AttemptRow) -> None:
    with Recorder(database, attempt) as writer:
        with pytest.raises(TypeError):
            writer.training_metrics(batches=1, epoch=0, metrics={"loss": None})  # type: ignore[dict-item]
        with pytest.raises(TypeError):
            writer.plan({"device": object()}, total_batches=1, device="cpu")
        report(writer, 1, 4)
    assert reported_batches(database, attempt) == [1, 2, 3]


@pytest.mark.usefixtures("impatient")
def test_locked_database_loses_nothing_and_warns_once(
    database: Database, attempt: AttemptRow, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    other = sqlite3.connect(file, isolation_level=None)
    with Recorder(database, attempt) as writer:
        other.execute("BEGIN EXCLUSIVE")
        report(writer, 1, 101)
        with pytest.raises(BookkeepingError, match="database is locked.*kept, and tried again"):
            writer.flush(timeout_seconds=1.0)
        report(writer, 101, 201)
        other.execute("ROLLBACK")
        writer.flush(WAIT_SECONDS)
        report(writer, 201, 301)
    other.close()
    assert reported_batches(database, attempt) == list(range(1, 301))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert f"attempt {attempt.id} cannot be written; they are kept, and tried again" in messages[0]
    assert "are written again" in messages[1]


def test_full_disk_loses_nothing(database: Database, attempt: AttemptRow) -> None:
    # In its own process, as the limit on the size of files stands for the disk.
    script = (
        "import resource\n"
        "from trialrun._errors import BookkeepingError\n"
        "from trialrun.controller.bookkeeping import Database, Recorder, get_attempt\n"
        f"database = Database.open({database.url!r})\n"
        f"with Recorder(database, get_attempt(database, {attempt.id})) as recorder:\n"
        "    recorder.flush()\n"
        "    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, unlimited[1]))\n"
        "    for batches in range(1, 5001):\n"
        "        recorder.training_metrics(batches=batches, epoch=0, metrics={'loss': 0.5})\n"
        "    try:\n"
        "        recorder.flush(timeout_seconds=1.0)\n"
        "    except BookkeepingError as error:\n"
        "        print(error)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)\n"
    )
    ended = run_python("-c", script)
    assert ended.returncode == 0, ended.stderr
    assert "Check its disk: is it full, or gone?" in ended.stdout
    assert reported_batches(database, attempt) == list(range(1, 5001))


@pytest.mark.usefixtures("impatient")
def test_close_on_a_locked_database_waits_for_its_turn(
    database: Database, attempt: AttemptRow, file: Path
) -> None:
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(0.5, other.execute, ("ROLLBACK",))
    release.start()
    with Recorder(database, attempt) as writer:
        report(writer, 1, 101)
    release.join()
    other.close()
    assert reported_batches(database, attempt) == list(range(1, 101))


@pytest.mark.usefixtures("impatient")
def test_close_says_what_is_lost_when_its_time_is_up(
    database: Database, attempt: AttemptRow, file: Path
) -> None:
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    writer = Recorder(database, attempt)
    writer.training_metrics(batches=1, epoch=0, metrics={})
    writer.training_metrics(batches=2, epoch=0, metrics={})
    with pytest.raises(BookkeepingError, match="^2 values .* lost: .*locked.* Then resume"):
        writer.close(timeout_seconds=0.5)
    other.close()
    writer.close()
    with pytest.raises(RuntimeError, match="is closed. Report before its end"):
        writer.training_metrics(batches=3, epoch=0, metrics={})


@pytest.mark.usefixtures("impatient")
def test_error_in_the_block_is_not_hidden_by_the_recorders_own(
    database: Database,
    attempt: AttemptRow,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with database.session() as session:
        session.execute(delete(ExperimentRow))  # so no row can be written for the attempt
    with pytest.raises(ValueError, match="mine"), Recorder(database, attempt) as writer:
        close = writer.close
        monkeypatch.setattr(writer, "close", lambda: close(0.5))
        report(writer, 1, 3)
        raise ValueError("mine")
    assert "and lost: " in caplog.records[-1].getMessage()


def test_stop_request_is_heard_once(database: Database, attempt: AttemptRow) -> None:
    heard: list[StopRequest] = []
    is_heard = threading.Event()

    def on_stop(request: StopRequest) -> None:
        heard.append(request)
        is_heard.set()

    with Recorder(database, attempt, on_stop=on_stop) as writer:
        assert request_stop(database, attempt.id)
        assert is_heard.wait(WAIT_SECONDS)
        report(writer, 1, 3)
        writer.flush()
    assert heard == [StopRequest.PAUSE]


def test_error_of_the_stop_callback_loses_nothing(database: Database, attempt: AttemptRow) -> None:
    is_heard = threading.Event()

    def on_stop(request: StopRequest) -> None:
        is_heard.set()
        raise ValueError(request)

    request_stop(database, attempt.id)
    with Recorder(database, attempt, on_stop=on_stop) as writer:
        assert is_heard.wait(WAIT_SECONDS)
        report(writer, 1, 101)
    assert reported_batches(database, attempt) == list(range(1, 101))


def test_forked_child_cannot_report(database: Database, attempt: AttemptRow) -> None:
    with Recorder(database, attempt) as writer:
        writer.flush()
        pid = os.fork()
        if pid == 0:
            try:
                writer.close()  # does nothing here
                writer.training_metrics(batches=7, epoch=0, metrics={})
            except RuntimeError as error:
                os._exit(0 if "belongs to process" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        writer.progress(8)
    assert get_trial(database, attempt.trial_id).batches_completed == 8
