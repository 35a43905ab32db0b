"""Writes the predictions of a checkpoint into a folder that is whole or absent.

predictions.parquet             or predictions-00000.safetensors, ...
manifest.json                   what was predicted, with which checkpoint, and what it is
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

import trialrun
from trialrun._errors import InvalidDataLoaderError
from trialrun.controller.checkpoints.manifest import make_manifest
from trialrun.controller.engine.building import Split
from trialrun.controller.engine.data.prediction_data import PredictionData
from trialrun.controller.engine.inference import Inference
from trialrun.controller.inference.columns import (
    RECORD,
    Columns,
    ColumnType,
    column_types,
    read_prediction,
    require_alike,
)
from trialrun.controller.inference.evaluating import OpenedCheckpoint
from trialrun.controller.inference.tables import ChunkedTable, TableFormat, open_table
from trialrun.controller.whole_folder import written_whole

MANIFEST = "manifest.json"
CHUNK_BYTES = 64 * 2**20
"""Rows are written when they are as much; predictions need about three times that in memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicted:
    """What was written.

    Args:
        num_records: Rows of the table.
        columns: Names and types, as stored.
    """

    num_records: int
    columns: dict[str, ColumnType]


def predict_into(
    opened: OpenedCheckpoint,
    split: Split,
    folder: Path,
    table_format: TableFormat,
    chunk_bytes: int = CHUNK_BYTES,
) -> Predicted:
    """Predicts for every record of the data, in the order of the dataset.

    All processes that share the trial's slots call it; the chief writes what all have found, in the
    order of the batches, so the files are the same for any number of processes.

    Args:
        opened: The checkpoint.
        split: Which data.
        folder: Where predictions go: nothing is there, or an empty folder.
        table_format: How they are stored.
        chunk_bytes: Rows are written when they are as much.

    Raises:
        ConfigurationError: The folder is not empty, or a library is missing.
        InvalidTrialError: The trial has no such data or no ``predict_batch``, or this returned what
            it must not.
        SlotError: User code raised.
        TrialrunError: The folder cannot be written.
    """
    if not opened.inference.runtime.collectives.is_chief:
        for _ in _in_order(opened.inference, opened.inference.prediction_data(split)):
            raise AssertionError("what all have found is the chief's")
        return Predicted(num_records=0, columns={})
    with written_whole(folder) as aside:
        data = opened.inference.prediction_data(split)
        predicted = _predict(opened.inference, data, aside, table_format, chunk_bytes)
        manifest = {
            "experiment": opened.experiment.id,
            "trial": opened.trial.id,
            "checkpoint": opened.checkpoint.uuid,
            "digest": opened.checkpoint.digest,
            "batches": opened.checkpoint.batches,
            "data": split.value,
            "record_order": data.order,
            "num_records": predicted.num_records,
            "format": table_format.value,
            "columns": {
                name: {
                    "dtype": str(column.dtype).removeprefix("torch."),
                    "shape": list(column.shape),
                }
                for name, column in predicted.columns.items()
            },
            "files": make_manifest(aside),
            "versions": {"trialrun": trialrun.__version__, "torch": torch.__version__},
        }
        text = json.dumps(manifest, indent=2)
        (aside / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return predicted


class _Prediction(NamedTuple):
    """What ``predict_batch`` said of one batch, on the CPU."""

    batch_idx: int
    records: torch.Tensor
    columns: Columns


def _in_order(inference: Inference, data: PredictionData) -> Iterator[_Prediction]:
    """Yields the predictions of all processes to the chief, in the order of the batches."""
    own = (
        _Prediction(
            raw.batch_idx,
            torch.from_numpy(raw.records),
            read_prediction(raw.returned, len(raw.records), raw.batch_idx),
        )
        for raw in inference.predictions(data)
    )
    collectives = inference.runtime.collectives
    if collectives.size == 1 or data.num_rounds is None:
        # Where slot 0 has all batches other processes have none.
        yield from own
        return
    for _ in range(data.num_rounds):
        # The last round may have fewer.
        found = list(itertools.islice(own, len(inference.runtime.execution.slot_numbers)))
        gathered = collectives.gather([tuple(one) for one in found], "predictions")
        for row in gathered or ():
            yield from itertools.starmap(_Prediction, row)


def _predict(
    inference: Inference,
    data: PredictionData,
    folder: Path,
    table_format: TableFormat,
    chunk_bytes: int,
) -> Predicted:
    table: ChunkedTable | None = None
    first: dict[str, ColumnType] = {}
    stored: dict[str, ColumnType] = {}
    for batch_idx, records, predicted in _in_order(inference, data):
        types = column_types(predicted)
        if table is None:
            first = types
            numbered = {RECORD: ColumnType(dtype=torch.int64, shape=()), **types}
            writer = open_table(table_format, folder, numbered)
            stored, table = writer.columns, ChunkedTable(writer, chunk_bytes)
        require_alike(types, first, batch_idx)
        ordered = {name: predicted[name] for name in first}
        table.add({RECORD: records, **ordered})
    if table is None:
        raise InvalidDataLoaderError(
            "The data gave no batch, so there is nothing to predict. Check what its loader reads."
        )
    table.close()
    return Predicted(num_records=table.num_rows, columns=stored)
