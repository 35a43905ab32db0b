"""Which records make batch k of slot s: the chain of samplers that a loader describes, for a slot.

Training:    records -> Repeat -> Distributed -> Batch, or batches -> Repeat -> Distributed, as
             ``trialrun.samplers.record_order`` builds them. To go on at batch k is to take from k
             on: the skip is an addition.
Validation:  the records or batches as they are, each once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialrun._data_loader import DataLoader
from trialrun._errors import InvalidDataLoaderError
from trialrun._wording import count
from trialrun.samplers import (
    BatchSampler,
    DealtBatches,
    DealtRecords,
    RandomAccessBatchSampler,
    RandomAccessSampler,
    ReproducibleShuffleSampler,
    SequentialSampler,
    as_batch_sampler,
    as_sampler,
)
from trialrun.samplers.sequences import Batches, IndexSequence, describe, is_complete

# What the controller does itself, once for each slot and attempt.
_OWN_STAGES = ("Distributed", "Skip")
# Items of two passes of which a fingerprint is made.
_FINGERPRINT_ITEMS = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOrder:
    """The order of a loader's records, before it is shared out among slots.

    Args:
        dataset_length: N, the records of the dataset.
        batch_size: Records in a slot's share of a batch; where a batch sampler decides, its most,
            or the average where that is not known.
        drop_last: Whether an epoch is rounded down to whole batches.
        is_given: Whether the trial gave the sampler.
        source: The records of a pass, or its batches where the user gave a batch sampler.
    """

    dataset_length: int
    batch_size: int
    drop_last: bool
    is_given: bool
    source: RandomAccessSampler | RandomAccessBatchSampler

    @classmethod
    def of(cls, loader: DataLoader, seed: int) -> DataOrder:
        """Reads a loader.

        Args:
            loader: The user's description.
            seed: The trial's seed.

        Raises:
            InvalidDataLoaderError: A sampler is none, or does not fit.
        """
        dataset_length = len(loader.dataset)
        source: RandomAccessSampler | RandomAccessBatchSampler
        with _as_loader_errors():
            if loader.batch_sampler is not None:
                source = as_batch_sampler(loader.batch_sampler, seed)
            elif loader.sampler is not None:
                source = as_sampler(loader.sampler, seed)
            else:
                source = SequentialSampler(dataset_length)
                if loader.shuffle:
                    source = ReproducibleShuffleSampler(source, seed)
        if len(source) == 0:
            raise InvalidDataLoaderError(
                f"The sampler {source.sequence} gives nothing in a pass. Check what it selects."
            )
        if set(_OWN_STAGES) & set(source.sequence.stages):
            raise InvalidDataLoaderError(
                f"The sampler is the chain {source.sequence}. trialrun itself distributes it over "
                "the slots and skips what was trained on; give the chain only up to there, such "
                "as ReproducibleShuffleSampler(...)."
            )
        num_records = source.sequence.min_num_records
        if num_records > dataset_length:
            raise InvalidDataLoaderError(
                f"The sampler {source.sequence} is over {num_records} records, and "
                f"the dataset has {dataset_length}. Make it of the dataset that the loader has."
            )
        batch_size = loader.batch_size
        if isinstance(source, RandomAccessBatchSampler):
            batch_size = source.sequence.records_per_item
            if batch_size == 1:  # also where it is not known
                batch_size = max(1, round(dataset_length / len(source)))
        return cls(
            dataset_length=dataset_length,
            batch_size=batch_size,
            drop_last=loader.drop_last,
            is_given=loader.sampler is not None or loader.batch_sampler is not None,
            source=source,
        )

    def describe(self) -> str:
        """Returns the chain in words, such as "Sequential -> Shuffle".

        Names do not tell everything of a sampler of the trial's own, such as its seed or weights;
        so a fingerprint of what it gives follows them.
        """
        chain = str(self.source.sequence)
        return f"{chain} #{self._fingerprint()}" if self.is_given else chain

    def _fingerprint(self) -> str:
        """Returns a hash of what decides the order, or of its beginning where that is not known."""
        hashed = hashlib.blake2b(digest_size=4)
        description = describe(self.source.sequence, _hash_array)
        if is_complete(description):
            hashed.update(json.dumps(description, sort_keys=True).encode())
            return hashed.hexdigest()
        # A sampler from elsewhere: the first items of two passes.
        length = min(_FINGERPRINT_ITEMS, self.pass_length)
        with _as_loader_errors():
            stream = self.training(1).stream
            for start in (0, self.pass_length):
                for item in stream.take(start, start + length):
                    hashed.update(np.asarray(item, dtype="<i8").tobytes())
        return hashed.hexdigest()

    @property
    def pass_length(self) -> int:
        """Records in one pass, or batches where the user gave a batch sampler."""
        return len(self.source)

    def epoch_length(self, num_slots: int) -> int:
        """Returns the global batches in an epoch, which is one pass in whole batches.

        Raises:
            InvalidDataLoaderError: ``drop_last`` leaves none.
        """
        per_batch = num_slots
        if isinstance(self.source, RandomAccessSampler):
            per_batch *= self.batch_size
        full, rest = divmod(self.pass_length, per_batch)
        if self.drop_last and full == 0:
            raise InvalidDataLoaderError(
                f"drop_last=True leaves no batch in an epoch: a pass has "
                f"{count(self.pass_length, 'record')}, fewer than the {per_batch} of one batch "
                f"over {count(num_slots, 'slot')}. Choose a smaller batch size, or drop_last=False."
            )
        return full if self.drop_last else full + (rest > 0)

    def training(self, num_slots: int) -> DealtRecords | DealtBatches:
        """Returns the endless order that the slots share."""
        with _as_loader_errors():
            if isinstance(self.source, RandomAccessBatchSampler):
                return DealtBatches(source=self.source.sequence, num_slots=num_slots)
            return DealtRecords(
                source=self.source.sequence, num_slots=num_slots, batch_size=self.batch_size
            )

    def validation(self) -> IndexSequence[Batches]:
        """Returns the finite sequence of all batches.

        Raises:
            InvalidDataLoaderError: The sampler has no end.
        """
        if self.source.is_endless:
            raise InvalidDataLoaderError(
                f"The sampler {self.source.sequence} of the validation data has no end. Give a "
                "finite one."
            )
        if isinstance(self.source, RandomAccessBatchSampler):
            return self.source.sequence
        return BatchSampler(self.source, self.batch_size, self.drop_last).sequence


def _hash_array(array: NDArray[Any]) -> str:
    return hashlib.blake2b(
        f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes(),
        digest_size=16,
    ).hexdigest()


@contextlib.contextmanager
def _as_loader_errors() -> Iterator[None]:
    """Says of a sampler's complaint that it is the user's loader which is wrong."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InvalidDataLoaderError(f"The DataLoader's sampler does not fit: {error}") from error
