"""The tables, one class each; a row that left its session is a plain value.

There are no relationships, so nothing loads behind the reader's back: a row carries its columns,
and the functions of this package fetch what belongs to it. A change here needs a migration
(``migrations/versions``); a test compares the two.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from trialrun.controller.bookkeeping.column_types import MetricsJson, UtcDateTime
from trialrun.controller.bookkeeping.states import CheckpointState, RunState, StopRequest

# SQLite would give the number of a deleted row to the next one; people quote these numbers.
_NEVER_REUSE_IDS = {"sqlite_autoincrement": True}

_JSON = JSON(none_as_null=True)


def _by_name(states: type[RunState] | type[StopRequest] | type[CheckpointState]) -> Enum:
    # Text instead of a database enum: a new state is then no schema change.
    return Enum(states, native_enum=False, create_constraint=False, length=16)


class Base(DeclarativeBase):
    """Common to all tables: how Python types are stored and constraints are named."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        CheckpointState: _by_name(CheckpointState),
        RunState: _by_name(RunState),
        StopRequest: _by_name(StopRequest),
        datetime: UtcDateTime,
        float: Double,  # not left to SQLAlchemy, whose 2.0 and 2.1 choose differently
        str: Text,
    }


class ExperimentRow(Base):
    """What one submit created."""

    __tablename__ = "experiments"
    __table_args__ = _NEVER_REUSE_IDS

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[str]
    trial_file: Mapped[str]  # absolute path; "" for a class of an interactive session
    trial_class: Mapped[str]  # "" where the file has only one; "module:Class" of a script
    trial_source_hash: Mapped[str]
    config: Mapped[dict[str, Any]] = mapped_column(_JSON)
    directory: Mapped[str]  # absolute path
    git_commit: Mapped[str | None]
    created_at: Mapped[datetime]
    working_directory: Mapped[str | None]  # where submit was typed; none of a script


class TrialRow(Base):
    """One set of hyperparameters being trained."""

    __tablename__ = "trials"
    __table_args__ = _NEVER_REUSE_IDS

    id: Mapped[int] = mapped_column(primary_key=True)
    experiment_id: Mapped[int] = mapped_column(
        ForeignKey("experiments.id", ondelete="CASCADE"), index=True
    )
    hyperparameters: Mapped[dict[str, Any]] = mapped_column(_JSON)
    seed: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[RunState]
    batches_completed: Mapped[int] = mapped_column(BigInteger)
    total_batches: Mapped[int | None] = mapped_column(BigInteger)  # unknown before the first plan
    started_at: Mapped[datetime | None]  # of the first attempt
    ended_at: Mapped[datetime | None]  # of the last attempt; none while one runs


class AttemptRow(Base):
    """One stretch of running a trial, from start to pause, failure or end."""

    __tablename__ = "attempts"
    __table_args__ = (UniqueConstraint("trial_id", "number"), _NEVER_REUSE_IDS)

    id: Mapped[int] = mapped_column(primary_key=True)
    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"))
    number: Mapped[int]  # 1, 2, ... within the trial
    state: Mapped[RunState] = mapped_column(index=True)
    hostname: Mapped[str]
    pid: Mapped[int]
    num_processes: Mapped[int]
    device: Mapped[str | None]
    first_batch: Mapped[int] = mapped_column(BigInteger)  # batches completed at the start
    plan: Mapped[dict[str, Any] | None] = mapped_column(_JSON)
    # No foreign key: the attempt's history outlives the checkpoint that it came from.
    resumed_from: Mapped[str | None] = mapped_column(String(36))
    stop_requested: Mapped[StopRequest | None]
    error: Mapped[str | None]
    error_traceback: Mapped[str | None]
    started_at: Mapped[datetime]
    training_started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class CheckpointRow(Base):
    """A checkpoint that was whole on disk when it was recorded."""

    __tablename__ = "checkpoints"
    __table_args__ = (Index(None, "trial_id", "batches"),)

    uuid: Mapped[str] = mapped_column(String(36), primary_key=True)
    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"))
    attempt_id: Mapped[int] = mapped_column(
        ForeignKey("attempts.id", ondelete="CASCADE"), index=True
    )
    batches: Mapped[int] = mapped_column(BigInteger)  # batches completed
    state: Mapped[CheckpointState]
    digest: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str]
    files: Mapped[dict[str, Any]] = mapped_column(
        _JSON
    )  # {name: {"size_bytes": int, "blake3": hex}}
    metrics: Mapped[dict[str, float] | None] = mapped_column(MetricsJson)
    created_at: Mapped[datetime]


class TrainingMetricsRow(Base):
    """Training metrics, reported when ``batches`` were complete."""

    __tablename__ = "training_metrics"

    trial_id: Mapped[int] = mapped_column(
        ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True
    )
    batches: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"))
    epoch: Mapped[int] = mapped_column(BigInteger)
    metrics: Mapped[dict[str, float]] = mapped_column(MetricsJson)
    records_per_second: Mapped[float | None]
    reported_at: Mapped[datetime]


class ValidationMetricsRow(Base):
    """Validation metrics, measured when ``batches`` were complete."""

    __tablename__ = "validation_metrics"

    trial_id: Mapped[int] = mapped_column(
        ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True
    )
    batches: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"))
    epoch: Mapped[int] = mapped_column(BigInteger)
    metrics: Mapped[dict[str, float]] = mapped_column(MetricsJson)
    num_records: Mapped[int | None] = mapped_column(BigInteger)
    duration_seconds: Mapped[float]
    reported_at: Mapped[datetime]


class LogFileRow(Base):
    """Where one process of an attempt writes what it prints."""

    __tablename__ = "log_files"

    id: Mapped[int] = mapped_column(primary_key=True)
    attempt_id: Mapped[int] = mapped_column(
        ForeignKey("attempts.id", ondelete="CASCADE"), index=True
    )
    process: Mapped[int]
    path: Mapped[str]
