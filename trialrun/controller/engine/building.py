"""Asks the trial for its data, and makes of its answers what the loop reads from."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any

from trialrun._context import TrialContext
from trialrun._data_loader import DataLoader
from trialrun._errors import InvalidTrialError
from trialrun._trial import Trial
from trialrun._wording import type_of
from trialrun.controller.engine.callbacks import Callbacks
from trialrun.controller.engine.data.foreign_loaders import (
    ForeignTrainingData,
    ForeignValidationData,
)
from trialrun.controller.engine.data.loaders import TrainingData, ValidationData
from trialrun.controller.engine.data.sources import TrainingSource, ValidationSource
from trialrun.controller.engine.evaluation import FullDataset
from trialrun.controller.engine.execution import Execution
from trialrun.controller.engine.randomness import Generators
from trialrun.samplers.addresses import Stream


class Split(enum.Enum):
    """Which of a trial's data."""

    TRAINING = "training"
    VALIDATION = "validation"
    TEST = "test"

    @property
    def method(self) -> str:
        """The trial's method that builds its loader."""
        return f"build_{self.value}_data_loader"


# Addresses after the trial's constructor, which has 0.
_ADDRESSES = {Split.TRAINING: 1, Split.VALIDATION: 2, Split.TEST: 4}
_CALLBACKS = 3
_LR_SCHEDULERS = 5


class SourceBuilder:
    """Builds the training and the validation data of a trial in this process.

    Args:
        trial: The user's trial.
        context: Its context, which says whether any loader is allowed.
        execution: Told for which slot a loader is built.
        generators: Set to one address for every call, whichever slot it is for: so that all slots
            split a dataset in the same way.
        seed: The trial's seed.
        is_chief: Whether this process speaks for all.
    """

    def __init__(
        self,
        trial: Trial,
        context: TrialContext,
        execution: Execution,
        generators: Generators,
        *,
        seed: int,
        is_chief: bool,
    ) -> None:
        self._trial = trial
        self._context = context
        self._execution = execution
        self._generators = generators
        self._seed = seed
        self._is_chief = is_chief

    def training(self) -> TrainingSource:
        """Returns the training data.

        Raises:
            InvalidTrialError: The trial returned no loader, or one that is not allowed or wrong.
        """
        slots = self._execution.slot_numbers
        # A description is for all slots: on every process the one that is made for slot 0.
        loader = self.build(Split.TRAINING)
        if isinstance(loader, DataLoader):
            return TrainingData(
                loader, seed=self._seed, num_slots=self._context.num_slots, slots=slots
            )
        self._require_allowed(loader, Split.TRAINING)
        loaders = {0: loader} if 0 in slots else {}
        for slot in slots:
            if slot not in loaders:
                loaders[slot] = self.build(Split.TRAINING, slot)
        _require_one_each(loaders)
        return ForeignTrainingData(loaders, generators=self._generators, warns=self._is_chief)

    def callbacks(self) -> Callbacks:
        """Returns the trial's callbacks.

        Raises:
            InvalidTrialError: The trial returned something else.
        """
        callbacks = self._call(self._trial.build_callbacks, _CALLBACKS, 0)
        return Callbacks(callbacks, self._generators, self._execution)

    def make_lr_schedulers(self) -> None:
        """Makes the schedulers that depend on the trial's length, which is known by now.

        Raises:
            InvalidTrialError: A function returned something else, or the scheduler of an optimizer
                that was not wrapped.
        """
        self._call(self._context.make_lr_schedulers, _LR_SCHEDULERS, 0)

    def validation(self) -> ValidationSource | FullDataset:
        """Returns the validation data, as the trial evaluates it: batch by batch, or all at once.

        Raises:
            InvalidTrialError: The trial returned no loader, or one that is not allowed or wrong.
        """
        return self.evaluated(self.build(Split.VALIDATION), Split.VALIDATION)

    def evaluated(self, loader: Any, split: Split) -> ValidationSource | FullDataset:
        """Returns what a loader gives, to be evaluated batch by batch, or all at once.

        Args:
            loader: What the trial returned.
            split: Which data it was asked for.

        Raises:
            InvalidTrialError: It is a loader that is not allowed, or wrong.
        """
        if type(self._trial).evaluate_full_dataset is Trial.evaluate_full_dataset:
            return self.batches(loader, split)
        if not isinstance(loader, DataLoader):
            self._require_allowed(loader, split)
        try:
            num_records = len(loader.dataset)
        except (AttributeError, TypeError):  # a loader without a dataset, or one without a length
            num_records = 0
        return FullDataset(loader=loader, num_records=num_records)

    def batches(self, loader: Any, split: Split) -> ValidationSource:
        """Returns the batches of a loader, each once.

        Raises:
            InvalidTrialError: It is a loader that is not allowed, or wrong.
        """
        slots = self._execution.slot_numbers
        if isinstance(loader, DataLoader):
            return ValidationData(
                loader, seed=self._seed, num_slots=self._context.num_slots, slots=slots
            )
        self._require_allowed(loader, split)
        return ForeignValidationData(
            loader, slots=slots, generators=self._generators, method=split.method
        )

    def build(self, split: Split, slot: int = 0) -> Any:
        """Returns the loader that the trial builds, of whatever kind."""
        return self._call(getattr(self._trial, split.method), _ADDRESSES[split], slot)

    def _call(self, build: Callable[[], Any], address: int, slot: int) -> Any:
        self._generators.enter(Stream.MODEL, address)
        self._execution.acting_slot = slot
        try:
            return build()
        finally:
            self._execution.acting_slot = None

    def _require_allowed(self, loader: Any, split: Split) -> None:
        if not self._context.experimental.allows_any_loader:
            raise InvalidTrialError(
                f"{split.method} returned {type_of(loader)}. Return a trialrun.DataLoader, "
                "which takes torch's arguments: trialrun itself then decides which records make a "
                "batch, so that it can resume at any of them. For data that can only be streamed, "
                "call context.experimental.disable_dataset_reproducibility_checks() in __init__."
            )


def _require_one_each(loaders: Mapping[int, Any]) -> None:
    for slot, loader in loaders.items():
        if isinstance(loader, DataLoader):
            raise InvalidTrialError(
                f"build_training_data_loader returned a trialrun.DataLoader for slot {slot}, and "
                "another loader for slot 0. Return the same kind for every slot."
            )
        for other in loaders:
            if other < slot and loaders[other] is loader:
                raise InvalidTrialError(
                    f"build_training_data_loader returned the same {type(loader).__name__} for the "
                    f"slots {other} and {slot}, which would take each other's batches. Make a new "
                    "loader in every call."
                )
