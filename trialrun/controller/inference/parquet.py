"""A table as one Parquet file, a row group for each chunk; imports pyarrow (``trialrun[parquet]``).

Values of several dimensions are lists of a fixed size, nested: shape (3, 4) is a list of 3 lists
of 4 numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trialrun._errors import ConfigurationError, InvalidTrialError
from trialrun.controller.inference.columns import Columns, ColumnType
from trialrun.controller.inference.tables import TableWriter

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ConfigurationError(
        "Parquet needs pyarrow, which is not installed. Run: pip install 'trialrun[parquet]', or "
        "give --format safetensors."
    ) from error

FILE = "predictions.parquet"
_TYPES = {
    torch.bool: pa.bool_(),
    torch.int8: pa.int8(),
    torch.int16: pa.int16(),
    torch.int32: pa.int32(),
    torch.int64: pa.int64(),
    torch.uint8: pa.uint8(),
    torch.uint16: pa.uint16(),
    torch.uint32: pa.uint32(),
    torch.uint64: pa.uint64(),
    torch.float16: pa.float16(),
    torch.float32: pa.float32(),
    torch.float64: pa.float64(),
}


class ParquetWriter(TableWriter):
    """Writes ``predictions.parquet``; bfloat16, which Parquet has not, becomes float32."""

    def __init__(self, folder: Path, columns: Mapping[str, ColumnType]) -> None:
        self.columns = {name: _stored(name, column) for name, column in columns.items()}
        self._schema = pa.schema(
            [pa.field(name, _arrow_type(column), False) for name, column in self.columns.items()]
        )
        self._writer = pq.ParquetWriter(folder / FILE, self._schema)

    def write(self, chunk: Columns) -> None:
        """Writes a row group."""
        arrays = [
            _arrow_array(values.to(self.columns[name].dtype), self.columns[name])
            for name, values in chunk.items()
        ]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))

    def close(self) -> None:
        """Writes the file's footer."""
        self._writer.close()


def _stored(name: str, column: ColumnType) -> ColumnType:
    if column.dtype is torch.bfloat16:
        column = dataclasses.replace(column, dtype=torch.float32)
    if column.dtype not in _TYPES:
        raise InvalidTrialError(
            f"Parquet has no type for {name!r}, which is {column}. Return real numbers, such as "
            "torch.view_as_real(...), or give --format safetensors."
        )
    if 0 in column.shape:
        raise InvalidTrialError(
            f"Parquet has no lists of no elements, but {name!r} is {column}. Leave it out, or give "
            "--format safetensors."
        )
    return column


def _arrow_type(column: ColumnType) -> Any:
    found = _TYPES[column.dtype]
    for size in reversed(column.shape):
        found = pa.list_(pa.field("element", found, False), size)
    return found


def _arrow_array(values: torch.Tensor, column: ColumnType) -> Any:
    array = pa.array(values.reshape(-1).numpy())
    for axis in reversed(range(len(column.shape))):  # from the innermost list outwards
        inner = dataclasses.replace(column, shape=column.shape[axis:])
        array = pa.FixedSizeListArray.from_arrays(array, type=_arrow_type(inner))
    return array
