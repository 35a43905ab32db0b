"""The records of experiments: trials, attempts, metrics and checkpoints in one SQL database.

Who writes: ``Recorder`` in the training process, the functions below everywhere else. All of them
take an open ``Database``, and give rows that are plain values. No torch, no numpy.
"""

from __future__ import annotations

from trialrun.controller.bookkeeping.attempts import (
    add_log_file,
    attempts_of_trial,
    claim_trial,
    finish_attempt,
    get_attempt,
    log_files_of_trial,
    replace_attempt,
    request_stop,
    running_attempts,
)
from trialrun.controller.bookkeeping.checkpoints import (
    checkpoints_of_trial,
    get_checkpoint,
    mark_checkpoint,
)
from trialrun.controller.bookkeeping.database import Database
from trialrun.controller.bookkeeping.experiments import (
    ExperimentSummary,
    TrialSummary,
    change_config,
    create_experiment,
    delete_experiment_rows,
    get_experiment,
    get_trial,
    list_experiments,
    trials_of_experiment,
)
from trialrun.controller.bookkeeping.metrics import (
    reports_of_trial,
    rewind,
    training_metrics_of_trial,
    validation_metrics_of_trial,
)
from trialrun.controller.bookkeeping.recorder import Recorder
from trialrun.controller.bookkeeping.schema import (
    AttemptRow,
    CheckpointRow,
    ExperimentRow,
    LogFileRow,
    TrainingMetricsRow,
    TrialRow,
    ValidationMetricsRow,
)
from trialrun.controller.bookkeeping.states import CheckpointState, RunState, StopRequest

__all__ = [
    "AttemptRow",
    "CheckpointRow",
    "CheckpointState",
    "Database",
    "ExperimentRow",
    "ExperimentSummary",
    "LogFileRow",
    "Recorder",
    "RunState",
    "StopRequest",
    "TrainingMetricsRow",
    "TrialRow",
    "TrialSummary",
    "ValidationMetricsRow",
    "add_log_file",
    "attempts_of_trial",
    "change_config",
    "checkpoints_of_trial",
    "claim_trial",
    "create_experiment",
    "delete_experiment_rows",
    "finish_attempt",
    "get_attempt",
    "get_checkpoint",
    "get_experiment",
    "get_trial",
    "list_experiments",
    "log_files_of_trial",
    "mark_checkpoint",
    "replace_attempt",
    "reports_of_trial",
    "request_stop",
    "rewind",
    "running_attempts",
    "training_metrics_of_trial",
    "trials_of_experiment",
    "validation_metrics_of_trial",
]
