"""The description of a data loader, and what trialrun must know of a batch: its length, its device.

A user describes *what* to load. Which records, in which order, from which batch on is decided by
the controller, which builds the sampler chain for each slot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import IterableDataset

from trialrun._errors import InvalidTrialError


class MapDataset(Protocol):
    """A dataset with random access: it has a length and gives a record for each index."""

    def __len__(self) -> int:
        """Returns the number of records."""

    def __getitem__(self, index: int) -> Any:
        """Returns one record."""


@dataclasses.dataclass(frozen=True, eq=False)
class DataLoader:
    """What to load and how: torch's arguments, with the batch size of one slot.

    Args:
        dataset: Any object with ``__len__`` and ``__getitem__``. Where it is a ``TensorDataset``
            or has ``__getitems__``, it is asked once for a whole batch.
        batch_size: Records in one slot's share of a batch. The global batch is slots times that.
        shuffle: Whether every pass goes over the records in an order of its own, which is a
            function of the trial's seed and the pass.
        num_workers: Loader processes for each training process; 0 loads in the process itself. It
            changes neither the records nor what is drawn at random while loading them.
        collate_fn: Makes a batch of a list of records; default: torch's ``default_collate``.
        pin_memory: Whether batches are put into page-locked memory, for faster copies to a GPU.
        timeout: Seconds to wait for a worker's batch; 0 waits for ever.
        worker_init_fn: Called in each worker process with the worker's number.
        multiprocessing_context: How worker processes are started: ``fork``, ``spawn``,
            ``forkserver`` or a multiprocessing context.
        prefetch_factor: Batches loaded ahead by each worker; default: 2 with workers.
        persistent_workers: Whether workers of the validation data stay between validations.

    Raises:
        InvalidTrialError: A combination of arguments breaks a rule.
    """

    dataset: MapDataset
    batch_size: int = 1
    shuffle: bool = False
    num_workers: int = 0
    collate_fn: Callable[[list[Any]], Any] | None = None
    pin_memory: bool = False
    timeout: float = 0
    worker_init_fn: Callable[[int], None] | None = None
    multiprocessing_context: Any = None
    prefetch_factor: int | None = None
    persistent_workers: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.dataset, IterableDataset) or not (
            hasattr(self.dataset, "__getitem__") and hasattr(self.dataset, "__len__")
        ):
            raise InvalidTrialError(
                f"The dataset is a {type(self.dataset).__name__}, without __len__ and __getitem__. "
                "Exact resume needs random access: give a map-style dataset."
            )
        if len(self.dataset) == 0:
            raise InvalidTrialError(
                f"The dataset ({type(self.dataset).__name__}) is empty: there is nothing to load. "
                "Check the path or the split that it reads."
            )
        _require_at_least("batch_size", self.batch_size, 1)
        _require_at_least("num_workers", self.num_workers, 0)
        if self.timeout < 0:
            raise InvalidTrialError(f"timeout={self.timeout!r} is negative; 0 waits for ever.")
        if self.num_workers == 0:
            for name in ("prefetch_factor", "persistent_workers", "timeout"):
                if getattr(self, name):
                    raise InvalidTrialError(
                        f"{name}={getattr(self, name)!r} needs worker processes. Set num_workers "
                        "to 1 or more, or leave it out."
                    )
        elif self.prefetch_factor is not None:
            _require_at_least("prefetch_factor", self.prefetch_factor, 1)


def _require_at_least(name: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise InvalidTrialError(f"{name}={value!r} is not a whole number of at least {minimum}.")


def data_length(batch: Any) -> int:
    """Returns the number of records in a batch.

    Args:
        batch: A tensor or array with the records along its first dimension, or a dictionary or
            sequence, however deep, whose first value is such a one.

    Returns:
        The length of the first tensor or array.

    Raises:
        InvalidTrialError: No tensor or array is found.
    """
    if isinstance(batch, torch.Tensor | np.ndarray) and batch.ndim > 0:
        return len(batch)
    if isinstance(batch, Mapping) and batch:
        return data_length(next(iter(batch.values())))
    if isinstance(batch, Sequence) and not isinstance(batch, str | bytes) and batch:
        return data_length(batch[0])
    raise InvalidTrialError(
        f"The number of records in a batch of type {type(batch).__name__} is unknown. Override "
        "get_batch_length(batch) in the trial."
    )


def to_device(data: Any, device: torch.device) -> Any:
    """Returns the data with every tensor and numeric array, however deep, on the device.

    Args:
        data: Tensors, numpy arrays, objects with ``.to``, and dictionaries, lists, tuples and
            named tuples of them. Anything else is handed back as it is.
        device: Where to put them.
    """
    if isinstance(data, torch.Tensor):
        # From page-locked memory the copy runs beside the computation; elsewhere the flag is void.
        return data if data.device == device else data.to(device, non_blocking=True)
    if callable(getattr(data, "to", None)):
        return data.to(device)
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(to_device(value, device) for value in data))
    if isinstance(data, list | tuple):
        return type(data)([to_device(value, device) for value in data])
    if isinstance(data, np.ndarray):
        return torch.from_numpy(data).to(device) if data.dtype.kind in "fciub" else data
    if isinstance(data, Mapping):
        return {key: to_device(value, device) for key, value in data.items()}
    return data
