"""Where predictions go: a table that is written chunk by chunk, in bounded memory."""

from __future__ import annotations

import abc
import enum
from collections.abc import Mapping
from pathlib import Path

import torch

from trialrun.controller.inference.columns import Columns, ColumnType


class TableFormat(enum.Enum):
    """How predictions are stored."""

    PARQUET = "parquet"
    SAFETENSORS = "safetensors"


class TableWriter(abc.ABC):
    """Writes one table into a folder.

    Rows are in the files in the order in which they were written, and the files in the order of
    their names. A table that was not closed may lack rows.

    Args:
        folder: An existing folder.
        columns: Names and types, in the order of the table.

    Raises:
        InvalidTrialError: The format cannot hold a column; the message names it.
    """

    @abc.abstractmethod
    def __init__(self, folder: Path, columns: Mapping[str, ColumnType]) -> None: ...

    columns: dict[str, ColumnType]
    """The types as they are stored."""

    @abc.abstractmethod
    def write(self, chunk: Columns) -> None:
        """Writes rows."""

    @abc.abstractmethod
    def close(self) -> None:
        """Finishes the files; nothing can be written afterwards."""


class ChunkedTable:
    """Collects the rows of small batches, and writes them as chunks of about one size.

    Args:
        writer: Where chunks go.
        chunk_bytes: A chunk is written as soon as it is as large.
    """

    def __init__(self, writer: TableWriter, chunk_bytes: int) -> None:
        self.num_rows = 0
        self._writer = writer
        self._chunk_bytes = chunk_bytes
        self._waiting: list[Columns] = []
        self._waiting_bytes = 0

    def add(self, rows: Columns) -> None:
        """Adds the rows of a batch."""
        self._waiting.append(rows)
        self._waiting_bytes += sum(values.nbytes for values in rows.values())
        self.num_rows += len(next(iter(rows.values())))
        if self._waiting_bytes >= self._chunk_bytes:
            self._write()

    def close(self) -> None:
        """Writes what is waiting and finishes the files."""
        if self._waiting:
            self._write()
        self._writer.close()

    def _write(self) -> None:
        names = self._waiting[0]
        chunk = {name: torch.cat([rows[name] for rows in self._waiting]) for name in names}
        self._waiting, self._waiting_bytes = [], 0
        self._writer.write(chunk)


def open_table(format: TableFormat, folder: Path, columns: Mapping[str, ColumnType]) -> TableWriter:
    """Returns the writer of a format; the library that it needs is imported now.

    Raises:
        ConfigurationError: The library is not installed.
        InvalidTrialError: The format cannot hold a column.
    """
    if format is TableFormat.PARQUET:
        from trialrun.controller.inference.parquet import ParquetWriter

        return ParquetWriter(folder, columns)
    from trialrun.controller.inference.shards import ShardWriter

    return ShardWriter(folder, columns)
