"""What several processes do with a checkpoint, as jobs of a ``process_launch.Launcher``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trialrun.controller.bookkeeping import Database
from trialrun.controller.engine.building import Split
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.inference.evaluating import OpenedCheckpoint, open_checkpoint
from trialrun.controller.inference.predicting import predict_into
from trialrun.controller.inference.tables import TableFormat


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    database_url: str
    experiment: int
    split: Split = Split.VALIDATION

    def open(self, collectives: Collectives) -> OpenedCheckpoint:
        database = Database.open(self.database_url, create=False)
        return open_checkpoint(database, self.experiment, "latest", collectives=collectives)


class EvaluateJob(_Job):
    """Gives the metrics."""

    def __call__(self, collectives: Collectives) -> dict[str, float]:
        return self.open(collectives).inference.evaluate(self.split).metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictJob(_Job):
    """Leaves a folder, and gives the number of its rows, which only the chief knows."""

    folder: Path
    table_format: TableFormat

    def __call__(self, collectives: Collectives) -> int:
        # Several chunks, so that a row in another one would show.
        opened = self.open(collectives)
        found = predict_into(opened, self.split, self.folder, self.table_format, chunk_bytes=100)
        return found.num_records
