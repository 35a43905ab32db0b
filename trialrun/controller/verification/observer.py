"""Looks on from within a training process: what each slot is given, and stops it when planned."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trialrun._data_loader import DataLoader
from trialrun._trial import Trial
from trialrun.controller.checkpoints.contents import CheckpointContents
from trialrun.controller.engine.reports.tensorboard_log import CheckpointWriter
from trialrun.controller.engine.runtime import Runtime
from trialrun.controller.verification.diary import Diary
from trialrun.controller.verification.fingerprints import fingerprint
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
        last_batch: The index of the run's last batch, after which attributes are compared.
    """

    folder: Path
    stop: Stop | None
    num_workers: int | None
    last_batch: int

    def observe(self, trial: Trial, runtime: Runtime) -> None:
        """Begins to look on, and to write down what it sees."""
        diary = Diary(self.folder)
        watched = _Watched(self, trial, runtime, diary)
        for name in (
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
        self._before: dict[str, str] | None = None

    def build_training_data_loader(self, build: Callable[[], Any]) -> Callable[[], Any]:
        def with_workers() -> Any:
            loader = build()
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
            if self._before is None:
                self._before = self._attributes()
            self._stop_at(Moment.TRAINING, batch_idx)
            returned = train(batch=batch, epoch_idx=epoch_idx, batch_idx=batch_idx)
            if batch_idx == self._observer.last_batch and slot == self._slots[-1]:
                self._compare_attributes()
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
    def _slots(self) -> range:
        return self._runtime.execution.slot_numbers

    def _stop_at(self, moment: Moment, batch: int) -> None:
        stop = self._observer.stop
        if stop is None or (stop.moment, stop.batch) != (moment, batch):
            return
        collectives = self._runtime.collectives
        if not stop.is_kill:
            self._runtime.stop_request.set()
        elif collectives.rank == collectives.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def _attributes(self) -> dict[str, str]:
        """Returns the fingerprint of each attribute that no checkpoint holds by itself."""
        context = self._runtime.context
        held = [context, *context.models, *context.optimizers, *context.scalers]
        held += [wrapped.scheduler for wrapped in context.lr_schedulers]
        held += [wrapped.given for wrapped in context.reducers]
        kept = {id(value) for value in held}
        return {
            name: fingerprint(value)
            for name, value in vars(self._trial).items()
            if not _is_held(value, kept)
        }

    def _compare_attributes(self) -> None:
        before, now = self._before or {}, self._attributes()
        saved = self._trial.state_dict()
        changed = [
            name
            for name in before.keys() | now.keys()
            if before.get(name) != now.get(name) and name.lstrip("_") not in saved
        ]
        self._diary.write(changed=sorted(changed))


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


def _is_held(value: Any, kept: set[int]) -> bool:
    """Returns whether checkpoints hold a value, or training cannot change what it stands for."""
    if id(value) in kept or isinstance(value, DataLoader):
        return True
    if isinstance(value, list | tuple | dict):
        items = list(value.values()) if isinstance(value, dict) else list(value)
        return bool(items) and all(_is_held(item, kept) for item in items)
    return callable(value) and not isinstance(value, torch.nn.Module)


def _with_workers(loader: DataLoader, num_workers: int) -> DataLoader:
    """Returns the loader with another number of workers."""
    unused: dict[str, Any] = _WITHOUT_WORKERS if num_workers == 0 else {}
    return dataclasses.replace(loader, num_workers=num_workers, **unused)
