"""What user code exchanges between processes by itself: possible where each slot has a process.

Where a process executes several slots in turn, ``torch.distributed`` knows of processes and not of
slots: an ``all_reduce`` would wait for the same process twice, or add other numbers on each number
of processes. So it is refused there, by name, before anybody waits.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from trialrun._errors import InvalidTrialError
from trialrun._wording import count

_NAMES = (
    *("all_gather", "all_gather_coalesced", "all_gather_into_tensor", "all_gather_object"),
    *("all_gather_single", "all_reduce", "all_reduce_coalesced", "all_to_all"),
    *("all_to_all_single", "barrier", "batch_isend_irecv", "broadcast", "broadcast_object_list"),
    *("gather", "gather_object", "irecv", "isend", "monitored_barrier", "recv"),
    *("recv_object_list", "reduce", "reduce_scatter", "reduce_scatter_single"),
    *("reduce_scatter_tensor", "scatter", "scatter_object_list", "send", "send_object_list"),
)
# By the names under which torch has them; each version has its own.
_ORIGINALS: dict[str, Callable[..., Any]] = {
    name: getattr(dist, name) for name in _NAMES if hasattr(dist, name)
}
_LIBRARIES = ("torch", "trialrun")


def require_slot_each(models: Sequence[torch.nn.Module], num_slots: int, size: int) -> None:
    """Refuses modules that talk to other processes where those are fewer than the slots, or at all.

    Args:
        models: The trial's wrapped models.
        num_slots: S.
        size: P.

    Raises:
        InvalidTrialError: One has a ``SyncBatchNorm``, or is a ``DistributedDataParallel``.
    """
    for index, model in enumerate(models):
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.parallel.DistributedDataParallel):
                raise InvalidTrialError(
                    f"Model {index} is a DistributedDataParallel, which sums gradients over "
                    "processes in an order of its own; trialrun sums them over slots in "
                    "step_optimizer. Give context.wrap_model the module itself."
                )
            if isinstance(module, torch.nn.SyncBatchNorm) and num_slots != size:
                raise InvalidTrialError(
                    f"Model {index} has a SyncBatchNorm, {name or 'itself'}, which adds up over "
                    f"processes and knows no slots: {_rule(num_slots, size)} Or use BatchNorm, "
                    "which normalizes by the records of one slot."
                )


@contextmanager
def user_collectives(num_slots: int, size: int) -> Iterator[None]:
    """Refuses collectives of ``torch.distributed`` while the block runs, where P is less than S.

    trialrun's own go on: it has bound them by name. So may a module of the user have, which is
    why they are exchanged in all modules but torch's own.

    Args:
        num_slots: S.
        size: P.
    """
    if num_slots == size:
        yield
        return
    refused = {
        id(original): _refused(name, original, num_slots, size)
        for name, original in _ORIGINALS.items()
    }
    exchanged: list[tuple[ModuleType, str, Any]] = []
    try:
        for module in _modules():
            for name, value in list(vars(module).items()):
                if id(value) in refused:
                    exchanged.append((module, name, value))
                    setattr(module, name, refused[id(value)])
        yield
    finally:
        for module, name, value in exchanged:
            setattr(module, name, value)


def _modules() -> list[ModuleType]:
    """Returns torch's public module of collectives, and those of everybody but libraries."""
    others = [
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and name.partition(".")[0] not in _LIBRARIES
    ]
    return [dist, *others]


def _refused(
    name: str, original: Callable[..., Any], num_slots: int, size: int
) -> Callable[..., NoReturn]:
    @functools.wraps(original)
    def refuse(*arguments: Any, **keywords: Any) -> NoReturn:
        raise InvalidTrialError(
            f"The trial called torch.distributed.{name}, which goes from process to process and "
            f"knows no slots: {_rule(num_slots, size)} Or use context.distributed, which goes "
            "from slot to slot on any number of processes."
        )

    return refuse


def _rule(num_slots: int, size: int) -> str:
    return (
        f"each slot needs a process of its own, but {count(size, 'process')} "
        f"{'executes' if size == 1 else 'execute'} {count(num_slots, 'slot')}. Start with "
        f"--processes {num_slots}."
    )
