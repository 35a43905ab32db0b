"""Single faults: what is said of each, and that it costs nothing but time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .commands import Command, Shell
from .other_program import OtherProgram
from .place import Outcome, Place

PATIENCE_SECONDS = 90.0
LOCKED_SECONDS = 2.0


def wait_for(condition: Callable[[], object], shell: Shell, command: Command) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert shell.poll(command) is None, command.text
        assert time.monotonic() < deadline, command.text
        time.sleep(0.02)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_lost_loader_worker_is_named_and_the_trial_goes_on(
    shell: Shell, straight: Outcome, tmp_path: Path, num_processes: int
) -> None:
    place = Place(shell, tmp_path / "place", "4ba")
    command = place.start(num_processes)
    wait_for(lambda: place.batches_completed() > 8, shell, command)
    workers = shell.loader_workers()
    workers[-1].kill()
    assert shell.finish(command) == 0, command.text
    (line,) = [line for line in command.text.splitlines() if line.startswith("Restart")]
    assert re.fullmatch(
        r"Restart 1 of 1000, from batch \d+, checkpoint \S+: Process \d lost a loader worker "
        r"(in slot \d )?at batch \d+: DataLoader worker \(pid[^)]*\) .*\.",
        line,
    )
    digests, metrics = place.outcome()
    assert digests == {batches: straight[0][batches] for batches in digests}
    assert metrics == straight[1]


def test_training_goes_on_while_another_program_has_the_database(
    shell: Shell, straight: Outcome, tmp_path: Path
) -> None:
    place = Place(shell, tmp_path / "place", "4ba", pause_seconds=0.02)
    command = place.start(1)
    wait_for(lambda: place.batches_completed() > 4, shell, command)
    other = OtherProgram(place.database_file)
    before = place.checkpoint_folders()
    # A checkpoint lies under its own name when it is whole, on record or not.
    wait_for(lambda: len(place.checkpoint_folders() - before) >= 2, shell, command)
    time.sleep(LOCKED_SECONDS)
    other.let_go()
    assert shell.finish(command) == 0, command.text
    assert "The records of attempt 1 cannot be written; they are kept, and tried again." in (
        command.text
    )
    assert "The records of attempt 1 are written again." in command.text
    digests, metrics = place.outcome()
    assert metrics == straight[1]
    assert set(range(4, 61, 4)) <= set(digests)
    assert len(place.attempts()) == 1
