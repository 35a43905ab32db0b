"""Automatic mixed precision: ``train_batch`` and ``evaluate_batch`` run under autocast.

Autocast surrounds the trial's methods, so models stay the trial's own modules. What is no forward
pass is outside again: ``context.backward``, as torch recommends, and ``context.step_optimizer``,
whose arithmetic is the optimizer's. The cache of cast weights is off: it would keep weights from
before a step for the rest of the batch, and weights without a graph from a forward pass under
``no_grad``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trialrun._wrapped import AutomaticAmp


def as_it_runs(
    method: Callable[..., Any], amp: AutomaticAmp | None, device: torch.device
) -> Callable[..., Any]:
    """Returns a method of the trial as it runs: under autocast after ``use_amp``.

    Args:
        method: Computes a forward pass.
        amp: What the trial asked for.
        device: Where this process computes.
    """
    return method if amp is None else MixedPrecision(amp, device).around(method)


class MixedPrecision:
    """Autocast on one type of device.

    Args:
        amp: What the trial asked for.
        device: Where this process computes.
    """

    scaler: torch.amp.GradScaler | None
    """What scales every loss; None where the type needs none."""

    def __init__(self, amp: AutomaticAmp, device: torch.device) -> None:
        self.scaler = amp.scaler
        self._dtype = amp.dtype
        self._device_type = device.type

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function as it runs under autocast."""

        def under_autocast(*args: Any, **kwargs: Any) -> Any:
            # A new context for each call: folded slots may be in several at once.
            with torch.autocast(self._device_type, dtype=self._dtype, cache_enabled=False):
                return function(*args, **kwargs)

        return under_autocast

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """Returns the loss whose gradients are computed."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def suspended(self) -> torch.autocast:
        """Returns a context in which nothing is cast."""
        return torch.autocast(self._device_type, enabled=False)
