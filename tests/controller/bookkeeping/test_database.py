from __future__ import annotations

import importlib.util
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from python_start import call_in_processes
from sqlalchemy import text

from trialrun._errors import BookkeepingError
from trialrun.controller.bookkeeping import Database, ExperimentRow, list_experiments

from .conftest import new_experiment


def test_new_database_is_empty_and_can_be_opened_again(file: Path) -> None:
    url = f"sqlite:///{file}"
    assert list_experiments(Database.open(url)) == []
    new_experiment(Database.open(url))
    assert [row.experiment.name for row in list_experiments(Database.open(url))] == ["digits"]


def test_url_of_a_relative_file_opens_the_same_database_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    database = Database.open("sqlite:///some.db")
    assert database.name == str(tmp_path / "some.db")
    monkeypatch.chdir("/")
    assert list_experiments(Database.open(database.url, create=False)) == []


def _open_at_once(url: str, number: int, meeting: Path) -> None:
    (meeting / str(number)).touch()
    while len(list(meeting.iterdir())) < 4:
        time.sleep(0.001)
    new_experiment(Database.open(url))


def test_many_processes_may_create_one_database_at_once(file: Path, tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    url = f"sqlite:///{file}"
    call_in_processes(_open_at_once, [(url, number, meeting) for number in range(4)])
    experiments = list_experiments(Database.open(url))
    assert [row.experiment.id for row in experiments] == [1, 2, 3, 4]


def test_newer_schema_is_refused_and_left_alone(database: Database, file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(BookkeepingError) as raised:
        Database.open(database.url)
    assert str(raised.value) == (
        f"The database {file} was made by a newer trialrun (schema 9999; this version knows 0002). "
        "Upgrade trialrun, or name another database with --db."
    )


def test_database_of_another_program_is_refused_and_left_alone(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    with pytest.raises(BookkeepingError, match=r"another program: it holds the tables songs\."):
        Database.open(f"sqlite:///{file}")
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("songs",)]


def test_file_that_is_no_database_is_refused(file: Path) -> None:
    file.write_text("These are my notes, and no database at all.\n" * 100)
    with pytest.raises(BookkeepingError, match="file is not a database. Name another") as raised:
        Database.open(f"sqlite:///{file}")
    assert str(file) in str(raised.value)
    assert file.read_text().startswith("These are my notes")


def test_folder_that_is_missing_or_not_writable_is_named(tmp_path: Path) -> None:
    # /proc is writable for nobody, not even for root, who runs the tests in a container.
    for file in (tmp_path / "no" / "trialrun.db", Path("/proc/trialrun.db")):
        with pytest.raises(BookkeepingError, match="Check that its folder exists and is writable"):
            Database.open(f"sqlite:///{file}")


def test_missing_database_is_not_created_unasked(file: Path) -> None:
    with pytest.raises(BookkeepingError, match="There is no trialrun database at") as raised:
        Database.open(f"sqlite:///{file}", create=False)
    assert str(file) in str(raised.value)
    assert not file.exists()
    file.touch()
    with pytest.raises(BookkeepingError, match="There is no trialrun database at"):
        Database.open(f"sqlite:///{file}", create=False)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "/home/me/trialrun.db",
            "'/home/me/trialrun.db' is not a database URL. .* write sqlite:///",
        ),
        ("sqlite://", "'sqlite://' names no plain file"),
        ("sqlite:///:memory:", "names no plain file"),
        ("oracle://me:secret@host/db", r"me:\*\*\*@host.*one of: postgresql, sqlite\."),
    ],
)
def test_url_that_cannot_serve_is_refused(url: str, message: str) -> None:
    with pytest.raises(BookkeepingError, match=message):
        Database.open(url)


@pytest.mark.skipif(importlib.util.find_spec("psycopg") is not None, reason="psycopg is installed")
def test_missing_driver_is_named() -> None:
    with pytest.raises(BookkeepingError, match="pip install psycopg"):
        Database.open("postgresql+psycopg://me@host/db")


def test_session_undoes_everything_after_an_error(database: Database) -> None:
    with pytest.raises(KeyError), database.session() as session:
        session.execute(text("INSERT INTO alembic_version VALUES ('x')"))
        raise KeyError
    with database.snapshot() as session:
        assert session.execute(text("SELECT * FROM alembic_version")).all() == [("0002",)]


def test_transaction_that_reads_and_then_writes_loses_no_update(database: Database) -> None:
    new_experiment(database, name="0")
    call_in_processes(_count_up, [(database.url, 50)] * 3)
    assert list_experiments(database)[0].experiment.name == "150"


def _count_up(url: str, times: int) -> None:
    database = Database.open(url)
    for _ in range(times):
        with database.session() as session:
            experiment = session.get_one(ExperimentRow, 1)
            experiment.name = str(int(experiment.name) + 1)


def test_commits_are_on_disk_when_they_return(database: Database) -> None:
    with database.snapshot() as session:
        assert session.scalar(text("PRAGMA synchronous")) == 2  # FULL
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"


def test_opening_an_up_to_date_database_imports_neither_alembic_nor_torch(
    database: Database,
) -> None:
    script = (
        "import sys\n"
        "from trialrun.controller.bookkeeping import Database, list_experiments\n"
        f"list_experiments(Database.open({database.url!r}))\n"
        "print([name for name in ('alembic', 'numpy', 'torch') if name in sys.modules])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "[]\n"
