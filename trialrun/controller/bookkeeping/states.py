"""The states that trials, attempts and checkpoints can be in; stored by name."""

from __future__ import annotations

import enum


class RunState(enum.Enum):
    """What a trial, or one attempt at it, is doing.

    A new trial is PAUSED with no attempt: it waits for a process to claim it.
    """

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ERROR = "error"
    """The trial's code, or trialrun, raised an error."""
    KILLED = "killed"
    """A person ended it without a checkpoint."""
    DEAD = "dead"
    """Its process is gone without a word: kill -9, power loss, a spot instance taken away."""

    @property
    def is_running(self) -> bool:
        """Whether a process works on it now, as far as the records tell."""
        return self is RunState.RUNNING


class StopRequest(enum.Enum):
    """What a running attempt has been asked to do at its next batch boundary."""

    PAUSE = "pause"


class CheckpointState(enum.Enum):
    """Whether the files of a checkpoint can be used."""

    COMPLETED = "completed"
    DAMAGED = "damaged"
    """The files are not the ones that were recorded."""
    DELETED = "deleted"
    """The files are gone on purpose; the row stays as history."""
