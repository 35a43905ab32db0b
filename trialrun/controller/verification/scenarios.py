"""Which ways of training are tried: each differs from the straight run by stops, P or settings."""

from __future__ import annotations

import dataclasses
import enum


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

    def latest_end(self, processes: int, window: int) -> int:
        """Returns the batches completed, at most, when the attempt has ended.

        Args:
            processes: P. Among several a wish is heard one batch later than by one.
            window: Batches in an aggregation window, whose end a pause waits for.
        """
        if self.is_kill:
            return self.batch
        # One that comes with the last batch of a validation is heard in the next batch of training.
        heard = self.batch + (1 if processes == 1 else 2)
        return -(-heard // window) * window


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
    """One way to train, which ends with the bits of the straight run.

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
    def is_stopped(self) -> bool:
        """Whether it is stopped at all."""
        return len(self.legs) > 1

    @property
    def is_repeat(self) -> bool:
        """Whether nothing at all differs from the straight run."""
        return self == dataclasses.replace(STRAIGHT, name=self.name)


STRAIGHT = Scenario(name="straight", legs=(Leg(processes=1),))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Combination:
    """Scenarios that one run tries together: where it ends with the same bits, each of them does.

    Args:
        scenarios: Stopped ones in the order of their stops, each going on with the processes of
            the next; or ones that are not stopped.
    """

    scenarios: tuple[Scenario, ...]

    @property
    def run(self) -> Scenario:
        """The run that has all their stops, or all their settings."""
        first, *others = self.scenarios
        if first.is_stopped:
            legs = (*(s.legs[0] for s in self.scenarios), self.scenarios[-1].legs[-1])
            return Scenario(name="all of these stops, one after the other", legs=legs)
        run = dataclasses.replace(first, name="all of these at once")
        for other in others:
            most = max(run.processes[0], other.processes[0])
            run = dataclasses.replace(
                run,
                legs=(Leg(processes=most),),
                num_workers=run.num_workers if other.num_workers is None else other.num_workers,
                validation_period=other.validation_period or run.validation_period,
                checkpoint_period=other.checkpoint_period or run.checkpoint_period,
            )
        return run

    @property
    def as_run(self) -> list[Scenario]:
        """The scenarios as the one run tries them."""
        run = self.run
        return [
            s if s.is_stopped else dataclasses.replace(s, legs=run.legs) for s in self.scenarios
        ]


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
        learns_from_validations: Whether a scheduler goes by a metric, so that validations at other
            batches make another training.
        num_workers: Loader workers; None where the loader is not trialrun's, and stays as it is.
    """

    processes: tuple[int, ...]
    total_batches: int
    epoch_length: int | None
    window: int
    validation_period: int
    validates: bool
    learns_from_validations: bool
    num_workers: int | None


def plan_runs(ground: Ground) -> list[Combination]:
    """Returns the runs to compare with the straight one, the simplest first.

    The first is the straight one, once more. Other loader workers are tried together with another
    number of processes, and stops one after the other, as far as they fit into one run. A stopped
    run goes on with another number of processes wherever there is one.
    """
    once_more = Scenario(name="once more", legs=STRAIGHT.legs)
    runs = [
        [Scenario(name=f"on {number} processes", legs=(Leg(processes=number),))]
        for number in ground.processes[1:]
    ]
    if ground.num_workers is not None:
        workers = 0 if ground.num_workers else 2
        name = f"num_workers={workers}"
        with_workers = Scenario(name=name, legs=STRAIGHT.legs, num_workers=workers)
        runs = [[*first, with_workers] for first in runs[:1] or [[]]] + runs[1:]
    # Alone: with validations at other batches less can be compared.
    periods = Scenario(
        name="other validation and checkpoint periods",
        legs=STRAIGHT.legs,
        validation_period=ground.validation_period + ground.window,
        checkpoint_period=2 * ground.window,
    )
    if ground.learns_from_validations:
        name = "another checkpoint period (ReduceLROnPlateau learns from validations)"
        periods = dataclasses.replace(periods, name=name, validation_period=None)
    return [
        *(Combination(scenarios=tuple(run)) for run in ([once_more], *runs, [periods])),
        *_chains(_stops(ground), ground),
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PlannedStop:
    """A stop, and on which processes it is what its name says."""

    name: str
    stop: Stop
    processes: tuple[int, ...]


def _stops(ground: Ground) -> list[_PlannedStop]:
    """Returns all stops that come before the run's end, the earliest first."""
    total, window, period = ground.total_batches, ground.window, ground.validation_period
    # Where several processes hear a wish one batch later, it is another batch's.
    exact, several = ground.processes[:1], ground.processes[1:] or ground.processes
    planned = []

    def plan(name: str, batch: int, processes: tuple[int, ...], moment: Moment, kill: bool) -> None:
        stop = Stop(moment=moment, batch=batch, is_kill=kill)
        last = total + (moment is not Moment.TRAINING and kill)
        fitting = tuple(p for p in processes if stop.latest_end(p, window) < last)
        if batch >= 0 and fitting:
            planned.append(_PlannedStop(name=name, stop=stop, processes=fitting))

    # Asked for in a batch, which is the last one of the attempt.
    plan("in an epoch", _in_epoch(total // 8, ground) - 1, several, Moment.TRAINING, False)
    plan("in an epoch", _in_epoch(total * 7 // 8, ground) - 1, exact, Moment.TRAINING, False)
    if ground.epoch_length is not None:
        ends = range(ground.epoch_length, total - window + 1, ground.epoch_length)
        for end in sorted(ends, key=lambda end: abs(end - total // 4))[:1]:
            plan("at an epoch's end", end - 1, exact, Moment.TRAINING, False)
    if window > 1:
        within = total // 2 // window * window
        plan("in an aggregation window", within, exact, Moment.TRAINING, False)
    middle = min(_in_epoch(total // 2, ground), total - 1)
    plan("in an epoch", middle, several, Moment.TRAINING, True)
    if ground.validates:
        validations = range(period, total + 1, period)
        for batch in validations[max(len(validations) * 3 // 4 - 1, 0) :][:1]:
            plan("during a validation", batch, ground.processes, Moment.VALIDATION, False)
        for batch in validations[max(len(validations) // 2 - 1, 0) :][:1]:
            plan("during a validation", batch, several, Moment.VALIDATION, True)
    written = max(total * 5 // 8 // window, 1) * window
    plan("while a checkpoint is written", written, ground.processes, Moment.WRITING, True)
    return sorted(planned, key=lambda p: (p.stop.batch, p.stop.moment is Moment.TRAINING))


def _in_epoch(batch: int, ground: Ground) -> int:
    """Returns that number of batches, or the next if it is an epoch's end."""
    length = ground.epoch_length or batch + 1
    return batch if batch % length or length == 1 else batch + 1


def _chains(stops: list[_PlannedStop], ground: Ground) -> list[Combination]:
    """Puts stops into as few runs as the first fit gives, each with processes for its attempts."""
    used = dict.fromkeys(ground.processes, 0)

    def choose(allowed: tuple[int, ...], before: int | None) -> int | None:
        others = [p for p in allowed if p != before or len(ground.processes) == 1]
        if not others:
            return None
        chosen = min(others, key=lambda p: (used[p], -p))
        used[chosen] += 1
        return chosen

    chains = []
    while stops:
        chain: list[tuple[_PlannedStop, int]] = []
        left = []
        for planned in stops:
            chosen = None
            if not chain or _comes_after(*chain[-1], planned.stop, ground.window):
                chosen = choose(planned.processes, chain[-1][1] if chain else None)
            if chosen is None:
                left.append(planned)
            else:
                chain.append((planned, chosen))
        last = choose(ground.processes, chain[-1][1])
        assert last is not None  # of several numbers of processes one is another
        numbers = [number for _, number in chain] + [last]
        chains.append(
            Combination(
                scenarios=tuple(
                    _stopped(planned, number, following)
                    for (planned, number), following in zip(chain, numbers[1:], strict=True)
                )
            )
        )
        stops = left
    resumed_on = {p for chain in chains for p in chain.run.processes[1:]}
    return [*chains, *_resumed_on(set(ground.processes) - resumed_on, ground)]


def _resumed_on(missing: set[int], ground: Ground) -> list[Combination]:
    """Returns a pause for each number of processes on which no other stopped run goes on."""
    stop = Stop(moment=Moment.TRAINING, batch=max(_in_epoch(ground.total_batches // 2, ground), 1))
    stop = dataclasses.replace(stop, batch=stop.batch - 1)
    if stop.latest_end(ground.processes[0], ground.window) >= ground.total_batches:
        return []
    planned = _PlannedStop(name="in an epoch", stop=stop, processes=ground.processes[:1])
    return [
        Combination(scenarios=(_stopped(planned, ground.processes[0], processes),))
        for processes in sorted(missing - {ground.processes[0]})
    ]


def _comes_after(before: _PlannedStop, processes: int, stop: Stop, window: int) -> bool:
    """Returns whether an attempt that begins where another was stopped comes to a stop for sure."""
    begins = before.stop.latest_end(processes, window)
    # A validation or checkpoint of the batch at which it begins may be there already.
    return begins <= stop.batch if stop.moment is Moment.TRAINING else begins < stop.batch


def _stopped(planned: _PlannedStop, processes: int, following: int) -> Scenario:
    how = "killed" if planned.stop.is_kill else "paused"
    return Scenario(
        name=f"{how} {planned.name}, batch {planned.stop.batch}",
        legs=(Leg(processes=processes, stop=planned.stop), Leg(processes=following)),
    )
