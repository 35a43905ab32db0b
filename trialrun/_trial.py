"""The one class that a user writes."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, Self

from trialrun._construction import Construction, TrialOwner
from trialrun._reducers import Reducer

if TYPE_CHECKING:
    import torch

    from trialrun._context import TrialContext
    from trialrun._data_loader import DataLoader


class Trial(abc.ABC):
    """What is trained, on which records, and how one batch is learned and evaluated.

    trialrun makes one object for each process, calls the two ``build`` methods once, and then
    ``train_batch`` for every batch and slot. All of a trial's random draws from torch, numpy and
    ``random`` come from addressed streams, so a trial never seeds a generator itself.

    Args:
        context: The trial's handle on the run: hyperparameters, devices, ``wrap_model``,
            ``wrap_optimizer``, ``backward``, ``step_optimizer`` and so on. Keep it as
            ``self.context``.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Tells the context, which sets the random generators to the address of constructors."""
        trial = super().__new__(cls)
        for value in (*args, *kwargs.values()):
            if isinstance(value, TrialOwner):
                construction = Construction(
                    trial=trial,
                    context=value,  # type: ignore[arg-type]  # the one owner there is
                    arguments=args,
                    keywords=kwargs,
                )
                value.trial_begins(construction)
                break
        return trial

    @abc.abstractmethod
    def __init__(self, context: TrialContext) -> None: ...

    @abc.abstractmethod
    def build_training_data_loader(self) -> DataLoader:
        """Returns the description of the training data, with the batch size of one slot."""

    @abc.abstractmethod
    def build_validation_data_loader(self) -> DataLoader:
        """Returns the description of the validation data, with any batch size."""

    @abc.abstractmethod
    def train_batch(
        self, batch: Any, epoch_idx: int, batch_idx: int
    ) -> dict[str, Any] | torch.Tensor:
        """Learns from one slot's share of one batch.

        Args:
            batch: What the collate function made of the slot's records, on the slot's device.
            epoch_idx: Epochs completed, counted from 0.
            batch_idx: Batches completed since the start of the trial; it goes on after a resume.

        Returns:
            A dictionary of metric names and scalars (numbers or tensors of one element), or one
            scalar tensor, which is then called ``loss``.
        """

    @abc.abstractmethod
    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Evaluates one batch of the validation data; gradients are off, models in eval mode.

        Args:
            batch: What the collate function made of the records, on the slot's device.
            batch_idx: The batch's place in the validation data, counted from 0.

        Returns:
            A dictionary of metric names and scalars, with the same names for every batch.
        """

    def evaluation_reducer(self) -> Reducer | dict[str, Reducer]:
        """Returns how validation metrics are reduced over batches: all alike, or name by name."""
        return Reducer.AVG

    def get_batch_length(self, batch: Any) -> int:
        """Returns the number of records in a batch; override it for batches of your own type."""
        from trialrun._batch_contents import data_length

        return data_length(batch)
