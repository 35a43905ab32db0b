"""Looks on from within a training process: what each slot is given, and stops it when planned."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from trialrun._data_loader import DataLoader
from trialrun._trial import Trial
from trialrun.controller.checkpoints.contents import CheckpointContents
from trialrun.controller.engine.reports.tensorboard_log import CheckpointWriter
from trialrun.controller.engine.runtime import Runtime
from trialrun.controller.verification.diary import Diary
from trialrun.controller.verification.fingerprints import fingerprint
from trialrun.controller.verification.kept_state import KeptState
from trialrun.controller.verification.scenarios import Moment, Stop

# What loader workers need, as it is without any.
_WITHOUT_WORKERS = {
    "prefetch_factor": None,
    "persistent_workers": False,
    "timeout": 0,
    "worker_init_fn": None,
    "multiprocessing_context": None,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observer:
    """Wraps the methods of one trial object; the trial's class and file are as they were.

    Args:
        folder: Where the processes of the run keep their diaries.
        stop: When this attempt is stopped; None: never.
        num_workers: Loader workers in place of the trial's own number; None: as it says.
        last_batch: The index of the run's last batch, if it is as long as planned.
        watches_state: Whether to look for what the trial keeps from batch to batch.
    """

    folder: Path
    stop: Stop | None
    num_workers: int | None
    last_batch: int
    watches_state: bool = False

    def observe(self, trial: Trial, runtime: Runtime) -> None:
        """Begins to look on, and to write down what it sees."""
        diary = Diary(self.folder)
        watched = _Watched(self, trial, runtime, diary)
        for name in (
            "build_callbacks",
            "build_training_data_loader",
            "train_batch",
            "evaluate_batch",
            "evaluate_full_dataset",
        ):
            method = getattr(trial, name)
            setattr(trial, name, functools.wraps(method)(getattr(watched, name)(method)))

    def around(self, sink: CheckpointWriter) -> CheckpointWriter:
        """Returns the sink, or one that is killed while it writes the planned checkpoint."""
        if self.stop is None or self.stop.moment is not Moment.WRITING:
            return sink
        return _KilledWhileWriting(sink, self.stop.batch)


class _Watched:
    """The methods of a trial, each around the trial's own."""

    def __init__(self, observer: Observer, trial: Trial, runtime: Runtime, diary: Diary) -> None:
        self._observer = observer
        self._trial = trial
        self._runtime = runtime
        self._diary = diary
        self._callbacks: Mapping[str, Any] = {}
        self._loaders: list[Any] = []
        self._kept: KeptState | None = None

    def build_callbacks(self, build: Callable[[], Any]) -> Callable[[], Any]:
        def noted() -> Any:
            callbacks = build()
            if isinstance(callbacks, Mapping):
                self._callbacks = callbacks
            return callbacks

        return noted

    def build_training_data_loader(self, build: Callable[[], Any]) -> Callable[[], Any]:
        def with_workers() -> Any:
            loader = build()
            self._loaders.append(loader)
            if not isinstance(loader, DataLoader):
                return loader
            if self._observer.num_workers is not None:
                loader = _with_workers(loader, self._observer.num_workers)
            self._diary.write(num_workers=loader.num_workers)
            return loader

        return with_workers

    def train_batch(self, train: Callable[..., Any]) -> Callable[..., Any]:
        def seen(batch: Any, epoch_idx: int, batch_idx: int) -> Any:
            slot = self._runtime.context.slot
            self._diary.write(batch=batch_idx, slot=slot, records=fingerprint(batch))
            if self._observer.watches_state and self._kept is None:
                self._diary.write(learns_from_validations=self._learns_from_validations)
                self._kept = KeptState(
                    self._trial, self._runtime.context, self._callbacks, self._loaders
                )
            self._stop_at(Moment.TRAINING, batch_idx)
            returned = train(batch=batch, epoch_idx=epoch_idx, batch_idx=batch_idx)
            if self._kept is not None and slot == self._slots[-1] and self._is_looked_at(batch_idx):
                changes = self._kept.changes()
                self._diary.write(changed=[dataclasses.astuple(change) for change in changes])
            return returned

        return seen

    def evaluate_batch(self, evaluate: Callable[..., Any]) -> Callable[..., Any]:
        return self._evaluating(evaluate)

    def evaluate_full_dataset(self, evaluate: Callable[..., Any]) -> Callable[..., Any]:
        return self._evaluating(evaluate)

    def _evaluating(self, evaluate: Callable[..., Any]) -> Callable[..., Any]:
        def seen(*arguments: Any, **keywords: Any) -> Any:
            completed = self._runtime.execution.batches_completed
            self._diary.write(evaluated=completed)
            self._stop_at(Moment.VALIDATION, completed)
            return evaluate(*arguments, **keywords)

        return seen

    @property
    def _learns_from_validations(self) -> bool:
        schedulers = [wrapped.scheduler for wrapped in self._runtime.context.lr_schedulers]
        return any(isinstance(each, ReduceLROnPlateau) for each in schedulers)

    @property
    def _slots(self) -> range:
        return self._runtime.execution.slot_numbers

    def _stop_at(self, moment: Moment, batch: int) -> None:
        stop = self._observer.stop
        if stop is None or (stop.moment, stop.batch) != (moment, batch):
            return
        collectives = self._runtime.collectives
        # The first process evaluates in any case; others only where there are batches enough.
        killed = 0 if moment is Moment.VALIDATION else collectives.size - 1
        if not stop.is_kill:
            self._runtime.stop_request.set()
        elif collectives.rank == killed:
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_looked_at(self, batch: int) -> bool:
        """Returns whether state is compared after a batch: 0, 1, 3, 7, ... and the planned last.

        A trial may end itself at any; comparing after each would take as long as the training.
        """
        return batch == self._observer.last_batch or not batch & (batch + 1)


class _KilledWhileWriting:
    """A sink whose process ends when the files of one checkpoint are there, and nothing else."""

    def __init__(self, sink: CheckpointWriter, batch: int) -> None:
        self._sink = sink
        self._batch = batch

    def save(
        self,
        contents: CheckpointContents,
        metrics: dict[str, float] | None,
        on_written: Callable[[Path], None] | None = None,
    ) -> None:
        self._sink.save(contents, metrics, self._killing(contents, on_written))

    def save_now(
        self,
        contents: CheckpointContents,
        metrics: dict[str, float] | None,
        on_written: Callable[[Path], None],
    ) -> str | None:
        wrapped = self._killing(contents, on_written)
        assert wrapped is not None  # as it was given one
        return self._sink.save_now(contents, metrics, wrapped)

    def _killing(
        self, contents: CheckpointContents, on_written: Callable[[Path], None] | None
    ) -> Callable[[Path], None] | None:
        if contents.metadata["batches"] != self._batch:
            return on_written
        return lambda folder: os.kill(os.getpid(), signal.SIGKILL)


def _with_workers(loader: DataLoader, num_workers: int) -> DataLoader:
    """Returns the loader with another number of workers."""
    unused: dict[str, Any] = _WITHOUT_WORKERS if num_workers == 0 else {}
    return dataclasses.replace(loader, num_workers=num_workers, **unused)
