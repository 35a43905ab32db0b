"""A table as safetensors files, one for each chunk, whose tensors are the columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from trialrun._errors import InvalidTrialError
from trialrun.controller.inference.columns import Columns, ColumnType
from trialrun.controller.inference.tables import TableWriter


class ShardWriter(TableWriter):
    """Writes ``predictions-00000.safetensors``, ``predictions-00001.safetensors``, ..."""

    def __init__(self, folder: Path, columns: Mapping[str, ColumnType]) -> None:
        self.columns = dict(columns)
        self._folder = folder
        self._count = 0
        for name, column in columns.items():
            if column.dtype is torch.complex128:
                raise InvalidTrialError(
                    f"safetensors has no type for {name!r}, which is {column}. Return "
                    "torch.view_as_real(...), or complex64."
                )

    def write(self, chunk: Columns) -> None:
        """Writes a file."""
        path = self._folder / f"predictions-{self._count:05}.safetensors"
        try:
            save_file(chunk, path)
        except Exception as error:
            # safetensors reports a full disk as an error of its own class.
            raise OSError(f"{path.name}: {error}") from error
        self._count += 1

    def close(self) -> None:
        """Does nothing: every file is finished."""
