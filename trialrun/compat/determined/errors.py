"""The names of Determined's errors, all of which are an ``Exception`` here."""

from __future__ import annotations

from trialrun._errors import (
    CheckpointError,
    ConfigurationError,
    InvalidMetricError,
    InvalidTrialError,
    TrialrunError,
)

__all__ = [
    "CheckpointNotFound",
    "CheckpointStateException",
    "InternalException",
    "InvalidCheckpointException",
    "InvalidConfigurationException",
    "InvalidDataTypeException",
    "InvalidExperimentException",
    "InvalidModelException",
    "MultipleDownloadsFailed",
    "NoDirectStorageAccess",
    "ProxiedDownloadFailed",
]

InvalidExperimentException = TrialrunError
InvalidModelException = InvalidTrialError
InvalidDataTypeException = InvalidMetricError
InvalidConfigurationException = ConfigurationError
InternalException = InvalidTrialError
InvalidCheckpointException = CheckpointError
CheckpointNotFound = CheckpointError
CheckpointStateException = CheckpointError
# Nothing is downloaded here: what a script does when a download fails, it does when a checkpoint
# cannot be read.
NoDirectStorageAccess = CheckpointError
ProxiedDownloadFailed = CheckpointError
MultipleDownloadsFailed = CheckpointError
