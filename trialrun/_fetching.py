"""Fetches the records of one batch from a dataset: in one call where the dataset can answer it.

Whatever the way, the batch is the one that torch's ``default_collate`` makes of single records;
gathering it whole is only faster. An Arrow table, of which torch makes nothing, gives its columns
in their own types.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset, default_collate

if TYPE_CHECKING:
    from trialrun._data_loader import DataLoader, MapDataset

RecordIds = NDArray[np.int64]
"""The records of a batch of B, in order, shape (B,)."""


class Fetcher(abc.ABC):
    """Fetches from one dataset.

    Args:
        dataset: Where the records are.
    """

    may_draw: ClassVar[bool] = True
    """Whether fetching can execute code of the user's, and so draw random numbers."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    @abc.abstractmethod
    def records(self, ids: RecordIds) -> list[Any]:
        """Returns the records one by one, for a collate function of the user's."""

    def batch(self, ids: RecordIds) -> Any:
        """Returns what ``default_collate`` makes of the records."""
        return default_collate(self.records(ids))


class RecordFetcher(Fetcher):
    """Asks for every record by itself."""

    def records(self, ids: RecordIds) -> list[Any]:
        """Returns ``dataset[i]`` for each."""
        dataset = self._dataset
        return [dataset[record] for record in ids.tolist()]


class ListFetcher(Fetcher):
    """Asks ``__getitems__`` for a list of all records."""

    def records(self, ids: RecordIds) -> list[Any]:
        """Returns the list."""
        records: list[Any] = self._dataset.__getitems__(ids.tolist())
        return records


class TensorFetcher(Fetcher):
    """Gathers from each tensor of a ``TensorDataset``."""

    may_draw = False

    def batch(self, ids: RecordIds) -> list[torch.Tensor]:
        """Returns one tensor for each, of shape (B, ...)."""
        index = torch.from_numpy(ids)
        return [tensor.index_select(0, index.to(tensor.device)) for tensor in self._dataset.tensors]

    def records(self, ids: RecordIds) -> list[Any]:
        """Returns a tuple of tensors for each record."""
        return list(zip(*self.batch(ids), strict=True))


class ArrayFetcher(Fetcher):
    """Gathers the rows of one tensor or numeric array, which may be mapped from a file."""

    may_draw = False

    def batch(self, ids: RecordIds) -> torch.Tensor:
        """Returns a tensor of shape (B, ...)."""
        if isinstance(self._dataset, torch.Tensor):
            return self._dataset.index_select(0, torch.from_numpy(ids).to(self._dataset.device))
        return torch.from_numpy(np.ascontiguousarray(self._dataset[ids]))

    def records(self, ids: RecordIds) -> list[Any]:
        """Returns the rows, as the dataset gives them."""
        if isinstance(self._dataset, torch.Tensor):
            return list(self.batch(ids))
        return list(self._dataset[ids])


class ColumnFetcher(Fetcher):
    """A dataset of named columns that answers a list of records with a dictionary of columns."""

    def batch(self, ids: RecordIds) -> dict[str, Any]:
        """Returns for each column what ``default_collate`` makes of its values."""
        columns: Mapping[str, Any] = self._dataset[ids.tolist()]
        return {name: _collate_column(column) for name, column in columns.items()}

    def records(self, ids: RecordIds) -> list[Any]:
        """Returns a dictionary for each record."""
        records: list[Any] = self._dataset.__getitems__(ids.tolist())
        return records


class TableFetcher(Fetcher):
    """A table in memory or mapped from a file, with ``take`` and columns of one type each."""

    may_draw = False

    def batch(self, ids: RecordIds) -> dict[str, Any]:
        """Returns for each column what ``default_collate`` makes of its values."""
        rows = self._dataset.take(ids)
        return {name: _collate_column(_values(rows[name])) for name in rows.column_names}

    def records(self, ids: RecordIds) -> list[Any]:
        """Returns a dictionary for each record."""
        records: list[Any] = self._dataset.take(ids).to_pylist()
        return records


def _values(column: Any) -> Any:
    # With gaps, numbers would come as floats in one batch and as integers in the next.
    if column.null_count == 0:
        array = column.to_numpy(zero_copy_only=False)
        if _is_numeric(array):
            return array
    return column.to_pylist()


def _collate_column(column: Any) -> Any:
    if isinstance(column, torch.Tensor):
        return column
    if isinstance(column, np.ndarray) and _is_numeric(column):
        return torch.tensor(column)  # a copy: some arrays refuse to be written
    return default_collate(list(column))


def _is_numeric(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype.kind in "fciub"


def make_fetcher(dataset: MapDataset) -> Fetcher:
    """Returns the fastest way to fetch from a dataset."""
    # Exactly these types: a subclass may have its own __getitem__, which must then be asked.
    kind = type(dataset)
    if kind is TensorDataset:
        return TensorFetcher(dataset)
    if isinstance(dataset, torch.Tensor):
        return ArrayFetcher(dataset)
    if kind in (np.ndarray, np.memmap) and _is_numeric(dataset):  # type: ignore[arg-type]
        return ArrayFetcher(dataset)
    if hasattr(dataset, "__getitems__"):
        # A Hugging Face dataset, or one of its kind.
        has_columns = hasattr(dataset, "column_names") and hasattr(dataset, "features")
        return ColumnFetcher(dataset) if has_columns else ListFetcher(dataset)
    if all(hasattr(dataset, name) for name in ("take", "to_pylist", "column_names")):  # Arrow's
        return TableFetcher(dataset)
    return RecordFetcher(dataset)


class BatchFunction:
    """Makes the batch of some records as a loader describes it.

    Args:
        loader: The user's description.
    """

    def __init__(self, loader: DataLoader) -> None:
        self._fetcher = make_fetcher(loader.dataset)
        self._collate: Callable[[list[Any]], Any] | None = loader.collate_fn
        self.may_draw = self._fetcher.may_draw or self._collate is not None

    def __call__(self, ids: RecordIds) -> Any:
        """Fetches and collates."""
        if self._collate is None:
            return self._fetcher.batch(ids)
        return self._collate(self._fetcher.records(ids))
