"""What a trial may switch on or off at its own risk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trialrun._amp import new_automatic_amp

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from trialrun._wrapped import AutomaticAmp


class Experimental:
    """Switches that weaken a promise or change the arithmetic; ``context.experimental``.

    Args:
        device: Where this process computes.
        set_amp: Takes what ``use_amp`` was asked for.
    """

    allows_any_loader: bool
    """Whether the trial may return loaders that trialrun does not build."""

    moves_batches: bool
    """Whether trialrun moves batches to the device before the trial gets them."""

    def __init__(self, *, device: torch.device, set_amp: Callable[[AutomaticAmp], None]) -> None:
        self.allows_any_loader = False
        self.moves_batches = True
        self._device = device
        self._set_amp = set_amp

    def disable_dataset_reproducibility_checks(self) -> None:
        """Lets the ``build`` methods return any loader, for data that can only be streamed.

        Each slot then has a training loader of its own: the method is called once for each, with
        ``context.slot`` set. A resumed run is equal to one that was never stopped only if the
        loader, or its dataset when it has no loader workers, has ``state_dict`` and
        ``load_state_dict`` and restores exactly. The validation loader is evaluated by slot 0.
        """
        self.allows_any_loader = True

    def disable_auto_to_device(self) -> None:
        """Hands batches to the trial as the loader made them, in training and in evaluation.

        The trial then moves what it needs itself, with ``context.to_device`` for instance.
        """
        self.moves_batches = False

    def use_amp(
        self,
        dtype: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """Trains with automatic mixed precision, without a change to ``train_batch``.

        ``train_batch`` and ``evaluate_batch`` run under ``torch.autocast``. With float16 a scaler
        takes part: ``context.backward`` scales the loss, ``context.step_optimizer`` unscales the
        summed gradients, and the scale is updated at the end of each aggregation window.

        Args:
            dtype: ``torch.float16`` or ``torch.bfloat16``. None: float16 on CUDA, bfloat16 on the
                CPU.
            scaler: A scaler with other settings than ``torch.amp.GradScaler`` has by itself.

        Raises:
            InvalidTrialError: The type is another, it was called twice or beside ``wrap_scaler``,
                or __init__ is over.
        """
        self._set_amp(new_automatic_amp(self._device, dtype, scaler))
