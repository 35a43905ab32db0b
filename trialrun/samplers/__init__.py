"""Index arithmetic: which records belong to a batch, as a function that keeps no state.

Reading order: ``addresses`` (random words by address), ``permutation`` (the shuffle of one pass),
``sequences`` (all arithmetic on positions), ``record_order`` (which batch holds which record); then
torch's face of it: ``_random_access``, ``_index_samplers``, ``_batch_samplers``, and what adapts
other people's samplers, ``_adapting`` and ``_foreign``.

Names are handed on lazily (PEP 562): the first four modules and their names need numpy, not torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trialrun.samplers._adapting import (
        ForeignBatchSampler,
        ForeignSampler,
        as_batch_sampler,
        as_sampler,
    )
    from trialrun.samplers._batch_samplers import (
        BatchSampler,
        DistributedBatchSampler,
        LengthGroupedBatchSampler,
        RepeatBatchSampler,
        ReproducibleShuffleBatchSampler,
        SkipBatchSampler,
    )
    from trialrun.samplers._index_samplers import (
        DistributedSampler,
        MixtureSampler,
        RepeatSampler,
        ReproducibleShuffleSampler,
        SequentialSampler,
        SkipSampler,
        SubsetSampler,
        WeightedSampler,
    )
    from trialrun.samplers._random_access import (
        RandomAccess,
        RandomAccessBatchSampler,
        RandomAccessSampler,
    )
    from trialrun.samplers.addresses import (
        AddressBook,
        Stream,
    )
    from trialrun.samplers.permutation import (
        Permutation,
    )
    from trialrun.samplers.record_order import (
        BatchRecords,
        DealtBatches,
        DealtRecords,
        RecordOrder,
        RecordUse,
    )

__all__ = [
    "AddressBook",
    "BatchRecords",
    "BatchSampler",
    "DealtBatches",
    "DealtRecords",
    "DistributedBatchSampler",
    "DistributedSampler",
    "ForeignBatchSampler",
    "ForeignSampler",
    "LengthGroupedBatchSampler",
    "MixtureSampler",
    "Permutation",
    "RandomAccess",
    "RandomAccessBatchSampler",
    "RandomAccessSampler",
    "RecordOrder",
    "RecordUse",
    "RepeatBatchSampler",
    "RepeatSampler",
    "ReproducibleShuffleBatchSampler",
    "ReproducibleShuffleSampler",
    "SequentialSampler",
    "SkipBatchSampler",
    "SkipSampler",
    "Stream",
    "SubsetSampler",
    "WeightedSampler",
    "as_batch_sampler",
    "as_sampler",
]

_HOMES = {
    "AddressBook": "addresses",
    "BatchRecords": "record_order",
    "BatchSampler": "_batch_samplers",
    "DealtBatches": "record_order",
    "DealtRecords": "record_order",
    "DistributedBatchSampler": "_batch_samplers",
    "DistributedSampler": "_index_samplers",
    "ForeignBatchSampler": "_adapting",
    "ForeignSampler": "_adapting",
    "LengthGroupedBatchSampler": "_batch_samplers",
    "MixtureSampler": "_index_samplers",
    "Permutation": "permutation",
    "RandomAccess": "_random_access",
    "RandomAccessBatchSampler": "_random_access",
    "RandomAccessSampler": "_random_access",
    "RecordOrder": "record_order",
    "RecordUse": "record_order",
    "RepeatBatchSampler": "_batch_samplers",
    "RepeatSampler": "_index_samplers",
    "ReproducibleShuffleBatchSampler": "_batch_samplers",
    "ReproducibleShuffleSampler": "_index_samplers",
    "SequentialSampler": "_index_samplers",
    "SkipBatchSampler": "_batch_samplers",
    "SkipSampler": "_index_samplers",
    "Stream": "addresses",
    "SubsetSampler": "_index_samplers",
    "WeightedSampler": "_index_samplers",
    "as_batch_sampler": "_adapting",
    "as_sampler": "_adapting",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'trialrun.samplers' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"trialrun.samplers.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
