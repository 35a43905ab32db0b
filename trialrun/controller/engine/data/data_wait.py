"""How much of the training time is spent waiting for data, and the advice that follows from it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BATCHES: Final = 50
_MAX_FRACTION: Final = 0.1
# What it takes at least to get a batch from another process.
_HANDOVER_SECONDS: Final = 0.0005


class DataWait:
    """Measures the time for which the loop waits for its batches.

    When more than a tenth of the time of 50 batches was spent waiting, one advice says so, once in
    an attempt. Its id is ``data-wait``. Where a batch comes faster than a loader worker could hand
    it over, there is nothing to advise.

    Args:
        num_workers: Loader processes of this training process.
        gathers_batches: Whether a batch is gathered whole from memory.
        num_cores: CPU cores that it can use.
        slots_each: Slots that it executes: shares that make one batch.
        is_silent: Whether to measure without advice.
        clock: Seconds from any start; another one for tests.
    """

    fraction: float
    """Of the newest 50 batches, the part of the time that was spent waiting; 0 before that."""

    def __init__(
        self,
        *,
        num_workers: int,
        gathers_batches: bool = False,
        num_cores: int,
        slots_each: int,
        is_silent: bool,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.fraction = 0.0
        self._num_workers = num_workers
        self._gathers_batches = gathers_batches
        self._num_cores = num_cores
        self._window = _BATCHES * slots_each
        self._is_silent = is_silent
        self._clock = clock

    def measured(self, shares: Iterable[T]) -> Iterator[T]:
        """Hands on the slots' shares of the batches, and measures how long each is waited for."""
        clock, iterator = self._clock, iter(shares)
        # Not the first batch, for which workers start and files are opened.
        for _ in range(self._window // _BATCHES):
            yield next(iterator)
        while True:
            waited, began = 0.0, clock()
            for _ in range(self._window):
                asked = clock()
                share = next(iterator)
                waited += clock() - asked
                yield share
            self._look(waited, clock() - began)

    def _look(self, waited: float, elapsed: float) -> None:
        self.fraction = waited / elapsed
        is_slow = waited > _HANDOVER_SECONDS * self._window
        if self.fraction > _MAX_FRACTION and is_slow and not self._is_silent:
            self._is_silent = True
            logger.warning(
                "Training waits for data %.0f %% of the time (of the last %d batches). %s To "
                "silence this advice: silence: [data-wait] in trial.yaml.",
                100 * self.fraction,
                _BATCHES,
                self._remedy(waited, elapsed),
            )

    def _remedy(self, waited: float, elapsed: float) -> str:
        if self._gathers_batches and self._num_workers:
            return (
                f"Set num_workers=0 in the DataLoader; it is {self._num_workers}. Its dataset "
                "gives a whole batch at once, sooner than a worker hands it over."
            )
        computing = max(elapsed - waited, 1e-9)
        # Without workers, loading took what was waited; with some, all of them loaded all the time.
        loading = self._num_workers * elapsed or waited
        wanted = min(math.ceil(loading / computing), self._num_cores)
        if wanted > self._num_workers:
            return f"Set num_workers={wanted} in the DataLoader; it is {self._num_workers}."
        return (
            f"num_workers={self._num_workers} keeps all {self._num_cores} cores of the process "
            "busy: make a record cheaper to load, or store it as it is used."
        )
