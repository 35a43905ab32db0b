"""Where this process computes, made ready so that the same batch gives the same bits."""

from __future__ import annotations

import torch

from trialrun.controller.config import Deterministic
from trialrun.controller.engine.determinism import make_deterministic


def prepare_device(
    local_rank: int = 0,
    deterministic: Deterministic = Deterministic.WARN,
    warns: bool = True,
) -> torch.device:
    """Returns the GPU of a process on this machine, or the CPU where there is none.

    Args:
        local_rank: The process's place on this machine.
        deterministic: What becomes of operations that give other bits each time.
        warns: Whether this process speaks for all.
    """
    make_deterministic(deterministic, warns)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def device_name(device: torch.device) -> str:
    """Returns the GPU's model, or the vector instructions that torch uses on this CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()
