"""Loaders that trialrun did not build: iterated over as they are, restored by their own state.

Each slot has a loader of its own, which the trial builds for it and shards as it likes
(``context.slot`` of ``context.num_slots``). What it draws in this process comes from the address
(batch, slot), so that batches do not depend on what was trained in between. Its records are another
matter: only a loader, or a dataset without loader workers, that has ``state_dict`` and
``load_state_dict`` goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from trialrun._errors import CheckpointError, InvalidDataLoaderError
from trialrun._wording import type_of
from trialrun.controller import plain
from trialrun.controller.engine.data.lost_workers import next_batch
from trialrun.controller.engine.data.sources import (
    DataFacts,
    EvaluationPiece,
    TrainingSource,
    ValidationSource,
)
from trialrun.controller.engine.randomness import Generators
from trialrun.samplers.addresses import Stream
from trialrun.samplers.sequences import Description, unknown

logger = logging.getLogger(__name__)


class ForeignTrainingData(TrainingSource):
    """The training batches of loaders that the trial brought.

    Args:
        loaders: For each slot of this process its loader.
        generators: The process's random generators.
        warns: Whether this process speaks for all: it says what a resume will lose.

    Raises:
        InvalidDataLoaderError: A loader cannot be iterated over.
    """

    has_equal_batches = False

    def __init__(self, loaders: Mapping[int, Any], *, generators: Generators, warns: bool) -> None:
        self._streams = {
            slot: _Stream(loader, slot, generators) for slot, loader in loaders.items()
        }
        first = next(iter(loaders.values()))
        self.num_workers = getattr(first, "num_workers", 0)
        num_batches = _length(first)
        self.facts = DataFacts(
            record_order=type(first).__name__,
            dataset_length=_length(getattr(first, "dataset", None)),
            pass_length=num_batches,
            batch_size=getattr(first, "batch_size", None),
            epoch_length=num_batches,
        )
        if warns and _stateful_part(first) is None:
            logger.warning(
                "The %s that build_training_data_loader returned keeps no state: a resumed run "
                "begins its records anew, sees some of them twice, and is not equal to a run that "
                "was never stopped. Return a trialrun.DataLoader, or a loader with state_dict and "
                "load_state_dict, such as torchdata's StatefulDataLoader.",
                type(first).__name__,
            )

    def describe_order(self, keep: Callable[[NDArray[Any]], str]) -> Description:
        """Returns the loader's class, of which nothing more is known."""
        return {"batches": unknown(self.facts.record_order)}

    def batches_from(self, first_batch: int) -> Iterator[Any]:
        """Iterates over all slots' loaders in turn; each begins a new pass when it has ended."""
        batch = first_batch
        while True:
            for stream in self._streams.values():
                yield stream.next(batch)
            batch += 1

    def slot_state(self, slot: int) -> Any:
        """Returns the loader's state after the batches that the slot has consumed."""
        return self._streams[slot].state_dict()

    def load_slot_state(self, slot: int, state: Any) -> None:
        """Hands the state to the loader."""
        self._streams[slot].load_state_dict(state)


class ForeignValidationData(ValidationSource):
    """The validation batches of a loader that the trial brought: slot 0 evaluates all of them.

    Args:
        loader: The loader.
        slots: The slots of this process.
        generators: The process's random generators.
        method: The trial's method that returned it.

    Raises:
        InvalidDataLoaderError: The loader cannot be iterated over.
    """

    is_lockstep = False

    def __init__(
        self,
        loader: Any,
        *,
        slots: range,
        generators: Generators,
        method: str = "build_validation_data_loader",
    ) -> None:
        _require_iterable(loader, method)
        self._loader = loader
        self._has_slot_0 = 0 in slots
        self._generators = generators

    def rounds(self) -> Iterator[list[EvaluationPiece]]:
        """Iterates over the loader's batches, where slot 0 is; elsewhere over nothing."""
        if not self._has_slot_0:
            return
        self._generators.enter(Stream.VALIDATION_DATA, 0)
        iterator = iter(self._loader)
        number = 0
        while True:
            self._generators.enter(Stream.VALIDATION_DATA, number)
            try:
                batch = next_batch(iterator)
            except StopIteration:
                return
            yield [(0, number, batch)]
            number += 1


