"""``TorchWriter``: TensorBoard events of a trial that asks no context for a writer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trialrun.compat.determined._trial import newest_context

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TorchWriter"]


class TorchWriter:
    """Writes where ``context.get_tensorboard_writer()`` of the trial writes.

    Raises:
        InvalidTrialError: No ``PyTorchTrial`` is being made or trained.
    """

    def __init__(self) -> None:
        self._context = newest_context("TorchWriter")

    @property
    def writer(self) -> SummaryWriter:
        """The trial's one writer, for images, histograms and so on.

        Raises:
            ConfigurationError: tensorboard is not installed.
            InvalidTrialError: Nothing of this run is kept.
        """
        return self._context.get_tensorboard_writer()

    def add_scalar(self, name: str, value: Any, step: int) -> None:
        """Writes a number.

        Args:
            name: What it is called.
            value: The number.
            step: The batch, usually.
        """
        self.writer.add_scalar(name, value, step)

    def reset(self) -> None:
        """Writes out what was said so far."""
        self.flush()

    def flush(self) -> None:
        """Writes out what was said so far."""
        self.writer.flush()

    def close(self) -> None:
        """Writes out what was said so far and closes the file; a later event opens another."""
        self.writer.close()
