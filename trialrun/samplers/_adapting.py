"""What may stand where a sampler is expected: ours, torch's, or anybody's."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import torch.utils.data
from torch.utils.data import Sampler

from trialrun.samplers._foreign import ForeignBatches, ForeignRecords, as_batches
from trialrun.samplers._foreign_copies import is_iterable_sampler
from trialrun.samplers._random_access import (
    RandomAccess,
    RandomAccessBatchSampler,
    RandomAccessSampler,
)
from trialrun.samplers.sequences import (
    Batched,
    Batches,
    Count,
    IndexSequence,
    Listed,
    Records,
    Subset,
)

logger = logging.getLogger(__name__)

# Orders that are written out, as torch's DataLoader takes them.
_LISTS = (list, tuple, range, np.ndarray, torch.Tensor)

AnySampler: TypeAlias = Sampler[int] | Iterable[int]
AnyBatchSampler: TypeAlias = Sampler[list[int]] | Iterable[list[int]]


class ForeignSampler(RandomAccessSampler):
    """A sampler of records from elsewhere, iterated over once in each pass.

    To give one directly to another sampler does the same with seed 0, and a warning once.

    Args:
        sampler: Any object with ``__len__`` and ``__iter__``, which is deterministic but for the
            generators of torch, numpy and ``random``.
        seed: For what it draws in each pass.

    Raises:
        TypeError: It is no sampler, or one that needs no such help.
        ValueError: The seed is negative or no whole number.
    """

    def __init__(self, sampler: AnySampler, seed: int = 0) -> None:
        _require_foreign(sampler)
        _require_sampler(sampler, "records", "SequentialSampler(len(dataset))")
        super().__init__(ForeignRecords(sampler, seed))


class ForeignBatchSampler(RandomAccessBatchSampler):
    """A sampler of batches from elsewhere, iterated over once in each pass.

    To give one directly to another sampler does the same with seed 0, and a warning once.

    Args:
        batch_sampler: Any object with ``__len__`` and ``__iter__``, as for ``ForeignSampler``.
        seed: For what it draws in each pass.

    Raises:
        TypeError: It is no sampler, or one that needs no such help.
        ValueError: The seed is negative or no whole number.
    """

    def __init__(self, batch_sampler: AnyBatchSampler, seed: int = 0) -> None:
        _require_foreign(batch_sampler)
        _require_sampler(batch_sampler, "batches", "BatchSampler(sampler, batch_size)")
        super().__init__(ForeignBatches(batch_sampler, seed))


def as_sampler(sampler: AnySampler, seed: int = 0) -> RandomAccessSampler:
    """Returns a sampler of records as one of ours; one from elsewhere is iterated over.

    Args:
        sampler: Ours, torch's or anybody's.
        seed: For what a sampler from elsewhere draws.

    Raises:
        TypeError: It is no such sampler.
    """
    if isinstance(sampler, RandomAccessSampler):
        return sampler
    return RandomAccessSampler(records_of(sampler, seed))


def as_batch_sampler(batch_sampler: AnyBatchSampler, seed: int = 0) -> RandomAccessBatchSampler:
    """Returns a sampler of batches as one of ours; one from elsewhere is iterated over.

    Args:
        batch_sampler: Ours, torch's or anybody's.
        seed: For what a sampler from elsewhere draws.

    Raises:
        TypeError: It is no such sampler.
    """
    if isinstance(batch_sampler, RandomAccessBatchSampler):
        return batch_sampler
    return RandomAccessBatchSampler(batches_of(batch_sampler, seed))


def records_of(sampler: object, seed: int = 0) -> IndexSequence[Records]:
    """Returns the sequence behind a sampler of records.

    Raises:
        TypeError: It is no such sampler.
        ValueError: It is a list, but not of whole numbers of at least 0.
    """
    if isinstance(sampler, RandomAccessSampler):
        return sampler.sequence
    if isinstance(sampler, range) and sampler == range(len(sampler)):
        return Count(len(sampler))
    if isinstance(sampler, _LISTS):
        return Subset(sampler)
    _require_sampler(sampler, "records", "SequentialSampler(len(dataset))")
    # A subclass may have its own order, which must then be asked for.
    if type(sampler) is torch.utils.data.SequentialSampler:
        return Count(len(sampler))
    _warn_of_iteration(_name(sampler), "ForeignSampler(sampler, seed)")
    return ForeignRecords(sampler, seed)


def batches_of(batch_sampler: object, seed: int = 0) -> IndexSequence[Batches]:
    """Returns the sequence behind a sampler of batches.

    Raises:
        TypeError: It is no such sampler, or a list of something else than batches.
    """
    if isinstance(batch_sampler, RandomAccessBatchSampler):
        return batch_sampler.sequence
    if isinstance(batch_sampler, list | tuple):
        return Listed.of(as_batches(type(batch_sampler).__name__, list(batch_sampler)))
    _require_sampler(batch_sampler, "batches", "BatchSampler(sampler, batch_size)")
    if type(batch_sampler) is torch.utils.data.BatchSampler:
        records = records_of(batch_sampler.sampler, seed)
        return Batched(records, batch_sampler.batch_size, batch_sampler.drop_last)
    _warn_of_iteration(_name(batch_sampler), "ForeignBatchSampler(batch_sampler, seed)")
    return ForeignBatches(batch_sampler, seed)


def _require_sampler(sampler: object, noun: str, example: str) -> None:
    missing = [name for name in ("__iter__", "__len__") if not hasattr(sampler, name)]
    if missing:
        fault = f"it has no {' and no '.join(missing)}"
    elif not is_iterable_sampler(sampler):
        fault = "it gives items by number or key, as a dataset does"
    elif isinstance(sampler, RandomAccess) or (
        noun == "records" and isinstance(sampler, torch.utils.data.BatchSampler)
    ):
        # What is ours and of the right kind was taken before.
        fault = f"it is one of {'batches' if noun == 'records' else 'records'}"
    else:
        return
    raise TypeError(
        f"{_name(sampler)} is not a sampler of {noun}: {fault}. Give an object with __iter__ and "
        f"__len__ over {noun}, for example trialrun.samplers.{example}."
    )


def _require_foreign(sampler: object) -> None:
    if isinstance(sampler, RandomAccess):
        raise TypeError(
            f"{_name(sampler)} answers for any window by itself. Give it as it is, without the "
            "adapter for samplers from elsewhere."
        )


def _name(sampler: object) -> str:
    return f"{type(sampler).__module__}.{type(sampler).__name__}"


# Each slot builds a chain of its own over the same sampler: one warning is enough.
@functools.cache
def _warn_of_iteration(name: str, adapter: str) -> None:
    logger.warning(
        "%s is iterated over once in each pass: its cost and memory grow with the whole pass, and "
        "it resumes exactly only if it is deterministic when seeded. "
        "trialrun.samplers.%s says that this is meant.",
        name,
        adapter,
    )
