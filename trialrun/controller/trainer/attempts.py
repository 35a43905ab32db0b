"""The attempt of a script, on the chief: recorded like one of ``trialrun submit``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trialrun._trial import Trial
from trialrun.controller.bookkeeping import (
    AttemptRow,
    Database,
    ExperimentRow,
    RunState,
    TrialRow,
    change_config,
    finish_attempt,
    get_experiment,
    get_trial,
)
from trialrun.controller.claiming import claimed_attempt, locked_trial
from trialrun.controller.config import ExperimentConfig, read_config
from trialrun.controller.experiments import record_experiment, source_warnings
from trialrun.controller.home import Home, make_home
from trialrun.controller.launch.explaining import explain
from trialrun.controller.launch.recording import Recording
from trialrun.controller.liveness import TrialFolder, bury_dead_attempts, order_arrays_folder
from trialrun.controller.trainer.starting import (
    LATEST,
    CheckpointName,
    Start,
    StartPoint,
    find_start,
    newest_start,
    trial_of_same_init,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialClass:
    """Where a trial's class comes from.

    Args:
        file: The file that defines it; None where it was defined in an interactive session.
        name: ``module:Class``.
    """

    file: Path | None
    name: str

    @classmethod
    def of(cls, trial: Trial) -> TrialClass:
        """Returns that of a trial."""
        kind = type(trial)
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        path = None if file is None else Path(file).absolute()
        return cls(
            file=path if path is not None and path.is_file() else None,
            name=f"{kind.__module__}:{kind.__qualname__}",
        )

    @property
    def default_experiment_name(self) -> str:
        """The file's name, or the class's."""
        return self.name.rpartition(":")[2] if self.file is None else self.file.stem


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScriptAttempt:
    """An attempt that this process has claimed, and whose trial's lock it holds."""

    experiment: ExperimentRow
    trial: TrialRow
    attempt: AttemptRow
    config: ExperimentConfig
    folder: TrialFolder
    start: StartPoint | None
    remarks: list[str]

    def recording(self, database: Database) -> Recording:
        """Returns where metrics and checkpoints go."""
        return Recording(
            database_url=database.url,
            attempt_id=self.attempt.id,
            checkpoints=self.folder.checkpoints,
            order_arrays=order_arrays_folder(self.experiment),
        )

    def metadata(self) -> dict[str, Any]:
        """Returns what every checkpoint repeats."""
        return {
            "experiment": self.experiment.id,
            "trial": self.trial.id,
            "hyperparameters": self.config.hyperparameters,
            "trial_file": self.experiment.trial_file or None,
            "trial_class": self.experiment.trial_class,
            "git_commit": self.experiment.git_commit,
            "from_checkpoint": self.config.from_checkpoint,
        }


class ScriptTrial:
    """The records of the trial that a script trains.

    Args:
        home: Where they go.
        trial_class: Whose trial it is.
    """

    trial_id: int | None
    """The trial on record; None before the first fit."""
    has_trained: bool
    """Whether a loop runs or has run: the trial is no longer as its constructor left it."""

    def __init__(self, home: Home, trial_class: TrialClass) -> None:
        self.trial_id = None
        self.has_trained = False
        self._home = home
        self._class = trial_class

    @property
    def database(self) -> Database:
        """The records; they are made where there are none."""
        make_home(self._home)
        return Database.open(self._home.database_url, create=True)

    @contextmanager
    def claimed(
        self,
        database: Database,
        config: ExperimentConfig,
        latest_checkpoint: CheckpointName,
        *,
        num_processes: int,
        check: Callable[[Start], None],
    ) -> Iterator[ScriptAttempt]:
        """Begins an attempt, in the experiment that goes on or in a new one.

        Args:
            database: The records.
            config: The configuration of the fit.
            latest_checkpoint: What the user gave.
            num_processes: P.
            check: Called with where training begins, before anything is recorded of it.

        Raises:
            TrialrunError: The checkpoint cannot be gone on from, or the experiment runs already.
        """
        bury_dead_attempts(database)
        config = config.model_copy(
            update={"name": config.name or self._class.default_experiment_name}
        )
        goes_on = self._trial_that_goes_on(database, config, latest_checkpoint)
        if goes_on is None:
            start = find_start(database, latest_checkpoint, config, self._class.name)
            check(start)
            trial = start.trial or self._new_trial(database, config)
        else:
            trial = goes_on
        with locked_trial(database, trial.id) as locked:
            if goes_on is not None:
                # Under the lock: while the trial runs, its checkpoints come and go.
                start = newest_start(database, locked.trial)
                check(start)
            if start.trial is not None:
                config = _adopt_threads(config, locked.experiment)
                change_config(database, locked.experiment.id, config.to_json())
            with claimed_attempt(
                database,
                locked,
                num_processes=num_processes,
                first_batch=start.point.batches if start.point else 0,
                resumed_from=start.point.uuid if start.point else None,
            ) as attempt:
                locked.lock.keep_from_children()
                self.trial_id = trial.id
                experiment = get_experiment(database, locked.experiment.id)
                yield ScriptAttempt(
                    experiment=experiment,
                    trial=locked.trial,
                    attempt=attempt,
                    config=read_config(experiment.config),
                    folder=locked.folder,
                    start=start.point,
                    remarks=start.remarks + source_warnings(locked.experiment),
                )

    def _trial_that_goes_on(
        self, database: Database, config: ExperimentConfig, latest_checkpoint: CheckpointName
    ) -> TrialRow | None:
        """Returns the trial whose newest checkpoint is asked for; None where another is, or none.

        It is this Trainer's own or, for ``latest``, the newest of the same script.
        """
        if latest_checkpoint is None and self.trial_id is not None:
            return get_trial(database, self.trial_id)
        if latest_checkpoint == LATEST:
            return trial_of_same_init(database, config, self._class.name)
        return None

    def _new_trial(self, database: Database, config: ExperimentConfig) -> TrialRow:
        _, trial = record_experiment(
            database,
            self._home,
            trial_file=self._class.file,
            trial_class=self._class.name,
            config=config,
        )
        return trial


def _adopt_threads(config: ExperimentConfig, experiment: ExperimentRow) -> ExperimentConfig:
    """Takes the threads of a slot that were chosen when the experiment began."""
    if config.intra_op_threads is not None:
        return config
    recorded = experiment.config.get("intra_op_threads")
    return config.model_copy(update={"intra_op_threads": recorded})


@contextmanager
def recorded_failure(
    database: Database, claimed: ScriptAttempt, batches: Callable[[], int | None]
) -> Iterator[None]:
    """Records what ends the block as the end of the attempt, and lets it go on.

    Args:
        database: The records.
        claimed: The attempt.
        batches: Returns the batches completed; None before training began.
    """
    try:
        yield
    except KeyboardInterrupt:
        error = "Stopped at once by Ctrl-C."
        finish_attempt(database, claimed.attempt.id, RunState.KILLED, error=error)
        raise
    except BaseException as error:
        file = claimed.experiment.trial_file
        failure = explain(
            error,
            batches=batches(),
            process=0,
            user_folder=Path(file).parent if file else None,
        )
        finish_attempt(
            database,
            claimed.attempt.id,
            RunState.ERROR,
            error=failure.message,
            error_traceback=failure.traceback,
        )
        raise
