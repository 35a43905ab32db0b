"""How a process joins the others of its trial."""

from __future__ import annotations

import datetime
import importlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from trialrun._errors import ConfigurationError
from trialrun.controller.engine.parallel.collectives import (
    Collectives,
    ProcessGroup,
    SingleProcess,
)
from trialrun.controller.engine.parallel.lines import PeerLostError
from trialrun.controller.launch.place import Place

# A launcher notices processes that have ended. One that only waits, as for a slow disk, is none of
# them.
_COLLECTIVE_TIMEOUT = datetime.timedelta(hours=1)
_JOIN_TIMEOUT = datetime.timedelta(minutes=5)


def join(
    place: Place, device: torch.device, timeout: datetime.timedelta = _JOIN_TIMEOUT
) -> Collectives:
    """Joins the other processes; a process that is alone joins nobody.

    Args:
        place: This process among them.
        device: Where it computes.
        timeout: How long to wait for the others, where torch has no launcher's word for them.

    Raises:
        ConfigurationError: The others do not come.
        PeerLostError: One of them was lost meanwhile.
    """
    if place.size == 1:
        return SingleProcess()
    # Its functions keep the default group of the moment at which it is imported, as the first
    # optimizer does, and with it threads that would call into the interpreter after its end.
    importlib.import_module("torch.distributed.nn.functional")
    is_cuda = device.type == "cuda"
    # Without a store torch finds its own by the variables that the launcher has set.
    store = None if place.address is None else _meet(place, place.address, timeout)
    try:
        dist.init_process_group(
            "nccl" if is_cuda else "gloo",
            store=store,
            rank=-1 if store is None else place.rank,
            world_size=-1 if store is None else place.size,
            device_id=device if is_cuda else None,
            timeout=_COLLECTIVE_TIMEOUT,
        )
        return ProcessGroup(device)
    except (RuntimeError, OSError) as error:  # one was lost meanwhile: torch has many words for it
        raise PeerLostError(
            f"Process {place.rank} of {place.size} could not join the others: {_first_line(error)}."
        ) from error


def leave(collectives: Collectives, *, has_joined: bool = True) -> None:
    """Takes down what ``join`` has set up; all processes call it.

    Args:
        collectives: What it returned.
        has_joined: Whether torch's default group is one that ``join`` has made.
    """
    collectives.leave()
    if has_joined and dist.is_initialized():
        dist.destroy_process_group()


def describe_device(device: torch.device) -> str:
    """Returns what the records call the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _meet(place: Place, address: tuple[str, int], timeout: datetime.timedelta) -> Any:
    host, port = address
    try:
        return dist.TCPStore(  # type: ignore[attr-defined]  # torch exports it all the same
            host, port, place.size, is_master=place.rank == 0, timeout=timeout
        )
    except RuntimeError as error:  # torch's, for whatever reason
        raise ConfigurationError(
            f"Process {place.rank} of {place.size} ({place.launcher}) could not meet the others at "
            f"{host}:{port} within {timeout.total_seconds():g} seconds: {_first_line(error)}. "
            "Start all of them with srun, or unset SLURM_NTASKS for one process; MASTER_PORT "
            "chooses another port."
        ) from error


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
