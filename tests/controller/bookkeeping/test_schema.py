from __future__ import annotations

import logging
import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Table, create_engine, delete, func, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.schema import CreateTable

import trialrun.controller.bookkeeping as bookkeeping
from trialrun.controller.bookkeeping import (
    AttemptRow,
    CheckpointState,
    Database,
    ExperimentRow,
    LogFileRow,
    Recorder,
    RunState,
    TrainingMetricsRow,
    TrialRow,
    _dialects,
    get_attempt,
    migrations,
)
from trialrun.controller.bookkeeping.schema import Base

from .conftest import new_experiment

TABLES = Base.metadata.sorted_tables


def test_migrations_make_what_the_models_describe(database: Database) -> None:
    with database.snapshot() as session:
        context = MigrationContext.configure(session.connection())
        assert compare_metadata(context, Base.metadata) == []


@pytest.mark.parametrize(("level", "is_heard"), [(logging.NOTSET, False), (logging.INFO, True)])
def test_migrations_are_logged_for_those_who_ask(
    tmp_path: Path, level: int, is_heard: bool, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("alembic")
    before = logger.level
    caplog.set_level(logging.INFO)  # as a script's logging.basicConfig(level=logging.INFO)
    logger.setLevel(level)
    try:
        Database.open(f"sqlite:///{tmp_path / 'new.db'}", create=True)
    finally:
        logger.setLevel(before)
    heard = [record for record in caplog.records if record.name.startswith("alembic")]
    assert bool(heard) == is_heard


def test_known_revisions_are_the_migrations_in_order() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    scripts = list(ScriptDirectory.from_config(config).walk_revisions())  # newest first
    assert tuple(script.revision for script in reversed(scripts)) == migrations.REVISIONS
    assert migrations.HEAD == migrations.REVISIONS[-1]


def test_a_database_of_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    engine = create_engine(f"sqlite:///{file}")
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            text(
                "INSERT INTO experiments (name, description, trial_file, trial_class, "
                "trial_source_hash, config, directory, created_at) VALUES ('old', '', '/t.py', '', "
                "'', '{}', '/home/1', '2026-01-01 00:00:00')"
            )
        )
    engine.dispose()
    database = Database.open(f"sqlite:///{file}")
    with database.snapshot() as session:
        (row,) = session.scalars(select(ExperimentRow)).all()
        context = MigrationContext.configure(session.connection())
        assert compare_metadata(context, Base.metadata) == []
    assert (row.name, row.working_directory) == ("old", None)


def test_public_names_are_sorted() -> None:
    assert bookkeeping.__all__ == sorted(bookkeeping.__all__)


def test_states_are_stored_by_name(database: Database, attempt: AttemptRow) -> None:
    with database.snapshot() as session:
        assert session.scalar(text("SELECT state FROM attempts")) == "RUNNING"


def test_not_finite_metrics_survive_as_valid_json(database: Database, attempt: AttemptRow) -> None:
    metrics = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.1, "e": 5e-324}
    with Recorder(database, attempt) as recorder:
        recorder.training_metrics(batches=1, epoch=0, metrics=metrics)
    with database.snapshot() as session:
        stored = session.scalar(text("SELECT metrics FROM training_metrics"))
        row = session.get_one(TrainingMetricsRow, (attempt.trial_id, 1))
    assert stored == '{"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 0.1, "e": 5e-324}'
    assert math.isnan(row.metrics.pop("a"))
    assert row.metrics == {"b": math.inf, "c": -math.inf, "d": 0.1, "e": 5e-324}


def test_metrics_come_back_as_floats(database: Database, attempt: AttemptRow) -> None:
    with Recorder(database, attempt) as recorder:
        recorder.training_metrics(batches=1, epoch=0, metrics={"count": 3})
    with database.snapshot() as session:
        row = session.get_one(TrainingMetricsRow, (attempt.trial_id, 1))
    assert isinstance(row.metrics["count"], float)


def test_moments_come_back_in_utc(database: Database, attempt: AttemptRow) -> None:
    moment = datetime(2026, 3, 1, 0, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    with database.session() as session:
        session.get_one(AttemptRow, attempt.id).started_at = moment
    found = get_attempt(database, attempt.id).started_at
    assert found == moment
    assert found.tzinfo is UTC
    assert found.isoformat() == "2026-02-28T22:30:00.123456+00:00"


def test_naive_moment_is_refused(database: Database, attempt: AttemptRow) -> None:
    with pytest.raises(StatementError, match="has no time zone"), database.session() as session:
        session.get_one(AttemptRow, attempt.id).started_at = datetime(2026, 3, 1)


def test_foreign_keys_are_enforced(database: Database) -> None:
    with pytest.raises(IntegrityError, match="FOREIGN KEY"), database.session() as session:
        session.add(LogFileRow(attempt_id=77, process=0, path="/no"))


def test_deleting_an_experiment_deletes_all_that_is_its_own(
    database: Database, attempt: AttemptRow
) -> None:
    with Recorder(database, attempt) as recorder:
        recorder.training_metrics(batches=1, epoch=0, metrics={})
    with database.session() as session:
        session.execute(delete(ExperimentRow))
    with database.snapshot() as session:
        counts = [session.scalar(select(func.count()).select_from(table)) for table in TABLES]
    assert counts == [0] * len(TABLES)


def test_number_of_a_deleted_experiment_is_not_given_again(database: Database) -> None:
    new_experiment(database)
    with database.session() as session:
        session.execute(delete(ExperimentRow))
    experiment, trial = new_experiment(database)
    assert (experiment.id, trial.id) == (2, 2)


def test_statements_compile_for_postgresql() -> None:
    dialect = postgresql.dialect()
    for table in TABLES:
        assert "AUTOINCREMENT" not in str(CreateTable(table).compile(dialect=dialect))
    metrics = TrainingMetricsRow.__table__
    assert isinstance(metrics, Table)
    statement = str(_dialects.upsert(metrics, "postgresql").compile(dialect=dialect))
    assert "ON CONFLICT (trial_id, batches) DO UPDATE SET" in statement


def test_enum_columns_hold_every_name() -> None:
    names = [state.name for states in (RunState, CheckpointState) for state in states]
    width = TrialRow.__table__.c.state.type.length  # type: ignore[attr-defined]
    assert max(map(len, names)) <= width
