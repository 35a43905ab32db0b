"""What predictions are made of: named columns, alike in every batch.

N records, B records of a batch. A column of shape (3, 4) has a tensor of shape (B, 3, 4) for each
batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from trialrun._batch_contents import to_device
from trialrun._errors import InvalidTrialError
from trialrun._wording import count, type_of

RECORD = "record"
"""The column of the records' indices."""
PREDICTION = "prediction"
"""The column of what is predicted, where it has no name."""

Columns = dict[str, torch.Tensor]
"""Tensors on the CPU, in memory of their own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnType:
    """What all values of a column have in common.

    Args:
        dtype: Their type.
        shape: The shape of one value; () for a number.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"{name} {list(self.shape)}" if self.shape else name


def column_types(columns: Mapping[str, torch.Tensor]) -> dict[str, ColumnType]:
    """Returns the types of the columns of a batch."""
    return {
        name: ColumnType(dtype=values.dtype, shape=tuple(values.shape[1:]))
        for name, values in columns.items()
    }


def read_prediction(returned: Any, num_records: int, batch_idx: int) -> Columns:
    """Returns what ``predict_batch`` returned as columns, in memory of their own.

    Args:
        returned: A tensor or numeric array, or a dictionary of them.
        num_records: B.
        batch_idx: The batch, for errors.

    Raises:
        InvalidTrialError: It is something else, or its first dimension is not B; the message names
            the batch.
    """
    named = returned if isinstance(returned, Mapping) else {PREDICTION: returned}
    where = f"predict_batch returned for batch {batch_idx}"
    if not named:
        raise InvalidTrialError(
            f"{where} an empty dictionary. Return a tensor, or a dictionary of them."
        )
    columns = {}
    for name, value in named.items():
        if not isinstance(name, str) or name in ("", RECORD):
            raise InvalidTrialError(
                f"{where} a column named {name!r}. Names are strings that are not empty, and "
                f"{RECORD!r} is taken by the records' indices."
            )
        tensor = to_device(value, torch.device("cpu")) if _is_numeric(value) else None
        if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided:
            raise InvalidTrialError(
                f"{where} {_describe(value)} as {name!r}. Return dense tensors or numeric arrays, "
                "whose first dimension is the records of the batch."
            )
        if tensor.ndim == 0 or len(tensor) != num_records:
            raise InvalidTrialError(
                f"{where} {_describe(value)} as {name!r}, but the batch has "
                f"{count(num_records, 'record')}: the first dimension must be the records of "
                "the batch."
            )
        # A copy: the trial may use the same memory for its next batch.
        columns[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return columns


def require_alike(
    found: Mapping[str, ColumnType], first: Mapping[str, ColumnType], batch_idx: int
) -> None:
    """Compares the columns of a batch with those of batch 0.

    Raises:
        InvalidTrialError: Names, types or shapes differ; the message names the batch and both
            sides.
    """
    if found.keys() != first.keys():
        raise InvalidTrialError(
            f"predict_batch returned {sorted(found)} for batch {batch_idx} and {sorted(first)} for "
            "batch 0. Return the same names for every batch."
        )
    for name, column in found.items():
        if column != first[name]:
            raise InvalidTrialError(
                f"predict_batch returned {name!r} as {column} for batch {batch_idx} and as "
                f"{first[name]} for batch 0. Return the same type and shape for every record; pad "
                "what is shorter."
            )


def _is_numeric(value: Any) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray)


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{type_of(value)} of shape {tuple(value.shape)} and type {value.dtype}"
    return type_of(value)
