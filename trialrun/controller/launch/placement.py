"""How many processes and threads execute the slots; both divide the machine, P also the slots."""

from __future__ import annotations

from trialrun._errors import ConfigurationError
from trialrun.controller.config import ExperimentConfig, not_divisible
from trialrun.controller.cores import num_cores


def num_threads(config: ExperimentConfig) -> int:
    """Returns the CPU threads of a slot: as configured, or the cores shared out, at least 1.

    It is chosen once, when an experiment is submitted, because it decides how sums inside an
    operation are rounded.
    """
    return config.intra_op_threads or max(1, num_cores() // config.slots)


def choose_num_processes(requested: int | None, config: ExperimentConfig) -> int:
    """Returns P: what was asked for, or the largest divisor of the slots that the machine serves.

    A process needs a GPU where there are any, else a core for each thread. Imports torch.

    Args:
        requested: P, where one is asked for.
        config: Says how many slots there are, and with how many threads each computes.

    Raises:
        ConfigurationError: What was asked for does not divide the slots, or needs more GPUs than
            there are.
    """
    import torch

    num_slots = config.slots
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested is None:
        num_places = num_gpus or max(1, num_cores() // num_threads(config))
        return max(p for p in range(1, num_slots + 1) if num_slots % p == 0 and p <= num_places)
    if num_slots % requested:
        raise ConfigurationError(not_divisible(num_slots, requested))
    if num_gpus and requested > num_gpus:
        raise ConfigurationError(
            f"{requested} processes need {requested} GPUs, but this machine has {num_gpus}. Fewer "
            "processes give the same result: each executes several slots."
        )
    return requested


def all_num_processes(config: ExperimentConfig) -> tuple[int, ...]:
    """Returns every P that divides the slots and that the machine serves, ascending.

    Without GPUs up to 4 processes may share a core. Imports torch.
    """
    import torch

    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    most = num_gpus or max(4, num_cores())
    divisors = (p for p in range(1, config.slots + 1) if config.slots % p == 0)
    return tuple(p for p in divisors if p <= most)
