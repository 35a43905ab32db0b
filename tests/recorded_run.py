"""Experiments that train in this process and are on record, as ``trialrun submit`` leaves them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from support import TRIALS, Event

from trialrun.controller.bookkeeping import (
    CheckpointRow,
    Database,
    ExperimentRow,
    Recorder,
    RunState,
    TrialRow,
    checkpoints_of_trial,
    finish_attempt,
    get_trial,
    validation_metrics_of_trial,
)
from trialrun.controller.checkpoints.retention import CheckpointKeeper
from trialrun.controller.checkpoints.store import CheckpointStore
from trialrun.controller.config import read_config
from trialrun.controller.engine.loop import Outcome
from trialrun.controller.engine.parallel.collectives import SingleProcess
from trialrun.controller.engine.session import open_session
from trialrun.controller.engine.stopping import StopRequest
from trialrun.controller.experiments import prepared_attempt, submit_experiment
from trialrun.controller.home import Home, make_home
from trialrun.controller.running import trial_spec


@dataclasses.dataclass(frozen=True)
class RecordedRun:
    """An experiment in a home of its own, or one that it shares with others."""

    home: Home
    database: Database
    experiment: ExperimentRow
    trial_id: int

    @property
    def checkpoints(self) -> list[CheckpointRow]:
        """Newest first."""
        return checkpoints_of_trial(self.database, self.trial_id)

    @property
    def latest(self) -> CheckpointRow:
        return self.checkpoints[0]

    @property
    def trial(self) -> TrialRow:
        return get_trial(self.database, self.trial_id)

    def validation(self, batches: int) -> dict[str, float]:
        """The metrics on record at a batch."""
        (row,) = validation_metrics_of_trial(
            self.database, self.trial_id, start=batches, stop=batches + 1
        )
        return row.metrics

    def attempt(self, stop_upon: Event | None = None) -> Outcome:
        """Trains to the end, or to the first boundary after an event."""
        stop_request = StopRequest()
        with prepared_attempt(self.database, self.trial_id, 1) as prepared:
            with Recorder(self.database, prepared.attempt, on_stop=lambda _: None) as recorder:
                keeper = CheckpointKeeper(self.database, self.trial_id, recorder, prepared.config)
                store = CheckpointStore(prepared.folder.checkpoints, keeper.stored)
                session = open_session(
                    trial_spec(prepared),
                    collectives=SingleProcess(),
                    device=torch.device("cpu"),
                    stop_request=stop_request,
                    journal=_Stopping(recorder, stop_request, stop_upon),
                    sink=store,
                )
                outcome = session.run()
                assert store.close() is None
            is_complete = outcome is Outcome.COMPLETED
            state = RunState.COMPLETED if is_complete else RunState.PAUSED
            finish_attempt(self.database, prepared.attempt.id, state)
        return outcome


class _Stopping:
    """Hands on to the recorder what happens, and asks for a stop upon one event."""

    def __init__(self, recorder: Recorder, request: StopRequest, upon: Event | None) -> None:
        self._recorder = recorder
        self._request = request
        self._upon = upon

    def progress(self, batches_completed: int) -> None:
        self._recorder.progress(batches_completed)
        self._heard(("progress", batches_completed))

    def training_metrics(self, **report: Any) -> None:
        self._recorder.training_metrics(**report)
        self._heard(("training", report["batches"]))

    def validation_metrics(self, **report: Any) -> None:
        self._recorder.validation_metrics(**report)
        self._heard(("validation", report["batches"]))

    def _heard(self, event: Event) -> None:
        if event == self._upon:
            self._request.set()


def submit_recorded(folder: Path, trial_file: Path | str, **config: Any) -> RecordedRun:
    """Records an experiment in the home ``folder / "home"`` without training it.

    Args:
        folder: Where the home is.
        trial_file: A path, or the name of a file in ``tests/trials``.
        config: Keys of the configuration.
    """
    defaults = {
        "slots": 2,
        "max_length": "8ba",
        "reporting_period": "4ba",
        "validation_period": "4ba",
        "checkpoint_period": "4ba",
        "checkpoint_gc": {"save_trial_latest": 100},
        "intra_op_threads": 1,
        "seed": 7,
    }
    home_folder = folder / "home"
    home = Home(folder=home_folder, database_url=f"sqlite:///{home_folder / 'trialrun.db'}")
    make_home(home)
    database = Database.open(home.database_url)
    experiment, trial = submit_experiment(
        database,
        home,
        trial_file=TRIALS / trial_file if isinstance(trial_file, str) else trial_file,
        trial_class=None,
        config=read_config({**defaults, **config}),
    )
    return RecordedRun(home, database, experiment, trial.id)


def train_recorded(folder: Path, trial_file: Path | str, **config: Any) -> RecordedRun:
    """Records an experiment and trains it to its end."""
    run = submit_recorded(folder, trial_file, **config)
    assert run.attempt() is Outcome.COMPLETED
    return run
