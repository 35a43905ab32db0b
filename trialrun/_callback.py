"""What a trial can hook into the loop: one class, of which a user overrides the methods needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


class Callback:
    """Code that is called at events of the loop; ``Trial.build_callbacks`` returns them by name.

    A callback is called once for each event in every process, whatever the number of slots that
    share it; where a method says so, only in the chief process, which has slot 0. Callbacks are
    called in the order of the dictionary. What they draw at random has an address of its own, alike
    in all processes, and changes nothing in training. A change to models, optimizers or schedulers
    must be the same in every process, as it is when it depends only on the arguments.

    An instance keeps state of its own through ``state_dict``: whatever decides what it does later.
    A public method whose name begins with ``on_`` is one of these events; others are refused.
    """

    # Names of events that a class of trialrun's own calls besides these.
    _further_events: ClassVar[frozenset[str]] = frozenset()

    def on_trial_startup(self, first_batch_idx: int, checkpoint_uuid: str | None) -> None:
        """Called first, before the data loaders are built.

        Args:
            first_batch_idx: Batches completed when this attempt begins.
            checkpoint_uuid: The checkpoint that it goes on from, if any.
        """

    def on_checkpoint_load_start(self, checkpoint: dict[str, Any]) -> None:
        """Called before anything is restored from a checkpoint; changes to it are restored.

        Args:
            checkpoint: ``models_state_dict``, ``optimizers_state_dict`` and
                ``lr_schedulers_state_dict``, each a list in the order of wrapping; ``callbacks``,
                the callbacks' states by name; and what ``on_checkpoint_save_start`` has added.
        """

    def on_training_start(self) -> None:
        """Called when all is built and restored, before the first validation or batch."""

    def on_training_epoch_start(self, epoch_idx: int) -> None:
        """Called before the first batch of an epoch; not after a resume within it.

        Args:
            epoch_idx: From 0.
        """

    def on_training_batch_start(self, batch_idx: int) -> None:
        """Called before the slots train on a batch.

        Args:
            batch_idx: Batches completed since the start of the trial.
        """

    def on_optimizer_step_end(self, optimizer: torch.optim.Optimizer, step_idx: int) -> None:
        """Called after each step of a wrapped optimizer, once in each process for all its slots.

        Weights and learning rates are new; gradients are those of the step, not cleared yet. It is
        not called after a step that a gradient scaler skipped. Gradients are off: change weights in
        place, such as ``parameter.clamp_(-1, 1)``. Buffers of wrapped models are those of slot 0;
        what is changed in them is changed for all slots.

        Args:
            optimizer: The wrapped optimizer.
            step_idx: From 0, counted for this optimizer since the start of the trial.
        """

    def on_training_batch_end(self, batch_idx: int) -> None:
        """Called when all slots of this process have trained on a batch and schedulers stepped.

        Args:
            batch_idx: From 0, since the start of the trial.
        """

    def on_training_epoch_end(self, epoch_idx: int) -> None:
        """Called after the last batch of an epoch, before what is due then.

        Args:
            epoch_idx: From 0.
        """

    def on_training_workload_end(
        self, avg_metrics: dict[str, float], batch_metrics: list[dict[str, float]]
    ) -> None:
        """Called after training metrics were reported.

        Args:
            avg_metrics: What was reported: means over batches and slots, and reducers' results.
            batch_metrics: For each batch of the period the means over all slots.
        """

    def on_validation_start(self) -> None:
        """Called when a validation begins; models are in eval mode, gradients off."""

    def on_validation_epoch_start(self) -> None:
        """Called before the first batch goes to ``evaluate_batch``."""

    def on_validation_epoch_end(self, outputs: list[dict[str, float]]) -> None:
        """Called after the last batch of ``evaluate_batch``.

        Args:
            outputs: What ``evaluate_batch`` returned for each batch of the validation data, in
                order, over all slots.
        """

    def on_validation_end(self, metrics: dict[str, float]) -> None:
        """Called before validation metrics are reported, and before a checkpoint that they cause.

        Args:
            metrics: The reduced metrics, on every process.
        """

    def on_checkpoint_save_start(self, checkpoint: dict[str, Any]) -> None:
        """Called in the chief process when the state was copied; changes to it are saved.

        Args:
            checkpoint: As for ``on_checkpoint_load_start``. Add plain data under other names.
        """

    def on_checkpoint_write_end(self, checkpoint_dir: str) -> None:
        """Called in the chief process when a checkpoint's files lie in a folder; add others there.

        Where a callback has this method or ``on_checkpoint_upload_end``, training waits until the
        checkpoint is written.

        Args:
            checkpoint_dir: The folder, before it gets its final name.
        """

    def on_checkpoint_upload_end(self, uuid: str) -> None:
        """Called when a checkpoint is whole and recorded.

        Args:
            uuid: Its name in ``trialrun checkpoint list``.
        """

    def on_exception(self, exception: BaseException) -> None:
        """Called when training fails, in the process in which it does, before the shutdown.

        Args:
            exception: What was raised.
        """

    def on_trial_shutdown(self) -> None:
        """Called last, in reverse order of the dictionary: at the end, a pause or a failure.

        A process that is killed calls nothing any more.
        """

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of this callback: plain data. Called in the chief."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes up what ``state_dict`` returned, after models and optimizers were restored."""
