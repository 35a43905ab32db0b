"""Evaluates or predicts in several processes, which share the slots of the experiment.

One process needs none of this. Several give the same metrics and the same bytes: batch k belongs to
slot k modulo S, whoever executes it, and what all have found comes together in order on the chief.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Protocol

from trialrun._errors import TrialrunError
from trialrun.controller.bookkeeping import CheckpointRow, Database
from trialrun.controller.config import Deterministic, read_config
from trialrun.controller.engine.building import Split
from trialrun.controller.engine.devices import prepare_device
from trialrun.controller.engine.stopping import StopRequest
from trialrun.controller.inference.evaluating import OpenedCheckpoint, open_checkpoint
from trialrun.controller.inference.predicting import predict_into
from trialrun.controller.inference.selection import select_checkpoint
from trialrun.controller.inference.tables import TableFormat
from trialrun.controller.launch.bell import Bell, BellListener
from trialrun.controller.launch.child import (
    listen,
    log_file,
    redirect_output,
    start_children_as_usual,
)
from trialrun.controller.launch.explaining import explain
from trialrun.controller.launch.failures import Failure, FailureKind
from trialrun.controller.launch.joining import join, leave
from trialrun.controller.launch.place import Place
from trialrun.controller.launch.placement import choose_num_processes
from trialrun.controller.launch.processes import run_processes
from trialrun.controller.launch.server import start_server
from trialrun.controller.liveness import trial_of_experiment
from trialrun.controller.trial_source import trial_file_of


class Task(Protocol):
    """What is done with a checkpoint, by every process that has some of its slots."""

    def __call__(self, opened: OpenedCheckpoint) -> dict[str, Any]:
        """Returns what a command says of it, as JSON data; the chief's counts."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluates some data."""

    split: Split

    def __call__(self, opened: OpenedCheckpoint) -> dict[str, Any]:
        """Returns the metrics."""
        found = opened.inference.evaluate(self.split)
        return {
            "num_records": found.num_records,
            "metrics": found.metrics,
            "duration_seconds": found.duration_seconds,
            "device": str(opened.device),
        }


@dataclasses.dataclass(frozen=True)
class Predict:
    """Writes predictions of some data into a folder."""

    split: Split
    folder: Path
    table_format: TableFormat

    def __call__(self, opened: OpenedCheckpoint) -> dict[str, Any]:
        """Returns what was written."""
        predicted = predict_into(opened, self.split, self.folder, self.table_format)
        columns = {name: str(column) for name, column in predicted.columns.items()}
        return {"num_records": predicted.num_records, "columns": columns}


class ProcessFailure(Exception):
    """One of several processes could not do its part: what it has said, user code's traceback."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
    """What was done.

    Args:
        checkpoint: With which checkpoint.
        found: What the chief has returned.
        printed: What the chief has printed, where it is a process of its own.
    """

    checkpoint: CheckpointRow
    found: dict[str, Any]
    printed: str = ""


def carry_out(
    database: Database, experiment_id: int, which: str, task: Task, num_processes: int = 1
) -> Done:
    """Opens a checkpoint of an experiment and does something with it; records nothing.

    Args:
        database: Where it is recorded.
        experiment_id: Which experiment.
        which: ``best``, ``latest``, or the first characters of a UUID.
        task: What to do.
        num_processes: P, a divisor of the slots. One is this process.

    Raises:
        ConfigurationError: P does not divide the slots, or needs more GPUs than there are.
        ProcessFailure: User code raised, or a process was lost.
        SlotError: User code raised in this process.
        TrialrunError: The trial or the checkpoint breaks a rule.
    """
    experiment, trial = trial_of_experiment(database, experiment_id)
    config = read_config(experiment.config)
    choose_num_processes(num_processes, config)
    if num_processes == 1:
        opened = open_checkpoint(database, experiment_id, which)
        return Done(checkpoint=opened.checkpoint, found=task(opened))
    start_server()  # where the command has not done it yet
    # Chosen once: a run that goes on may have a better one by the time the next process looks.
    checkpoint = select_checkpoint(database, experiment, trial, which)
    with tempfile.TemporaryDirectory(prefix="trialrun-") as name:
        folder, bell = Path(name), Bell()
        share = _Share(
            database_url=database.url,
            experiment_id=experiment_id,
            uuid=checkpoint.uuid,
            task=task,
            folder=folder,
            user_folder=trial_file_of(experiment).parent,
            deterministic=config.deterministic,
            bell=bell.listener,
        )
        try:
            outcomes = run_processes(
                _do_share, share, num_processes=num_processes, folder=folder, bell=bell
            )
        finally:
            bell.close()
        log = log_file(folder, 0)
        printed = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    if isinstance(outcomes, Failure):
        if outcomes.kind is FailureKind.RULE and outcomes.traceback is None:
            raise TrialrunError(outcomes.message)
        raise ProcessFailure(outcomes.text)
    return Done(checkpoint=checkpoint, found=outcomes[0], printed=printed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Share:
    """What every process is told."""

    database_url: str
    experiment_id: int
    uuid: str
    task: Task
    folder: Path
    user_folder: Path
    deterministic: Deterministic
    bell: BellListener


def _do_share(share: _Share) -> dict[str, Any]:
    """The entry point of a process under torch's elastic agent."""
    place = Place.from_environment()  # set by the agent
    redirect_output(log_file(share.folder, place.rank))
    start_children_as_usual()
    logging.getLogger().setLevel(logging.WARNING)
    # The terminal sends Ctrl-C to everybody; the command ends, and with it the line to it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listen(StopRequest(), share.bell, on_dead=lambda: os._exit(1))
    try:
        device = prepare_device(place.local_rank, share.deterministic, warns=place.rank == 0)
        collectives = join(place, device)
        database = Database.open(share.database_url, create=False)
        opened = open_checkpoint(
            database,
            share.experiment_id,
            share.uuid,
            collectives=collectives,
            device=device,
        )
        found = share.task(opened)
        collectives.close()
        leave(collectives)
        return found
    except BaseException as error:  # such as SystemExit
        failure = explain(error, batches=None, process=place.rank, user_folder=share.user_folder)
        failure.write(share.folder)
        sys.exit(1)
