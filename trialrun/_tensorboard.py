"""Where a trial's TensorBoard events go, and who may write them.

TensorBoard is an optional library: nothing here imports it before something is to be written.
"""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from trialrun._engine import Engine
from trialrun._errors import ConfigurationError, InvalidTrialError
from trialrun._forking import no_fork
from trialrun._wording import with_type

if TYPE_CHECKING:
    from trialrun._tensorboard_writer import SlotZeroWriter


class TensorBoard:
    """The TensorBoard events of one trial in this process.

    Args:
        path: The folder of the events; None where nothing is kept.
        logs_metrics: What the configuration says: whether reported metrics are written; None: where
            tensorboard is installed.
        engine: Knows which slot is executing, and where this attempt began.
        is_chief: Whether this process executes slot 0, and so writes.

    Raises:
        ConfigurationError: Metrics are to be written, but tensorboard is not installed.
    """

    def __init__(
        self, path: Path | None, *, logs_metrics: bool | None, engine: Engine, is_chief: bool
    ) -> None:
        self._path = path
        self._logs_metrics = logs_metrics is not False
        self._engine = engine
        self._is_chief = is_chief
        self._writer: SlotZeroWriter | None = None
        # The trial and the thread of the reported metrics may ask for the first time at once.
        self._making = threading.Lock()
        if logs_metrics:
            _require_installed("The configuration key 'tensorboard' is true")

    @property
    def path(self) -> Path:
        """The folder of the events.

        Raises:
            InvalidTrialError: There is none.
        """
        if self._path is None:
            raise InvalidTrialError(
                "This context has no folder for TensorBoard, because nothing of its run is kept. "
                "Give torch.utils.tensorboard.SummaryWriter a folder of your own."
            )
        return self._path

    def keep_in(self, path: Path) -> None:
        """Sets the folder, where it is not known before the trial is made."""
        self._path = path

    @property
    def logs_metrics(self) -> bool:
        """Whether reported metrics are written."""
        return self._logs_metrics

    @logs_metrics.setter
    def logs_metrics(self, logs_metrics: bool) -> None:
        if not isinstance(logs_metrics, bool):
            raise InvalidTrialError(
                f"set_enable_tensorboard_logging got {with_type(logs_metrics)}; it takes True or "
                "False."
            )
        if logs_metrics:
            _require_installed("set_enable_tensorboard_logging(True) was called")
        self._logs_metrics = logs_metrics

    @property
    def can_log_metrics(self) -> bool:
        """Whether reported metrics are to be written, and can be."""
        return self._logs_metrics and self._path is not None and _is_installed()

    @property
    def has_writer(self) -> bool:
        """Whether anything may have been written."""
        return self._writer is not None

    def writer(self) -> SlotZeroWriter:
        """Returns the one writer of this process.

        Raises:
            ConfigurationError: tensorboard is not installed.
            InvalidTrialError: There is no folder.
        """
        with self._making:
            if self._writer is None:
                _require_installed("get_tensorboard_writer() was called")
                with no_fork():  # it may be the thread for reported metrics that comes here first
                    from trialrun._tensorboard_writer import SlotZeroWriter

                self._writer = SlotZeroWriter(
                    self.path, engine=self._engine, is_chief=self._is_chief
                )
            return self._writer

    def flush(self) -> None:
        """Writes out what has been said so far."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Writes out everything and closes the file; a later event opens another."""
        if self._writer is not None:
            self._writer.close()


def _is_installed() -> bool:
    return importlib.util.find_spec("tensorboard") is not None


def _require_installed(reason: str) -> None:
    if not _is_installed():
        raise ConfigurationError(
            f"{reason}, but tensorboard is not installed. Run: pip install 'trialrun[tensorboard]'"
        )
