"""Which of the processes of a trial this one is: what its launcher has told it.

torchrun, trialrun's own supervisor and most others set RANK, WORLD_SIZE, LOCAL_RANK and the address
at which process 0 listens; Slurm's srun sets variables of its own. Here alone they are read.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from trialrun._errors import ConfigurationError

_FIRST_PORT, _NUM_PORTS = 15_000, 15_000  # below those that the kernel gives out by itself


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """One process among those of a trial, which all run on one machine.

    Args:
        rank: This process, 0 to ``size`` - 1.
        size: P, the number of processes.
        local_rank: Which GPU is its own.
        address: Host and port at which process 0 listens, where torch does not find them itself.
        launcher: What started the processes, in words for an error.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: tuple[str, int] | None = None
    launcher: str = "this process alone"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Place:
        """Reads what the launcher has set; nothing set means one process.

        Args:
            environment: The variables; None: this process's.

        Raises:
            ConfigurationError: They contradict each other, or the processes are on several
                machines.
        """
        variables = os.environ if environment is None else environment
        if "RANK" in variables or "WORLD_SIZE" in variables:
            return _from_torch(variables)
        if "SLURM_PROCID" in variables and "SLURM_NTASKS" in variables:
            return _from_slurm(variables)
        return cls()


def _from_torch(variables: Mapping[str, str]) -> Place:
    for name, other in (("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")):
        if name not in variables:
            raise ConfigurationError(
                f"{other} is set to {variables[other]!r}, but {name} is not set: a launcher sets "
                "both. Start the script with torchrun, or unset both for one process."
            )
    rank, size = _number(variables, "RANK"), _number(variables, "WORLD_SIZE", least=1)
    _require_in_range("RANK", rank, "WORLD_SIZE", size)
    if "LOCAL_WORLD_SIZE" in variables:
        _require_one_machine(_number(variables, "LOCAL_WORLD_SIZE"), size)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if size > 1 and name not in variables:
            raise ConfigurationError(
                f"WORLD_SIZE is {size}, but {name} is not set, so the processes cannot find each "
                "other. Start the script with torchrun, which sets it."
            )
    local_rank = _number(variables, "LOCAL_RANK") if "LOCAL_RANK" in variables else rank
    return Place(rank=rank, size=size, local_rank=local_rank, launcher=f"WORLD_SIZE={size}")


def _from_slurm(variables: Mapping[str, str]) -> Place:
    rank, size = _number(variables, "SLURM_PROCID"), _number(variables, "SLURM_NTASKS", least=1)
    _require_in_range("SLURM_PROCID", rank, "SLURM_NTASKS", size)
    for name in ("SLURM_STEP_NUM_NODES", "SLURM_NNODES"):
        if name in variables:
            if _number(variables, name) > 1:
                raise ConfigurationError(
                    f"{name} is {variables[name]}: a trial's processes must share one machine. "
                    "Give srun --nodes 1."
                )
            break
    local_rank = _number(variables, "SLURM_LOCALID") if "SLURM_LOCALID" in variables else rank
    # Several steps of a job, and several jobs, may share the machine.
    step = _number(variables, "SLURM_STEP_ID") if "SLURM_STEP_ID" in variables else 0
    job = _number(variables, "SLURM_JOB_ID") if "SLURM_JOB_ID" in variables else 0
    port = (
        _number(variables, "MASTER_PORT")
        if "MASTER_PORT" in variables
        else _FIRST_PORT + (31 * job + step) % _NUM_PORTS
    )
    return Place(
        rank=rank,
        size=size,
        local_rank=local_rank,
        address=(variables.get("MASTER_ADDR", "127.0.0.1"), port),
        launcher=f"SLURM_NTASKS={size}",
    )


def _number(variables: Mapping[str, str], name: str, least: int = 0) -> int:
    text = variables[name]
    if not text.isdecimal() or int(text) < least:
        raise ConfigurationError(
            f"{name} is {text!r}, which is not a whole number of at least {least}. A launcher sets "
            "it: start the script with torchrun or srun, or unset it."
        )
    return int(text)


def _require_in_range(rank_name: str, rank: int, size_name: str, size: int) -> None:
    if rank >= size:
        raise ConfigurationError(
            f"{rank_name} is {rank}, but {size_name} is {size}: ranks are counted from 0. Start "
            "the script with torchrun or srun, which set both."
        )


def _require_one_machine(local_size: int, size: int) -> None:
    if local_size != size:
        raise ConfigurationError(
            f"This machine has {local_size} of {size} processes: a trial's processes must share "
            "one. Start them with torchrun --nnodes 1."
        )
