"""How a training process says why it failed: one small file, read by the supervisor."""

from __future__ import annotations

import dataclasses
import enum
import json
import time
from pathlib import Path


class FailureKind(enum.Enum):
    """Whose failure it was."""

    RULE = "rule"
    """The trial, the configuration or a checkpoint breaks a rule; the message says all."""
    USER_CODE = "user code"
    """The trial's code raised an exception; the traceback is the user's."""
    PEER_LOST = "peer lost"
    """Another process of the attempt is gone: a consequence, not a cause."""
    LOST = "lost"
    """A process ended without a word: killed, out of memory, ``os._exit``."""
    HUNG = "hung"
    """Nothing went on for too long, and the processes were ended for it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """Why one process failed.

    Args:
        kind: Whose failure it was.
        message: One sentence for people.
        traceback: Of the user's code, where there is one.
        process: Which process.
        batches: Batches completed; None while the trial was set up, or where nobody knows.
        error: The name of the exception's class, where there was one.
        failed_at: When, in seconds since the epoch.
    """

    kind: FailureKind
    message: str
    traceback: str | None
    process: int
    batches: int | None = None
    error: str | None = None
    failed_at: float = dataclasses.field(default_factory=time.time)

    @property
    def text(self) -> str:
        """All of it: the traceback, or the message where there is none."""
        return self.traceback or self.message

    def write(self, folder: Path) -> None:
        """Leaves the failure in the attempt's folder."""
        data = dataclasses.asdict(self) | {"kind": self.kind.name}
        # Whole or absent: others read it while this process still runs.
        file = failure_file(folder, self.process)
        aside = file.with_suffix(".tmp")
        aside.write_text(json.dumps(data), encoding="utf-8")
        aside.replace(file)


def failure_file(folder: Path, process: int) -> Path:
    """Returns where a process says why it failed; one that was killed leaves none."""
    return folder / f"failure-{process}.json"


def first_failure(folder: Path) -> Failure | None:
    """Returns the failure that came first; one that only followed from another's comes last."""
    failures = _failures(folder)
    failures.sort(key=lambda f: (f.kind is FailureKind.PEER_LOST, f.failed_at))
    return failures[0] if failures else None


def without_failures(lines: list[str], folder: Path) -> list[str]:
    """Returns what processes have printed, less the failures with which their logs end.

    Processes that break the same rule all say so; a person needs to read it once.

    Args:
        lines: From their logs.
        folder: The attempt's; a process leaves its failure there before it prints it.
    """
    if not lines:
        return lines
    said = {line for failure in _failures(folder) for line in failure.text.splitlines()}
    return [line for line in lines if line not in said]


def _failures(folder: Path) -> list[Failure]:
    failures = []
    for path in folder.glob("failure-*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        failures.append(Failure(**data | {"kind": FailureKind[data["kind"]]}))
    return failures
