"""Random faults at random instants, and after each the trial goes on to the straight run's bits.

A campaign of another size and seed: ``pytest tests/faults -s --kills 500 --fault-seed 3``.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from trialrun._errors import RunConflictError
from trialrun.controller.liveness import pause_experiment

from .commands import Command, Shell
from .place import NUM_BATCHES, Outcome, Place

LONGEST_WAIT_SECONDS = 1.2
PATIENCE_SECONDS = 60.0
SHARE_IN_TRAINING = 0.6
"""Of the faults; the others come whenever it may be: in a set-up, a stop, between attempts."""


class Faults:
    """What may happen to a command and the processes that train for it."""

    def __init__(self, shell: Shell, place: Place, command: Command) -> None:
        self._shell = shell
        self._place = place
        self._command = command

    def kill_worker(self, chance: random.Random) -> None:
        self._kill_one(self._shell.training_processes(), chance)

    def kill_loader_worker(self, chance: random.Random) -> None:
        self._kill_one(self._shell.loader_workers(), chance)

    def kill_supervisor(self, chance: random.Random) -> None:
        _signal(self._command.pid, signal.SIGKILL)

    def press_ctrl_c(self, chance: random.Random) -> None:
        self._signal_all(signal.SIGINT)

    def terminate_all(self, chance: random.Random) -> None:
        self._signal_all(signal.SIGTERM)

    def terminate_supervisor(self, chance: random.Random) -> None:
        _signal(self._command.pid, signal.SIGTERM)

    def pause(self, chance: random.Random) -> None:
        # As trialrun pause does; where nothing runs it would say so.
        if self._place.is_submitted:
            with contextlib.suppress(RunConflictError):
                pause_experiment(self._place.database, 1, wait=False)

    def _kill_one(self, processes: list[psutil.Process], chance: random.Random) -> None:
        if processes:
            _signal(chance.choice(processes).pid, signal.SIGKILL)

    def _signal_all(self, number: signal.Signals) -> None:
        """As a terminal or a service manager does."""
        others = [*self._shell.training_processes(), *self._shell.loader_workers()]
        for pid in [self._command.pid, *(process.pid for process in others)]:
            _signal(pid, number)


ENDS = re.compile(
    r"Process \d (was killed by SIGKILL\.|lost a loader worker )|Its process is gone\."
    r"|Stopped by Ctrl-C"
)
"""How attempts may have ended; an exception of the trial's, or of trialrun's own, is none of it."""

KINDS: list[Callable[[Faults, random.Random], None]] = [
    Faults.kill_worker,
    Faults.kill_worker,
    Faults.kill_loader_worker,
    Faults.kill_supervisor,
    Faults.press_ctrl_c,
    Faults.terminate_all,
    Faults.terminate_supervisor,
    Faults.pause,
]


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def test_faults_change_nothing(
    shell: Shell, straight: Outcome, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed, num_faults = request.config.getoption("--fault-seed"), request.config.getoption("--kills")
    print(f"\npytest tests/faults -s --kills {num_faults} --fault-seed {seed}")
    chance = random.Random(seed)
    left = num_faults
    counts: collections.Counter[str] = collections.Counter()
    num_rounds = 0
    while left > 0:
        place = Place(shell, tmp_path / f"round-{num_rounds}", "4ba")
        left = _train_through_faults(shell, place, chance, left, counts)
        digests, metrics = place.outcome()
        assert digests == {batches: straight[0][batches] for batches in digests}
        assert set(range(4, NUM_BATCHES + 1, 4)) <= set(digests)
        assert metrics == straight[1]
        for attempt in place.attempts():
            assert attempt.error is None or ENDS.match(attempt.error), place.describe(attempt)
        _require_all_ended(place)
        num_rounds += 1
        print(f"{num_faults - left} faults, {num_rounds} trials: all equal", flush=True)
    print(f"{num_faults} faults in {num_rounds} trials: {dict(counts)}")


def _train_through_faults(
    shell: Shell,
    place: Place,
    chance: random.Random,
    num_faults: int,
    counts: collections.Counter[str],
) -> int:
    """Trains until the trial is complete; returns how many faults are left to make."""
    while True:
        command = place.start(chance.choice([1, 2, 4]))
        while num_faults > 0 and _comes_to_the_instant(shell, place, command, chance):
            kind = chance.choice(KINDS)
            kind(Faults(shell, place, command), chance)
            counts[kind.__name__] += 1
            num_faults -= 1
        code = shell.finish(command)
        # Its predecessor may have been killed when the trial was complete already.
        if code == 0 or (code == 2 and "is complete, after" in command.text):
            return num_faults
        _require_explained(code, command.text)


def _comes_to_the_instant(
    shell: Shell, place: Place, command: Command, chance: random.Random
) -> bool:
    """Waits for a random instant, mostly of training; returns whether the command still runs."""
    if chance.random() < SHARE_IN_TRAINING:
        before = place.num_attempts_training()
        while shell.poll(command) is None and place.num_attempts_training() == before:
            time.sleep(0.05)
    deadline = time.monotonic() + chance.uniform(0.0, LONGEST_WAIT_SECONDS)
    while time.monotonic() < deadline and shell.poll(command) is None:
        time.sleep(0.005)
    return shell.poll(command) is None


def _require_all_ended(place: Place) -> None:
    """Nothing outlives the trial; a loader worker whose parent was killed notices in 5 seconds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left := place.processes():
        assert time.monotonic() < deadline, f"still alive: {left}"
        time.sleep(0.1)


def _require_explained(code: int, text: str) -> None:
    """Accepts the ends that one of the faults explains; a failure of trialrun's own is none."""
    was_signalled = code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
    was_stopped = code in (3, 130) or (code == 1 and "It was asked to stop" in text)
    # Its predecessor, whose supervisor was killed, is still ending.
    is_early = code == 2 and "runs already" in text
    assert was_signalled or was_stopped or is_early, f"{code}: {text}"
