"""Index arithmetic: which records belong to a batch, as a function that keeps no state.

Reading order: ``addresses`` (random words by address), ``permutation`` (the shuffle of one pass),
``_random_access`` (what every sampler promises), ``_index_samplers``, ``_batch_samplers``.

Names are handed on lazily (PEP 562): ``from trialrun.samplers.addresses import ...`` and
``from trialrun.samplers.permutation import ...`` need numpy, not torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trialrun.samplers._batch_samplers import BatchSampler, SkipBatchSampler
    from trialrun.samplers._index_samplers import (
        DistributedSampler,
        RepeatSampler,
        ReproducibleShuffleSampler,
        SequentialSampler,
    )
    from trialrun.samplers._random_access import (
        RandomAccess,
        RandomAccessBatchSampler,
        RandomAccessSampler,
    )
    from trialrun.samplers.addresses import AddressBook, Stream
    from trialrun.samplers.permutation import Permutation

__all__ = [
    "AddressBook",
    "BatchSampler",
    "DistributedSampler",
    "Permutation",
    "RandomAccess",
    "RandomAccessBatchSampler",
    "RandomAccessSampler",
    "RepeatSampler",
    "ReproducibleShuffleSampler",
    "SequentialSampler",
    "SkipBatchSampler",
    "Stream",
]

_HOMES = {
    "AddressBook": "addresses",
    "BatchSampler": "_batch_samplers",
    "DistributedSampler": "_index_samplers",
    "Permutation": "permutation",
    "RandomAccess": "_random_access",
    "RandomAccessBatchSampler": "_random_access",
    "RandomAccessSampler": "_random_access",
    "RepeatSampler": "_index_samplers",
    "ReproducibleShuffleSampler": "_index_samplers",
    "SequentialSampler": "_index_samplers",
    "SkipBatchSampler": "_batch_samplers",
    "Stream": "addresses",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'trialrun.samplers' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"trialrun.samplers.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
