"""Loads the records of (batch k, slot s), here or in worker processes.

Which records they are is decided in ``order``; batch 10,000 comes as fast as batch 0. What is drawn
at random in ``__getitem__`` and ``collate_fn`` comes from the address (batch, slot), whichever
process does the loading.
"""

from __future__ import annotations

import os
import signal
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from trialrun._data_loader import DataLoader
from trialrun._fetching import BatchFunction, RecordIds
from trialrun.controller.engine.data.lost_workers import next_batch
from trialrun.controller.engine.data.order import DataOrder
from trialrun.controller.engine.data.sources import (
    DataFacts,
    EvaluationPiece,
    TrainingSource,
    ValidationSource,
)
from trialrun.controller.engine.randomness import Generators
from trialrun.samplers.addresses import Stream
from trialrun.samplers.sequences import RECORDS_PER_BLOCK, Description

# Passes that are computed at once, at most: short ones cost by their number.
_BLOCK_PASSES = 16


class BatchAddress(NamedTuple):
    """Which records make a batch, and from which address loading it draws."""

    batch: int
    slot: int
    records: RecordIds


class _AddressedDataset(Dataset[Any]):
    """Loads the whole batch of an address; it is what loader workers execute."""

    def __init__(self, loader: DataLoader, seed: int, stream: Stream) -> None:
        self._load = BatchFunction(loader)
        self._stream = stream
        # Loading computes on the CPU, also where training does not.
        self._generators = Generators(seed, torch.device("cpu"))

    def __getitem__(self, address: BatchAddress) -> Any:
        if not self._load.may_draw:  # and adds nothing up either
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


