"""A ``SummaryWriter`` to which every slot may speak, and which writes down what slot 0 says."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from trialrun._engine import Engine

# Events wait in memory, however slow the disk; and they are seen within seconds.
_MAX_QUEUE = 10_000
_FLUSH_SECONDS = 10


class SlotZeroWriter(SummaryWriter):
    """Writes the events of slot 0 and discards those of the other slots.

    Whoever executes the slots, an event is so written once. The file is opened at the first event.
    It begins by hiding those that an earlier attempt has written of batches after the one at which
    this attempt began: they come again.

    Args:
        path: The folder of the events.
        engine: Knows which slot is executing, and where this attempt began.
        is_chief: Whether this process executes slot 0.
    """

    def __init__(self, path: Path, *, engine: Engine, is_chief: bool) -> None:
        self._engine = engine
        self._is_chief = is_chief
        self._is_ready = False
        self._has_begun = False
        # Reported metrics come from a thread of their own.
        self._opening = threading.RLock()
        super().__init__(str(path), max_queue=_MAX_QUEUE, flush_secs=_FLUSH_SECONDS)
        self._is_ready = True

    def __deepcopy__(self, memo: dict[int, Any]) -> SlotZeroWriter:
        # A reducer that keeps it is copied for each slot; the file is the same.
        return self

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Writes reported metrics, whichever slot is executing meanwhile."""
        for name, value in metrics.items():
            super().add_scalar(name, value, step)

    def _get_file_writer(self) -> Any:
        with self._opening:
            if not self._is_ready:
                return None  # SummaryWriter would open a file when it is made
            if not self._has_begun:
                self._has_begun = True
                batches = self._engine.initial_batch
                # Batches completed are what reported metrics are written with, so those of the
                # checkpoint's own batch stay. Nothing of a run that begins anew does.
                self.purge_step = batches + 1 if batches else 0
            return super()._get_file_writer()  # type: ignore[no-untyped-call]  # torch's

    def _writes(self) -> bool:
        return self._is_chief and self._engine.slot == 0


def _of_slot_zero(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def add(writer: SlotZeroWriter, *args: Any, **kwargs: Any) -> Any:
        return method(writer, *args, **kwargs) if writer._writes() else None

    return add


for _name in [name for name in vars(SummaryWriter) if name.startswith("add_")]:
    setattr(SlotZeroWriter, _name, _of_slot_zero(getattr(SummaryWriter, _name)))
