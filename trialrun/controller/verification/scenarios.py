"""Which runs are made: each differs from the straight one by stops, processes or periods."""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Iterator


class Moment(enum.Enum):
    """During what a run is stopped."""

    TRAINING = "training"
    VALIDATION = "validation"
    WRITING = "writing a checkpoint"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stop:
    """How one attempt is stopped.

    Args:
        moment: During what.
        batch: Batches completed at that moment: training is stopped while it computes the next one.
        is_kill: Whether a process is killed; otherwise it is asked to stop.
    """

    moment: Moment
    batch: int
    is_kill: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leg:
    """One attempt of a run.

    Args:
        processes: P.
        stop: How it is stopped; None: it goes on to the end.
    """

    processes: int
    stop: Stop | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """One run, which ends with the bits of the straight one.

    Args:
        name: For people.
        legs: Its attempts in order.
        num_workers: Loader workers in place of the trial's own number.
        validation_period: In batches, where it is another than the straight run's.
        checkpoint_period: The same.
    """

    name: str
    legs: tuple[Leg, ...]
    num_workers: int | None = None
    validation_period: int | None = None
    checkpoint_period: int | None = None

    @property
    def processes(self) -> list[int]:
        """P of each attempt."""
        return [leg.processes for leg in self.legs]

    @property
    def is_repeat(self) -> bool:
        """Whether nothing at all differs from the straight run."""
        return self == dataclasses.replace(STRAIGHT, name=self.name)


STRAIGHT = Scenario(name="straight", legs=(Leg(processes=1),))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ground:
    """What the straight run was like.

    Args:
        processes: Every P that the machine can serve and that divides the slots, ascending.
        total_batches: How long it was.
        epoch_length: In batches; None where the data has no length.
        window: Batches in an aggregation window.
        validation_period: In batches.
        validates: Whether the trial has validation data at all.
        num_workers: Loader workers; None where the loader is not trialrun's, and stays as it is.
    """

    processes: tuple[int, ...]
    total_batches: int
    epoch_length: int | None
    window: int
    validation_period: int
    validates: bool
    num_workers: int | None


def plan_scenarios(ground: Ground) -> list[Scenario]:
    """Returns the runs to compare with the straight one, the simplest first.

    Stopped runs go on with another number of processes wherever there is one.
    """
    return [
        Scenario(name="once more", legs=STRAIGHT.legs),
        *_other_processes(ground),
        *_other_settings(ground),
        *_stopped(ground),
    ]


def _other_processes(ground: Ground) -> Iterator[Scenario]:
    for processes in ground.processes[1:]:
        yield Scenario(name=f"on {processes} processes", legs=(Leg(processes=processes),))


def _other_settings(ground: Ground) -> Iterator[Scenario]:
    if ground.num_workers is not None:
        workers = 0 if ground.num_workers else 2
        name = f"num_workers={workers}"
        yield Scenario(name=name, legs=STRAIGHT.legs, num_workers=workers)
    other = ground.validation_period + ground.window
    yield Scenario(
        name="other validation and checkpoint periods",
        legs=STRAIGHT.legs,
        validation_period=other,
        checkpoint_period=2 * ground.window,
    )


def _stopped(ground: Ground) -> Iterator[Scenario]:
    later = itertools.cycle(reversed(ground.processes))
    most = ground.processes[-1]

    def stopped(name: str, stop: Stop, *, processes: int = 1) -> Scenario:
        rest = next(p for p in later if p != processes or len(ground.processes) == 1)
        how = "killed" if stop.is_kill else "paused"
        return Scenario(
            name=f"{how} {name}, batch {stop.batch}",
            legs=(Leg(processes=processes, stop=stop), Leg(processes=rest)),
        )

    middle = _mid_epoch(ground)
    # Asked for in the batch before, which is the last one of the attempt.
    yield stopped("in an epoch", Stop(moment=Moment.TRAINING, batch=middle - 1))
    if most > 1:
        stop = Stop(moment=Moment.TRAINING, batch=middle - 1)
        yield stopped("in an epoch", stop, processes=most)
    end = ground.epoch_length
    # A pause waits for a window's end, and must come before the run's.
    if end is not None and end <= ground.total_batches - ground.window:
        yield stopped("at an epoch's end", Stop(moment=Moment.TRAINING, batch=end - 1))
    if ground.window > 1:
        within = ground.total_batches // 2 // ground.window * ground.window
        yield stopped("in an aggregation window", Stop(moment=Moment.TRAINING, batch=within))
    yield stopped(
        "in an epoch", Stop(moment=Moment.TRAINING, batch=middle, is_kill=True), processes=most
    )
    validated = ground.total_batches // 2 // ground.validation_period * ground.validation_period
    if ground.validates and validated:
        yield stopped("during a validation", Stop(moment=Moment.VALIDATION, batch=validated))
        stop = Stop(moment=Moment.VALIDATION, batch=validated, is_kill=True)
        yield stopped("during a validation", stop, processes=most)
    written = max(ground.total_batches * 2 // 3 // ground.window, 1) * ground.window
    stop = Stop(moment=Moment.WRITING, batch=written, is_kill=True)
    yield stopped("while a checkpoint is written", stop)


def _mid_epoch(ground: Ground) -> int:
    """Returns a number of batches in the middle of the run, at no end of an epoch if possible."""
    middle = max(ground.total_batches // 2, 1)
    candidates = range(middle, min(middle + 2, ground.total_batches))
    return next((b for b in candidates if b % (ground.epoch_length or b + 1)), middle)