class _Stream:
    """The passes of one loader, one after the other."""

    def __init__(self, loader: Iterable[Any], slot: int, generators: Generators) -> None:
        _require_iterable(loader, "build_training_data_loader")
        self._loader = loader
        self._slot = slot
        self._generators = generators
        self._stateful = _stateful_part(loader)
        self._iterator: Iterator[Any] | None = None
        # The pass that is under way: its number, and the batch at which it began.
        self._epoch = 0
        self._first_batch: int | None = None

    def next(self, batch: int) -> Any:
        """Returns the slot's share of a batch."""
        if self._iterator is None:
            if self._first_batch is None:
                self._first_batch = batch
            self._iterator = self._begin_pass(self._first_batch)
        for _ in range(2):
            self._generators.enter(Stream.DATA, batch, self._slot)
            try:
                return next_batch(self._iterator)
            except StopIteration:
                self._epoch += 1
                self._first_batch = batch
                self._iterator = self._begin_pass(batch)
        raise InvalidDataLoaderError(
            f"The {type(self._loader).__name__} of slot {self._slot} gave no batch in a whole "
            f"pass, at batch {batch}. Check what it loads; an iterator, which can be gone through "
            "once only, is no loader."
        )

    def state_dict(self) -> Any:
        """Returns the place in the stream, or None where the loader cannot tell it."""
        if self._stateful is None:
            return None
        if self._iterator is None:  # to ask now would make some loaders start their workers
            return {"epoch": 0, "first_batch": None, "loader": None}
        state = plain.snapshot(self._stateful.state_dict(), f"training loader of slot {self._slot}")
        return {"epoch": self._epoch, "first_batch": self._first_batch, "loader": state}

    def load_state_dict(self, state: Any) -> None:
        """Goes to that place."""
        if (state is None) != (self._stateful is None):
            before, now = ("kept no state", "keeps one") if state is None else ("kept", "keeps no")
            raise CheckpointError(
                f"The training loader {before} state when the checkpoint was taken, and {now} "
                f"state: it is {type_of(self._loader)}. Restore the trial's code, or "
                "submit a new experiment."
            )
        if state is not None and self._stateful is not None:
            self._epoch, self._first_batch = state["epoch"], state["first_batch"]
            if state["loader"] is not None:
                self._stateful.load_state_dict(plain.restore(state["loader"]))

    def _begin_pass(self, batch: int) -> Iterator[Any]:
        for part in (self._loader, *_parts(self._loader)):
            if hasattr(part, "set_epoch"):
                part.set_epoch(self._epoch)
        # Torch's loaders draw the seeds of their workers and samplers here.
        self._generators.enter(Stream.DATA, batch, self._slot)
        return iter(self._loader)


def _parts(loader: Any) -> list[Any]:
    names = ("dataset", "sampler", "batch_sampler")
    return [getattr(loader, name) for name in names if getattr(loader, name, None) is not None]


def _stateful_part(loader: Any) -> Any:
    """Returns the loader or the dataset, whichever can say where it stands."""
    candidates = [loader]
    # A loader worker has a copy of the dataset, whose state is not to be had.
    if getattr(loader, "num_workers", 0) == 0:
        candidates.append(getattr(loader, "dataset", None))
    for part in candidates:
        if hasattr(part, "state_dict") and hasattr(part, "load_state_dict"):
            return part
    return None


def _length(value: Any) -> int | None:
    try:
        return len(value)
    except TypeError:  # it has none; torch's loaders ask their dataset when they are asked
        return None


def _require_iterable(loader: Any, method: str) -> None:
    if not hasattr(loader, "__iter__"):
        raise InvalidDataLoaderError(
            f"{method} returned an object of type {type(loader).__name__}, which cannot be "
            "iterated over. Return a trialrun.DataLoader, or a loader."
        )
