"""Where batches come from: what the loop asks of its data, whatever loads it."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray

from trialrun.samplers.sequences import Description

EvaluationPiece = tuple[int, int, Any]
"""(slot, batch number, batch)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What is known of the training data; None is unknown.

    Args:
        record_order: What orders the records: the chain of samplers, where it is the trial's own
            with a fingerprint, or the class of a loader that trialrun did not build.
        dataset_length: Records in the dataset.
        pass_length: Records in one pass over it, or batches where only those are counted.
        batch_size: Records in a slot's share of a batch.
        epoch_length: Batches in an epoch.
    """

    record_order: str
    dataset_length: int | None
    pass_length: int | None
    batch_size: int | None
    epoch_length: int | None


class TrainingSource(abc.ABC):
    """The endless stream of training batches for the slots of this process."""

    facts: DataFacts
    """What is known of the data."""
    num_workers: int
    """Loader processes; 0 loads in this one."""
    gathers_batches: bool = False
    """Whether a batch is gathered whole from memory, which a loader process does no faster."""
    has_equal_batches: bool
    """Whether every batch of every slot is known to hold equally many records."""

    @abc.abstractmethod
    def describe_order(self, keep: Callable[[NDArray[Any]], str]) -> Description:
        """Returns which records make a batch, for ``RecordOrder.from_description``.

        Args:
            keep: Keeps an array, and returns the name by which it is found again.
        """

    @abc.abstractmethod
    def batches_from(self, first_batch: int) -> Iterator[Any]:
        """Iterates over (batch k, each slot of this process), for k from ``first_batch`` on.

        It is called once, after the state of every slot was loaded.
        """

    def close(self) -> None:  # noqa: B027 - most have none
        """Ends worker processes of trialrun's own; nothing is read afterwards."""

    def slot_state(self, slot: int) -> Any:
        """Returns what a checkpoint keeps of a slot's place in the stream: plain data, or None."""
        return None

    def load_slot_state(self, slot: int, state: Any) -> None:  # noqa: B027 - a function has no state
        """Goes to the place that ``slot_state`` returned."""


class ValidationSource(abc.ABC):
    """The validation batches of the slots of this process, which can be gone through many times."""

    is_lockstep: bool
    """Whether all processes go through equally many rounds, so that they can agree after each."""

    @abc.abstractmethod
    def rounds(self) -> Iterator[list[EvaluationPiece]]:
        """Iterates over rounds: the batch of each slot that has one."""

    def close(self) -> None:  # noqa: B027 - most have none
        """Ends worker processes of trialrun's own; nothing is read afterwards."""
