"""How long a trial trains, in batches: known as soon as it can be, an error until then."""

from __future__ import annotations

import dataclasses

from trialrun._errors import ConfigurationError, InvalidTrialError
from trialrun._units import Batch, Time, Unit

_WHERE = (
    "Ask in train_batch, in a callback from on_training_start on, or in a function that makes a "
    "scheduler: context.wrap_lr_scheduler(lambda: ..., step_mode) calls it when the length is "
    "known."
)


def whole_windows(batches: int, window: int) -> int:
    """Returns a length in batches, made longer to a whole number of aggregation windows."""
    return -(-batches // window) * window


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialLength:
    """What is known of the length so far.

    Args:
        window: Batches in an aggregation window.
        max_length: When the trial is complete; None: nobody has said it yet.
        epoch_length: Batches in an epoch; None: the training data is not built yet.
    """

    window: int
    max_length: Unit | None = None
    epoch_length: int | None = None

    @property
    def total_batches(self) -> int:
        """The length in batches, a whole number of windows.

        Raises:
            ConfigurationError: It is a time.
            InvalidTrialError: It is not known yet.
        """
        length = self.max_length
        if isinstance(length, Batch):
            return whole_windows(length.value, self.window)
        if isinstance(length, Time):
            raise ConfigurationError(
                f"max_length is {length}, a time: nobody knows how many batches that is. Give "
                "max_length in batches or epochs, such as 5000ba, or let the schedule depend on a "
                "hyperparameter."
            )
        if length is None:
            raise InvalidTrialError(
                "The length of the trial is not known yet: a script gives it to fit, after the "
                f"trial was made. {_WHERE}"
            )
        if self.epoch_length is None:
            raise InvalidTrialError(
                f"max_length is {length}, and how many batches an epoch has is not known before "
                f"the training data is built. {_WHERE}"
            )
        return whole_windows(length.value * self.epoch_length, self.window)
