"""The description of a data loader: which records, in batches of what size, loaded how.

A user describes *what* to load. Which records make batch k of slot s is decided by the controller,
which builds the sampler chain for each slot, so that it can go on at any batch.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import multiprocessing
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, IterableDataset

from trialrun._errors import InvalidDataLoaderError
from trialrun._fetching import BatchFunction
from trialrun._wording import count, type_of
from trialrun.samplers import (
    BatchSampler,
    RandomAccessBatchSampler,
    ReproducibleShuffleSampler,
    SequentialSampler,
    as_batch_sampler,
    as_sampler,
)

logger = logging.getLogger(__name__)


class MapDataset(Protocol):
    """A dataset with random access: it has a length and gives a record for each index."""

    def __len__(self) -> int:
        """Returns the number of records."""

    def __getitem__(self, index: int) -> Any:
        """Returns one record."""


@dataclasses.dataclass(frozen=True, eq=False)
class DataLoader:
    """What to load and how: torch's arguments in torch's order, with the batch size of one slot.

    Args:
        dataset: Any object with ``__len__`` and ``__getitem__``. Where it can give many records at
            once, it is asked once for a batch: a ``TensorDataset``, a tensor, a numpy array (memory
            mapped or not), a pyarrow table, and anything with ``__getitems__``, such as a Hugging
            Face dataset.
        batch_size: Records in one slot's share of a batch. The global batch is slots times that.
        shuffle: Whether every pass goes over the records in an order of its own, which is a
            function of the trial's seed and the pass.
        sampler: The order of the records, in place of ``shuffle``: a sampler of
            ``trialrun.samplers``, or any other, which is then iterated. It must not distribute or
            skip: that is done here.
        batch_sampler: Batches of records, one for each slot and batch, in place of ``batch_size``,
            ``shuffle``, ``sampler`` and ``drop_last``.
        num_workers: Loader processes for each training process; 0 loads in the process itself. It
            changes neither the records nor what is drawn at random while loading them.
        collate_fn: Makes a batch of a list of records; default: torch's ``default_collate``.
        pin_memory: Whether batches are put into page-locked memory, for faster copies to a GPU.
        drop_last: Whether an epoch is rounded down to whole batches. In training no record is lost
            by that: batches go on over the end of a pass, and none is short. Validation leaves the
            records of a short last batch out.
        timeout: Seconds to wait for a worker's batch; 0 waits for ever.
        worker_init_fn: Called in each worker process with the worker's number.
        multiprocessing_context: How worker processes are started: ``fork``, ``spawn``,
            ``forkserver`` or a multiprocessing context.
        generator: Not used, with a warning: the order is a function of the trial's seed.
        prefetch_factor: Batches loaded ahead by each worker; default: 2 with workers.
        persistent_workers: Whether workers of the validation data stay between validations.
        pin_memory_device: As torch takes it.
        in_order: True: batches come in order, however fast each worker is.

    Raises:
        InvalidDataLoaderError: A combination of arguments breaks a rule. It is a ``ValueError``.
    """

    dataset: MapDataset
    batch_size: int = 1
    shuffle: bool | None = None
    sampler: Iterable[int] | None = None
    batch_sampler: Iterable[list[int]] | None = None
    num_workers: int = 0
    collate_fn: Callable[[list[Any]], Any] | None = None
    pin_memory: bool = False
    drop_last: bool = False
    timeout: float = 0
    worker_init_fn: Callable[[int], None] | None = None
    multiprocessing_context: Any = None
    generator: Any = None
    prefetch_factor: int | None = dataclasses.field(default=None, kw_only=True)
    persistent_workers: bool = dataclasses.field(default=False, kw_only=True)
    pin_memory_device: str = dataclasses.field(default="", kw_only=True)
    in_order: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        self._check_dataset()
        self._check_order()
        self._check_workers()
        if self.generator is not None:
            logger.warning(
                "DataLoader(generator=...) is not used: the order of the records, and all draws "
                "while they are loaded, are functions of the trial's seed."
            )

    def __len__(self) -> int:
        """Returns the batches of one pass, as torch counts them: S slots share them out.

        Raises:
            TypeError: The sampler has no length.
        """
        if self.batch_sampler is not None:
            return len(self.batch_sampler)  # type: ignore[arg-type]  # its own error if it has none
        order = self.dataset if self.sampler is None else self.sampler
        full, rest = divmod(len(order), self.batch_size)  # type: ignore[arg-type]  # as above
        return full if self.drop_last else full + (rest > 0)

    def __iter__(self) -> Iterator[Any]:
        """Iterates over the batches of one pass, all of them, whatever the number of slots.

        For use outside of training and in ``evaluate_full_dataset``. The order of ``shuffle=True``
        is drawn from torch's default generator, anew for each pass.
        """
        batches = _SinglePass(self)
        return iter(
            TorchDataLoader(
                batches,
                batch_size=None,
                collate_fn=_identity,
                num_workers=self.num_workers,
                pin_memory=self.pin_memory and torch.cuda.is_available(),
                pin_memory_device=self.pin_memory_device,
                timeout=self.timeout,
                worker_init_fn=self.worker_init_fn,
                multiprocessing_context=self.multiprocessing_context,
                prefetch_factor=self.prefetch_factor,
            )
        )

    def _check_dataset(self) -> None:
        kind = type(self.dataset).__name__
        if isinstance(self.dataset, IterableDataset) or not (
            hasattr(self.dataset, "__getitem__") and hasattr(self.dataset, "__len__")
        ):
            raise InvalidDataLoaderError(
                f"The dataset is {type_of(self.dataset)}, without __len__ and __getitem__. Exact "
                "resume needs random access: give a map-style dataset."
            )
        try:
            num_records = len(self.dataset)
        except TypeError as error:  # an array without dimensions, or a dataset that cannot say
            raise InvalidDataLoaderError(
                f"The dataset ({kind}) has no length: {error}. Exact resume needs one: give a "
                "map-style dataset."
            ) from error
        if num_records == 0:
            raise InvalidDataLoaderError(
                f"The dataset ({kind}) is empty: there is nothing to load. Check the path or the "
                "split that it reads."
            )

    def _check_order(self) -> None:
        if self.batch_sampler is not None:
            taken = {
                "batch_size": self.batch_size != 1,
                "shuffle": self.shuffle,
                "sampler": self.sampler is not None,
                "drop_last": self.drop_last,
            }
            for name in (name for name, is_given in taken.items() if is_given):
                raise InvalidDataLoaderError(
                    f"batch_sampler= was given together with {name}={getattr(self, name)!r}. It "
                    f"decides on whole batches: leave {name} out."
                )
        elif self.batch_size is None:
            raise InvalidDataLoaderError(
                "batch_size=None without a batch_sampler. Give the records of one slot's share of "
                "a batch, or a batch_sampler."
            )
        if self.sampler is not None and self.shuffle:
            raise InvalidDataLoaderError(
                "sampler= was given together with shuffle=True. Leave shuffle out, or put "
                "trialrun.samplers.ReproducibleShuffleSampler around the sampler."
            )
        self._require_whole("batch_size", 1)
        for name in ("sampler", "batch_sampler"):
            value = getattr(self, name)
            if value is not None and not hasattr(value, "__iter__"):
                raise InvalidDataLoaderError(
                    f"{name}= is of type {type(value).__name__}, which cannot be iterated. Give a "
                    "sampler of trialrun.samplers or of torch."
                )
        if self.drop_last and self.sampler is None and len(self.dataset) < self.batch_size:
            raise InvalidDataLoaderError(
                f"drop_last=True leaves no batch of {self.batch_size}: the dataset has "
                f"{count(len(self.dataset), 'record')}. Choose a smaller batch size, or "
                "drop_last=False."
            )

    def _check_workers(self) -> None:
        self._require_whole("num_workers", 0)
        if not self.in_order:
            raise InvalidDataLoaderError(
                "in_order=False hands out batches in the order in which workers finish them, which "
                "no run repeats. Leave it at True."
            )
        if not (isinstance(self.timeout, int | float) and 0 <= self.timeout < math.inf):
            raise InvalidDataLoaderError(
                f"timeout={self.timeout!r} is no number of seconds of at least 0; 0 waits for ever."
            )
        methods = multiprocessing.get_all_start_methods()
        context = self.multiprocessing_context
        if isinstance(context, str) and context not in methods:
            raise InvalidDataLoaderError(
                f"multiprocessing_context={context!r} is no way to start processes here. Choose "
                f"one of {', '.join(methods)}."
            )
        if self.num_workers == 0:
            for name, default in (
                ("prefetch_factor", None),
                ("persistent_workers", False),
                ("timeout", 0),
                ("multiprocessing_context", None),
            ):
                if getattr(self, name) != default:
                    raise InvalidDataLoaderError(
                        f"{name}={getattr(self, name)!r} needs worker processes. Set num_workers "
                        "to 1 or more, or leave it out."
                    )
        elif self.prefetch_factor is not None:
            self._require_whole("prefetch_factor", 1)

    def _require_whole(self, name: str, minimum: int) -> None:
        value = getattr(self, name)
        try:
            number = operator.index(value)  # numpy's numbers too
        except TypeError:
            number = minimum - 1
        if isinstance(value, bool) or number < minimum:
            raise InvalidDataLoaderError(
                f"{name}={value!r} is not a whole number of at least {minimum}."
            )
        object.__setattr__(self, name, number)


class _SinglePass(Dataset[Any]):
    """The batches of one pass, in an order that is drawn once."""

    def __init__(self, loader: DataLoader) -> None:
        self._load = BatchFunction(loader)
        seed = int(torch.empty((), dtype=torch.int64).random_())
        self._batches = one_pass(loader, seed)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> Any:
        (records,) = self._batches.take(number, number + 1)
        return self._load(records)


def one_pass(loader: DataLoader, seed: int) -> RandomAccessBatchSampler:
    """Returns the batches of one pass, all of them.

    Args:
        loader: The description.
        seed: Of the shuffle, where it shuffles.
    """
    if loader.batch_sampler is not None:
        return as_batch_sampler(loader.batch_sampler, seed)
    if loader.sampler is not None:
        records = as_sampler(loader.sampler, seed)
    else:
        records = SequentialSampler(len(loader.dataset))
        if loader.shuffle:
            records = ReproducibleShuffleSampler(records, seed)
    return BatchSampler(records, loader.batch_size, loader.drop_last)


def _identity(batch: Any) -> Any:
    return batch