class _Addresses(Sampler[BatchAddress]):
    """Hands an iterator of addresses to torch's loader, in place of single indices."""

    def __init__(self, make: Callable[[], Iterator[BatchAddress]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[BatchAddress]:
        return self._make()


class AddressedBatches:
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
        # The one that loads now, which nobody must keep longer than it is wanted.
        self._iterator: Callable[[], Any] = lambda: None
        pin_memory = loader.pin_memory and torch.cuda.is_available()
        # By name: the training process itself was started by another method.
        context = loader.multiprocessing_context or "fork"
        if loader.num_workers > 0 or pin_memory:
            self._torch_loader = TorchDataLoader(
                self._dataset,
                # The addresses take the place of indices; each is a batch of its own.
                sampler=_Addresses(make_addresses),
                batch_size=None,
                collate_fn=_identity,
                num_workers=loader.num_workers,
                pin_memory=pin_memory,
                pin_memory_device=loader.pin_memory_device,
                timeout=loader.timeout,
                worker_init_fn=_WorkerStart(
                    loader.worker_init_fn, os.getpid() if context == "fork" else None
                ),
                multiprocessing_context=context if loader.num_workers > 0 else None,
                prefetch_factor=loader.prefetch_factor,
                persistent_workers=loader.persistent_workers,
                # Of its own, so that starting workers draws nothing from the trial's generators.
                generator=torch.Generator(),
            )

    def __iter__(self) -> Iterator[Any]:
        if self._torch_loader is not None:
            iterator = iter(self._torch_loader)
            self._iterator = weakref.ref(iterator)
            return _LoadedElsewhere(iterator)
        return map(self._dataset.__getitem__, self._make_addresses())

    def close(self) -> None:
        """Ends the worker processes, whoever still refers to their iterator.

        Torch ends them when the iterator is garbage. It never is while a traceback or a thread
        knows of it, and a process waits for its children before it ends.
        """
        iterator = self._iterator()
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()
            for worker in iterator._workers:
                worker.kill()  # one that hangs has heard no signal that it could ignore


class _LoadedElsewhere(Iterator[Any]):
    """Takes batches from worker processes."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator

    def __next__(self) -> Any:
        return next_batch(self._iterator)


class _WorkerStart:
    """What a loader worker begins with, and then the user's own function.

    Args:
        user_function: That function, called with the worker's number.
        parent: Whose child a worker is; None: it is started in a way that has others between.
    """

    def __init__(
        self, user_function: Callable[[int], None] | None, parent: int | None = None
    ) -> None:
        self._user_function = user_function
        self._parent = parent

    def __call__(self, worker: int) -> None:
        # Torch's worker ends when its parent does, which it asks for here for the first time: one
        # that is orphaned already would take its new parent for it, and never end.
        if self._parent is not None and os.getppid() != self._parent:
            os._exit(1)
        # Service managers send it to everybody; the training process says when loading ends. It
        # does so by the same signal to a worker that is stuck, and again when it ends itself.
        signal.signal(signal.SIGTERM, _obey_the_next_one)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._user_function is not None:
            self._user_function(worker)


def _obey_the_next_one(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)


def _identity(batch: Any) -> Any:
    return batch


class TrainingData(TrainingSource):
    """The endless stream of training batches for the slots of this process.

    Args:
        loader: The user's description; its batch size is one slot's.
        seed: The trial's seed.
        num_slots: S.
        slots: The slots of this process.

    Raises:
        InvalidDataLoaderError: Its samplers do not fit.
    """

    def __init__(self, loader: DataLoader, *, seed: int, num_slots: int, slots: range) -> None:
        order = DataOrder.of(loader, seed)
        epoch_length = order.epoch_length(num_slots)
        self.num_workers = loader.num_workers
        self.gathers_batches = not BatchFunction(loader).may_draw
        # Records are repeated before they are cut into batches; a batch sampler cuts as it likes.
        self.has_equal_batches = loader.batch_sampler is None
        self.facts = DataFacts(
            record_order=order.describe(),
            dataset_length=order.dataset_length,
            pass_length=order.pass_length,
            batch_size=order.batch_size,
            epoch_length=epoch_length,
        )
        per_slot = max(1, RECORDS_PER_BLOCK // order.batch_size)
        self._block_batches = min(per_slot, _BLOCK_PASSES * epoch_length)
        self._loader = loader
        self._seed = seed
        self._slots = slots
        self._order = order.training(num_slots)
        self._shares = [self._order.sequence(slot) for slot in slots]
        self._batches: AddressedBatches | None = None

    def describe_order(self, keep: Callable[[NDArray[Any]], str]) -> Description:
        """Returns the chain of samplers that all slots share."""
        return self._order.describe(keep)

    def batches_from(self, first_batch: int) -> Iterator[Any]:
        """Iterates over (batch k, each slot of this process), for k from ``first_batch`` on."""

        def make_addresses() -> Iterator[BatchAddress]:
            start, length = first_batch, 1
            while True:
                blocks = [share.take(start, start + length) for share in self._shares]
                for batch, rows in enumerate(zip(*blocks, strict=True), start):
                    for slot, row in zip(self._slots, rows, strict=True):
                        yield BatchAddress(batch, slot, row)
                # Blocks grow, so that the first batch does not wait for thousands.
                start, length = start + length, min(4 * length, self._block_batches)

        self._batches = AddressedBatches(self._loader, self._seed, Stream.DATA, make_addresses)
        return iter(self._batches)

    def close(self) -> None:
        """Ends the loader's worker processes."""
        if self._batches is not None:
            self._batches.close()


class ValidationData(ValidationSource):
    """The validation batches of the slots of this process: each record once, none left out.

    Batch b holds records [b * batch size, (b + 1) * batch size), whatever the number of slots, and
    belongs to slot b modulo S. All processes go through equally many rounds; in the last ones
    a slot may have no batch.

    Args:
        loader: The user's description.
        seed: The trial's seed.
        num_slots: S.
        slots: The slots of this process.

    Raises:
        InvalidDataLoaderError: Its samplers do not fit.
    """

    is_lockstep = True

    def __init__(self, loader: DataLoader, *, seed: int, num_slots: int, slots: range) -> None:
        batches = DataOrder.of(loader, seed).validation()
        self.num_batches = num_batches = batches.length
        self._num_slots = num_slots
        self._slots = slots

        def make_addresses() -> Iterator[BatchAddress]:
            # It must not know of this object: in a circle of references, persistent workers would
            # take torch's 5 seconds to end.
            for start in range(0, num_batches, num_slots):
                for batch in (start + slot for slot in slots):
                    if batch < num_batches:
                        (row,) = batches.take(batch, batch + 1)
                        yield BatchAddress(batch, 0, row)

        self._batches = AddressedBatches(loader, seed, Stream.VALIDATION_DATA, make_addresses)

    def rounds(self) -> Iterator[list[EvaluationPiece]]:
        """Iterates over rounds: (slot, batch number, batch) of each slot that has one."""
        loaded = iter(self._batches)
        for start in range(0, self.num_batches, self._num_slots):
            yield [
                (slot, start + slot, next(loaded))
                for slot in self._slots
                if start + slot < self.num_batches
            ]

    def close(self) -> None:
        """Ends the loader's worker processes, which may stay between validations."""
        self._batches.close()
