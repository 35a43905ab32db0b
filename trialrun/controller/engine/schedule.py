"""What is due at the end of a batch: a report, a validation, a checkpoint, the end.

Everything derives from the clock, the number of batches completed. Only lengths and periods given
in time look at the chief's watch; what it shows is agreed on like a stop request.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import sys
import time
from typing import Any

from trialrun._units import Batch, Epoch, Time, Unit
from trialrun._wording import count
from trialrun.controller.config import CheckpointPolicy
from trialrun.controller.engine.length import whole_windows
from trialrun.controller.engine.stopping import StopRequest

ENDLESS_EPOCH = 2**62
"""The length of an epoch that nobody knows the end of: it is always the first."""


class Event(enum.IntEnum):
    """What can fall due; the values index the wishes that processes agree on."""

    STOP = 0  # somebody outside asks: the trial is paused
    END = 1  # its time is up
    EARLY_END = 2  # the trial itself has had enough: it is complete
    REPORT = 3
    VALIDATION = 4
    CHECKPOINT = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch:
    """A part of a trial that is trained again, to be compared with what was recorded.

    Args:
        checkpoints: Batches at which a checkpoint is taken besides those that are due; training
            stops at the last.
    """

    checkpoints: tuple[int, ...]

    @property
    def end(self) -> int:
        """The batch at which training stops."""
        return max(self.checkpoints)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The resolved length and periods of a trial.

    Args:
        global_batch_size: Records in a batch over all slots, if that is known.
        epoch_length: Batches in an epoch; ``ENDLESS_EPOCH`` where the data has no length.
        window: Batches in an aggregation window. Validations, checkpoints and the end wait for a
            window's end, so that no gradient is lost.
        max_length: When the trial is complete.
        reporting_period: How often training metrics are reported.
        validation_period: How often the validation data is evaluated; None: only at the end.
        checkpoint_period: How often a checkpoint is taken; None: only at the end, at validations
            and at stops.
        checkpoint_policy: Which validations are followed by a checkpoint.
        step_zero_validation: Whether the validation data is evaluated before the first batch too.
        stretch: The part of the trial that is trained again; None: all of it is trained.
    """

    global_batch_size: int | None
    epoch_length: int
    window: int
    max_length: Unit
    reporting_period: Unit
    validation_period: Unit | None
    checkpoint_period: Unit | None
    checkpoint_policy: CheckpointPolicy
    step_zero_validation: bool
    stretch: Stretch | None = None

    @property
    def total_batches(self) -> int | None:
        """The trial's length in batches, a whole number of windows; None when it is a time."""
        length = self.batches(self.max_length)
        return None if length is None else whole_windows(length, self.window)

    def batches(self, unit: Unit | None) -> int | None:
        """Returns a length or period in batches; None where there is none or it is a time."""
        if isinstance(unit, Batch):
            return unit.value
        return unit.value * self.epoch_length if isinstance(unit, Epoch) else None

    def is_due(self, unit: Unit | None, batches_completed: int, span: int = 1) -> bool:
        """Returns whether a multiple of the period lies in the last ``span`` batches."""
        period = self.batches(unit)
        if period is None or batches_completed == 0:
            return False
        return batches_completed // period > max(batches_completed - span, 0) // period

    def next_boundary(self, batches_completed: int) -> int:
        """Returns the next batch after which a report, validation, checkpoint or the end is due.

        Between boundaries only what is agreed on, such as a stop, needs to be looked at. A
        validation or checkpoint that falls due within a window waits for the window's end:

            window 3, period 2, 2 batches completed: 2 lies in the window (0, 3], so 3 is next
        """
        boundaries = [self.total_batches] if self.total_batches is not None else []
        reporting = self.batches(self.reporting_period)
        if reporting is not None:
            boundaries.append((batches_completed // reporting + 1) * reporting)
        if self.stretch is not None:
            boundaries += [b for b in self.stretch.checkpoints if b > batches_completed]
        window_start = batches_completed // self.window * self.window
        for unit in (self.validation_period, self.checkpoint_period):
            period = self.batches(unit)
            if period is not None:
                multiple = (window_start // period + 1) * period
                boundaries.append(-(-multiple // self.window) * self.window)
        return min(boundaries, default=sys.maxsize)

    def is_boundary(self, batches_completed: int) -> bool:
        """Returns whether something is due there in every run: a stop makes no such place."""
        straight = dataclasses.replace(self, stretch=None)
        return (
            batches_completed == 0
            or straight.next_boundary(batches_completed - 1) == batches_completed
        )

    def count(self, unit: Unit | None) -> int | None:
        """Returns how many validations or checkpoints a period makes; None where it is a time.

        At most one in each window, and always one at the end: 10 batches, period 4: 4, 8 and 10.
        Without a period that is the only one.
        """
        total, period = self.total_batches, self.batches(unit)
        if total is None or isinstance(unit, Time):
            return None
        if period is None:
            return 1
        if period <= self.window:
            return total // self.window
        multiples = total // period
        last = -(-multiples * period // self.window) * self.window
        return multiples + (last < total)

    def describe(self) -> str:
        """Returns the plan as people read it.

        For example: ``20 epochs x 23 batches = 460 batches, 20 validations, at least 4
        checkpoints``. Whoever stops the run gets one more.
        """
        parts = [
            self._describe_length(),
            self._describe_validations(),
            self._describe_checkpoints(),
        ]
        return ", ".join(parts)

    def _describe_validations(self) -> str:
        number = self.count(self.validation_period)
        if number is None:
            return _in_time("validation", self.validation_period)
        return count(number + self.step_zero_validation, "validation")

    def _describe_checkpoints(self) -> str:
        number, policy = self.count(self.checkpoint_period), self.checkpoint_policy
        further = self._num_validations_apart()
        if policy is CheckpointPolicy.NONE:
            further = 0
        if number is None:
            words = _in_time("checkpoint", self.checkpoint_period)
        elif policy is CheckpointPolicy.ALL and further is not None:
            words, further = count(number + further, "checkpoint"), 0
        else:
            words = count(number, "checkpoint")
        return words if further == 0 else f"at least {words}"

    def _num_validations_apart(self) -> int | None:
        """Returns the validations at batches where no checkpoint is due; None: nobody knows."""
        total, validations = self.total_batches, self.count(self.validation_period)
        if total is None or validations is None or isinstance(self.checkpoint_period, Time):
            return None
        # Without a period: at the end alone. Within a window no more than one of a kind.
        validates, saves = (
            max(self.batches(unit) or total, self.window)
            for unit in (self.validation_period, self.checkpoint_period)
        )
        zeroth = int(self.step_zero_validation)
        if saves in (validates, self.window):
            return zeroth
        if validates % self.window or saves % self.window:
            return None  # the windows' ends shift them against each other
        both = math.lcm(validates, saves)
        return zeroth + validations - (total // both + (total % both > 0))

    def _describe_length(self) -> str:
        total = self.total_batches
        if self.epoch_length == ENDLESS_EPOCH:
            return f"{self.max_length} of training" if total is None else count(total, "batch")
        if total is None:
            return f"{self.max_length} of training, epochs of {count(self.epoch_length, 'batch')}"
        epochs, rest = divmod(total, self.epoch_length)
        if rest or not epochs:
            return f"{count(total, 'batch')}, epochs of {self.epoch_length}"
        per_epoch = count(self.epoch_length, "batch")
        return f"{count(epochs, 'epoch')} x {per_epoch} = {count(total, 'batch')}"

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as JSON data, for the records."""
        units = ("max_length", "reporting_period", "validation_period", "checkpoint_period")
        values = {name: getattr(self, name) for name in units}
        return {
            "global_batch_size": self.global_batch_size,
            "epoch_length": None if self.epoch_length == ENDLESS_EPOCH else self.epoch_length,
            "total_batches": self.total_batches,
            "description": self.describe(),
            **{name: None if unit is None else str(unit) for name, unit in values.items()},
        }


def _in_time(name: str, unit: Unit | None) -> str:
    return f"a {name} at the end" if unit is None else f"a {name} every {unit}"


class Stopwatch:
    """Seconds of training, added up over attempts, and since each event that has a period in time.

    Args:
        plan: The plan; its units in seconds matter here.
    """

    events: list[Event]
    """Those that look at the watch: usually none."""
    is_over: bool
    """Whether the time was up when the attempt began, which is the same on all processes."""

    def __init__(self, plan: Plan) -> None:
        self._start = time.monotonic()
        self._periods = {
            event: unit.seconds
            for event, unit in (
                (Event.REPORT, plan.reporting_period),
                (Event.VALIDATION, plan.validation_period),
                (Event.CHECKPOINT, plan.checkpoint_period),
            )
            if isinstance(unit, Time)
        }
        self._limit = plan.max_length.seconds if isinstance(plan.max_length, Time) else None
        self._last = dict.fromkeys(self._periods, 0.0)
        self.is_over = False
        self.events = [*self._periods] + ([Event.END] if self._limit is not None else [])

    @property
    def elapsed_seconds(self) -> float:
        """Seconds of training over all attempts."""
        return time.monotonic() - self._start

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps: the time so far, and when each event happened last."""
        last = {event.name: seconds for event, seconds in self._last.items()}
        return {"elapsed_seconds": self.elapsed_seconds, "last": last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there: an attempt shorter than a period does not begin the period anew."""
        elapsed = state["elapsed_seconds"]
        self._start = time.monotonic() - elapsed
        self.is_over = self._limit is not None and elapsed >= self._limit
        for event in self._last:
            self._last[event] = state["last"].get(event.name, elapsed)

    def is_due(self, event: Event) -> bool:
        """Returns whether the event's time has come."""
        if event is Event.END:
            return self._limit is not None and self.elapsed_seconds >= self._limit
        period = self._periods.get(event)
        return period is not None and self.elapsed_seconds - self._last[event] >= period

    def happened(self, event: Event) -> None:
        """Starts the event's period anew."""
        if event in self._periods:
            self._last[event] = self.elapsed_seconds


_NO_WISHES = [0] * len(Event)


class BoundaryWishes:
    """What this process wishes at a boundary, in the order of ``Event``: 1 for yes.

    Args:
        stop_request: What it and its slots were asked, or ask.
        stopwatch: The chief's watch, which decides what is due by time; None elsewhere, since the
            watches of processes differ.
    """

    def __init__(self, stop_request: StopRequest, stopwatch: Stopwatch | None) -> None:
        self._stop_request = stop_request
        self._stopwatch = stopwatch

    def __call__(self) -> list[int]:
        """Returns all wishes of this moment."""
        wishes = self.from_outside()
        if self._stop_request.from_slots:
            wishes[Event.EARLY_END] = 1
        return wishes

    def from_outside(self) -> list[int]:
        """Returns those of this moment that do not come from the trial itself."""
        wishes = _NO_WISHES.copy()
        if self._stop_request.from_outside:
            wishes[Event.STOP] = 1
        if self._stopwatch is not None:
            for event in self._stopwatch.events:
                wishes[event] = int(self._stopwatch.is_due(event))
        return wishes
