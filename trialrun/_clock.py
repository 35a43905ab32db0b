"""Where the training of a trial is, and how long it is: the part of the context that tells time."""

from __future__ import annotations

from trialrun._engine import Engine
from trialrun._errors import InvalidTrialError


class Clock:
    """The batches completed, and what derives from them.

    Args:
        engine: Who executes the trial, and counts.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get_initial_batch(self) -> int:
        """Returns the batches completed when this attempt began: 0 unless it was resumed."""
        return self._engine.initial_batch

    def current_train_batch(self) -> int:
        """Returns the batches completed since the start of the trial.

        Raises:
            InvalidTrialError: Training has not begun.
        """
        self._require_training("current_train_batch")
        return self._engine.batches_completed

    def current_train_epoch(self) -> int:
        """Returns the epochs completed since the start of the trial.

        Raises:
            InvalidTrialError: Training has not begun.
        """
        self._require_training("current_train_epoch")
        return self._engine.batches_completed // self._engine.epoch_length

    def is_epoch_start(self) -> bool:
        """Returns whether the current batch is the first of its epoch.

        Raises:
            InvalidTrialError: Training has not begun.
        """
        self._require_training("is_epoch_start")
        return self._engine.batches_completed % self._engine.epoch_length == 0

    def is_epoch_end(self) -> bool:
        """Returns whether the current batch is the last of its epoch.

        Raises:
            InvalidTrialError: Training has not begun.
        """
        self._require_training("is_epoch_end")
        return (self._engine.batches_completed + 1) % self._engine.epoch_length == 0

    def get_total_batches(self) -> int:
        """Returns how many batches the whole trial has, over all attempts: ``max_length``.

        It is known in ``__init__`` where ``max_length`` is in batches and was submitted. A length
        in epochs is known when the training data is built, one that a script gives to ``fit`` is
        known then: in ``train_batch``, in callbacks from ``on_training_start`` on, and in a
        function that is given to ``wrap_lr_scheduler``.

        Raises:
            ConfigurationError: The length is a time, which is no number of batches.
            InvalidTrialError: It is not known yet.
        """
        return self._engine.total_batches

    def get_total_optimizer_steps(self) -> int:
        """Returns how many steps an optimizer takes in the whole trial, with one in each window.

        That is ``get_total_batches`` over the batches of an aggregation window. An optimizer that
        steps several times in a batch takes as many times more; steps that a gradient scaler skips
        are among them.

        Raises:
            ConfigurationError: The length is a time, which is no number of batches.
            InvalidTrialError: It is not known yet.
        """
        return self._engine.total_batches // self._engine.aggregation_frequency

    def _require_training(self, method: str) -> None:
        if not self._engine.is_training:
            raise InvalidTrialError(
                f"{method} was called, but training has not begun, so there is no current batch. "
                "Call it in train_batch; get_initial_batch() says where this attempt begins."
            )
