"""What an observer writes down in a process, and what is read from all of them afterwards.

Lines of JSON, one file for each process, each line written at once: a killed process leaves all of
its own behind.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from trialrun.controller.verification.kept_state import Change


class Diary:
    """Writes lines in one process.

    Args:
        folder: That of the run; it exists.
    """

    def __init__(self, folder: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = os.open(folder / f"{os.getpid()}.jsonl", flags, 0o644)

    def write(self, **entry: Any) -> None:
        """Writes one line."""
        os.write(self._descriptor, (json.dumps(entry) + "\n").encode())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diaries:
    """What the processes of a run have written.

    Args:
        records: By (batch, slot), the fingerprints of all that the slot was given for that batch:
            several where it was trained again after a stop.
        changed: What training has changed of what the trial keeps.
        num_workers: Loader workers of the training data; None where the loader is not trialrun's.
        num_validation_batches: Batches that were evaluated by all slots.
        learns_from_validations: Whether a scheduler goes by a metric.
    """

    records: dict[tuple[int, int], set[str]]
    changed: list[Change]
    num_workers: int | None
    num_validation_batches: int
    learns_from_validations: bool


def read_diaries(folder: Path) -> Diaries:
    """Reads what all processes of a run have left in its folder."""
    records: dict[tuple[int, int], set[str]] = collections.defaultdict(set)
    changed: dict[str, Change] = {}
    num_workers: int | None = None
    evaluated = 0
    learns_from_validations = False
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if "records" in entry:
                records[entry["batch"], entry["slot"]].add(entry["records"])
            for name, keeper, is_saved in entry.get("changed", ()):
                # A value may be in the saved state by chance; in the end it is not.
                is_saved = is_saved and (name not in changed or changed[name].is_saved)
                changed[name] = Change(name=name, keeper=keeper, is_saved=is_saved)
            num_workers = entry.get("num_workers", num_workers)
            evaluated += "evaluated" in entry
            learns_from_validations |= entry.get("learns_from_validations", False)
    return Diaries(
        records=dict(records),
        changed=sorted(changed.values()),
        num_workers=num_workers,
        num_validation_batches=evaluated,
        learns_from_validations=learns_from_validations,
    )
