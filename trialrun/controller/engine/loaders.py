"""Loads the records of (batch k, slot s), and nothing else decides which they are.

Training records go through the chain ReproducibleShuffle -> Repeat -> Distributed -> Batch ->
SkipBatch for each slot; the skip is an addition, so batch 10,000 comes as fast as batch 0. What
is drawn at random in ``__getitem__`` and ``collate_fn`` comes from the address (batch, slot),
whichever process does the loading.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, Sampler, TensorDataset, default_collate

from trialrun import samplers
from trialrun._data import DataLoader, MapDataset
from trialrun.controller.engine.randomness import Generators
from trialrun.samplers.addresses import Stream

# Indices that are computed at once: numpy's cost for a call is spread over them.
_BLOCK_RECORDS = 8192


class BatchAddress(NamedTuple):
    """Which records make a batch, and from which address loading it draws."""

    batch: int
    slot: int
    records: list[int]


class _AddressedDataset(Dataset[Any]):
    """Loads the whole batch of an address; it is what loader workers execute."""

    def __init__(self, loader: DataLoader, seed: int, stream: Stream) -> None:
        self._load = _batch_function(loader)
        self._stream = stream
        # Loading computes on the CPU, also where training does not.
        self._generators = Generators(seed, torch.device("cpu"))

    def __getitem__(self, address: BatchAddress) -> Any:
        if isinstance(self._load, _GatherTensors):  # which draws nothing, and adds nothing up
            return self._load(address.records)
        self._generators.enter(self._stream, address.batch, address.slot)
        # As torch's loader workers do: how sums are rounded must not depend on who loads.
        num_threads = torch.get_num_threads()
        if num_threads == 1:
            return self._load(address.records)
        torch.set_num_threads(1)
        try:
            return self._load(address.records)
        finally:
            torch.set_num_threads(num_threads)


class _LoadRecords:
    """Record by record, then collated."""

    def __init__(self, dataset: MapDataset, collate: Callable[[list[Any]], Any]) -> None:
        self._dataset = dataset
        self._collate = collate

    def __call__(self, records: list[int]) -> Any:
        dataset = self._dataset
        return self._collate([dataset[record] for record in records])


class _LoadTogether:
    """All records of a batch in one call of ``__getitems__``, then collated."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any]) -> None:
        self._dataset = dataset
        self._collate = collate

    def __call__(self, records: list[int]) -> Any:
        return self._collate(self._dataset.__getitems__(records))


class _GatherTensors:
    """A tensor dataset: one gather for each tensor gives what collating its rows would."""

    def __init__(self, dataset: TensorDataset) -> None:
        self._tensors = dataset.tensors

    def __call__(self, records: list[int]) -> list[torch.Tensor]:
        index = torch.tensor(records)
        return [tensor[index] for tensor in self._tensors]


def _batch_function(loader: DataLoader) -> Callable[[list[int]], Any]:
    # A subclass may have its own __getitem__, which must then be asked.
    if type(loader.dataset) is TensorDataset and loader.collate_fn is None:
        return _GatherTensors(loader.dataset)
    collate = loader.collate_fn or default_collate
    if hasattr(loader.dataset, "__getitems__"):
        return _LoadTogether(loader.dataset, collate)
    return _LoadRecords(loader.dataset, collate)


