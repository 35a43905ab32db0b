"""What automatic mixed precision is where nothing else is asked for."""

from __future__ import annotations

import torch

from trialrun._errors import InvalidTrialError
from trialrun._wrapped import AutomaticAmp

_DEFAULT_DTYPES = {"cuda": torch.float16, "cpu": torch.bfloat16}


def new_automatic_amp(
    device: torch.device, dtype: torch.dtype | None, scaler: torch.amp.GradScaler | None
) -> AutomaticAmp:
    """Returns the settings of ``use_amp``: float16 has a scaler, bfloat16 needs none.

    Args:
        device: Where the process computes.
        dtype: What autocast computes in; None: the device's default.
        scaler: The trial's own scaler, if it brings one.

    Raises:
        InvalidTrialError: The type is neither of the two.
    """
    dtype = _DEFAULT_DTYPES.get(device.type, torch.bfloat16) if dtype is None else dtype
    if dtype not in (torch.float16, torch.bfloat16):
        raise InvalidTrialError(
            f"use_amp got dtype={dtype!r}. Mixed precision computes in torch.float16 or "
            "torch.bfloat16."
        )
    if scaler is None and dtype == torch.float16:
        scaler = torch.amp.GradScaler(device.type)
    return AutomaticAmp(dtype=dtype, scaler=scaler)
