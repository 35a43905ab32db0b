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
    "InternalException",
    "InvalidCheckpointException",
    "InvalidConfigurationException",
    "InvalidDataTypeException",
    "InvalidExperimentException",
    "InvalidModelException",
]

InvalidExperimentException = TrialrunError
InvalidModelException = InvalidTrialError
InvalidDataTypeException = InvalidMetricError
InvalidConfigurationException = ConfigurationError
InternalException = InvalidTrialError
InvalidCheckpointException = CheckpointError
CheckpointNotFound = CheckpointError