class _Addresses(Sampler[BatchAddress]):
    """Hands an iterator of addresses to torch's loader, in place of single indices."""

    def __init__(self, make: Callable[[], Iterator[BatchAddress]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[BatchAddress]:
        return self._make()


class _Batches:
    """Batches of a stream of addresses, loaded here or by worker processes."""

    def __init__(
        self,
        loader: DataLoader,
        seed: int,
        stream: Stream,
        make_addresses: Callable[[], Iterator[BatchAddress]],
    ) -> None:
        self._dataset = _AddressedDataset(loader, seed, stream)
        self._make_addresses = make_addresses
        self._torch_loader: TorchDataLoader[Any] | None = None
        pin_memory = loader.pin_memory and torch.cuda.is_available()
        if loader.num_workers > 0 or pin_memory:
            self._torch_loader = TorchDataLoader(
                self._dataset,
                # The addresses take the place of indices; each is a batch of its own.
                sampler=_Addresses(make_addresses),
                batch_size=None,
                collate_fn=_identity,
                num_workers=loader.num_workers,
                pin_memory=pin_memory,
                timeout=loader.timeout,
                worker_init_fn=_WorkerStart(loader.worker_init_fn),
                # By name: the training process itself was started by another method.
                multiprocessing_context=(loader.multiprocessing_context or "fork")
                if loader.num_workers > 0
                else None,
                prefetch_factor=loader.prefetch_factor,
                persistent_workers=loader.persistent_workers,
                # Of its own, so that starting workers draws nothing from the trial's generators.
                generator=torch.Generator(),
            )

    def __iter__(self) -> Iterator[Any]:
        if self._torch_loader is not None:
            return iter(self._torch_loader)
        return map(self._dataset.__getitem__, self._make_addresses())


class _WorkerStart:
    """What a loader worker begins with, and then the user's own function."""

    def __init__(self, user_function: Callable[[int], None] | None) -> None:
        self._user_function = user_function

    def __call__(self, worker: int) -> None:
        # Service managers send it to everybody; the training process says when loading ends.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._user_function is not None:
            self._user_function(worker)


def _identity(batch: Any) -> Any:
    return batch


class TrainingData:
    """The endless stream of training batches for the slots of this process.

    Args:
        loader: The user's description; its batch size is one slot's.
        seed: The trial's seed.
        num_slots: S.
        slots: The slots of this process.
    """

    def __init__(self, loader: DataLoader, *, seed: int, num_slots: int, slots: range) -> None:
        self.num_records = len(loader.dataset)
        self.global_batch_size = loader.batch_size * num_slots
        self._loader = loader
        self._seed = seed
        self._num_slots = num_slots
        self._slots = slots

    @property
    def epoch_length(self) -> int:
        """Batches in an epoch: ceil(records / global batch size)."""
        return -(-self.num_records // self.global_batch_size)

    def batches_from(self, first_batch: int) -> Iterator[Any]:
        """Iterates over (batch k, each slot of this process), for k from ``first_batch`` on."""

        def make_addresses() -> Iterator[BatchAddress]:
            chains = [self._chain(slot, first_batch) for slot in self._slots]
            block = max(1, _BLOCK_RECORDS // self._loader.batch_size)
            for start in itertools.count(0, block):
                blocks = [chain.take(start, start + block) for chain in chains]
                for offset, rows in enumerate(zip(*blocks, strict=True)):
                    for slot, row in zip(self._slots, rows, strict=True):
                        yield BatchAddress(first_batch + start + offset, slot, row.tolist())

        return iter(_Batches(self._loader, self._seed, Stream.DATA, make_addresses))

    def _chain(self, slot: int, first_batch: int) -> samplers.SkipBatchSampler:
        records: samplers.RandomAccessSampler = samplers.SequentialSampler(self.num_records)
        if self._loader.shuffle:
            records = samplers.ReproducibleShuffleSampler(records, self._seed)
        share = samplers.DistributedSampler(
            samplers.RepeatSampler(records), num_workers=self._num_slots, rank=slot
        )
        batches = samplers.BatchSampler(share, self._loader.batch_size)
        return samplers.SkipBatchSampler(batches, first_batch)


class ValidationData:
    """The validation batches of the slots of this process: each record once, none left out.

    Batch b holds records [b * batch size, (b + 1) * batch size), whatever the number of slots, and
    belongs to slot b modulo S. All processes go through equally many rounds; in the last ones
    a slot may have no batch.

    Args:
        loader: The user's description.
        seed: The trial's seed.
        num_slots: S.
        slots: The slots of this process.
    """

    def __init__(self, loader: DataLoader, *, seed: int, num_slots: int, slots: range) -> None:
        self.num_records = len(loader.dataset)
        self.num_batches = -(-self.num_records // loader.batch_size)
        self._num_slots = num_slots
        self._slots = slots
        records: samplers.RandomAccessSampler = samplers.SequentialSampler(self.num_records)
        if loader.shuffle:
            records = samplers.ReproducibleShuffleSampler(records, seed)
        batches = samplers.BatchSampler(records, loader.batch_size)
        num_batches = self.num_batches

        def make_addresses() -> Iterator[BatchAddress]:
            # It must not know of this object: in a circle of references, persistent workers would
            # take torch's 5 seconds to end.
            for start in range(0, num_batches, num_slots):
                for batch in (start + slot for slot in slots):
                    if batch < num_batches:
                        (rows,) = batches.take(batch, batch + 1)
                        yield BatchAddress(batch, 0, rows.tolist())

        self._batches = _Batches(loader, seed, Stream.VALIDATION_DATA, make_addresses)

    def rounds(self) -> Iterator[list[tuple[int, int, Any]]]:
        """Iterates over rounds: (slot, batch number, batch) of each slot that has one."""
        loaded = iter(self._batches)
        for start in range(0, self.num_batches, self._num_slots):
            yield [
                (slot, start + slot, next(loaded))
                for slot in self._slots
                if start + slot < self.num_batches
            ]
