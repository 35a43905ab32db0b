"""Checkpoints that are damaged, and disks that are full: said, survived, and nothing is lost."""

from __future__ import annotations

import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from trialrun.controller.bookkeeping import CheckpointState, RunState

from .workplace import NUM_BATCHES, Result, Workplace, wait_for


def truncate(folder: Path) -> str:
    file = folder / "model.safetensors"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-7])
    return f"model.safetensors has {size - 7} bytes, but {size} were written."


def flip_a_bit(folder: Path) -> str:
    file = folder / "state.pt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return "state.pt has the hash "


def remove_a_file(folder: Path) -> str:
    (folder / "metadata.json").unlink()
    return "metadata.json is missing."


DAMAGES = [truncate, flip_a_bit, remove_a_file]


def test_resume_falls_back_to_the_newest_whole_checkpoint(
    workplace: Workplace, straight: tuple[Workplace, Result]
) -> None:
    workplace.hold(19)
    attempt = workplace.start("submit", "trial.py", "--processes", "2")
    workplace.wait_until_held(19, attempt)
    wait_for(lambda: len(workplace.checkpoints()) == 4)
    # The first Ctrl-C is heard; at the second the trial still stands at its gate.
    attempt.interrupt()
    workplace.wait_until_stop_is_requested()
    attempt.interrupt()
    stopped = attempt.finish()
    workplace.release(19)
    assert stopped.code == 130
    assert stopped.err == "Stopped at once. Go on with: trialrun resume 1\n"
    assert workplace.attempts()[-1].state is RunState.KILLED

    newest = workplace.checkpoints()[:3]
    problems = [damage(Path(row.path)) for damage, row in zip(DAMAGES, newest, strict=True)]
    resumed = workplace.run("resume", "1", "--processes", "4")

    assert resumed.code == 0, resumed.err
    warnings = [line for line in resumed.err.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == 3
    for line, row, problem in zip(warnings, newest, problems, strict=True):
        assert line.startswith(f"Warning: Checkpoint {row.uuid}: {problem}")
        assert line.endswith(" It is marked as damaged; an older one is looked for.")
    assert resumed.lines[3].startswith("Resumes: at batch 4, checkpoint ")
    assert workplace.digests()[NUM_BATCHES] == straight[0].digests()[NUM_BATCHES]
    assert workplace.metrics() == straight[0].metrics()


@pytest.mark.parametrize("number, damage", list(enumerate(DAMAGES)))
def test_verify_finds_damage(
    straight: tuple[Workplace, Result], number: int, damage: Callable[[Path], str]
) -> None:
    place, _ = straight
    row = place.checkpoints()[3 + number]
    whole = place.invoke("checkpoint", "verify", row.uuid[:8])
    assert whole.code == 0
    assert re.fullmatch(rf"Checkpoint {row.uuid} is whole: .* kB compared\.\n", whole.out)

    problem = damage(Path(row.path))
    damaged = place.invoke("checkpoint", "verify", row.uuid)
    assert damaged.code == 1
    assert damaged.err.startswith(f"Checkpoint {row.uuid}: {problem}")
    assert damaged.err.endswith(" It is marked as damaged, and no resume will use it.\n")
    assert place.checkpoints()[3 + number].state is CheckpointState.DAMAGED
    result = place.invoke("checkpoint", "verify", row.uuid, "--json")
    assert result.code == 1
    assert result.json["whole"] is False
    assert result.json["problem"].startswith(f"Checkpoint {row.uuid}: {problem}")


def test_full_disk_costs_a_checkpoint_and_not_the_run(workplace: Workplace) -> None:
    # So large a model that its checkpoint is over the limit, while records and logs stay below.
    arguments = ("--hp", "hidden=100000", "--slots", "1", "--max-length", "12ba")
    workplace.hold(6)
    attempt = workplace.start("submit", "trial.py", *arguments)
    workplace.wait_until_held(6, attempt)
    (training,) = attempt.training_processes()

    def set_file_size_limit(size_bytes: int) -> None:
        resource.prlimit(training.pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))

    def num_failures() -> int:
        log = workplace.home / "experiments/1/trials/1/attempts/1/process-0.log"
        return log.read_text(encoding="utf-8").count("could not be written")

    wait_for(lambda: len(workplace.checkpoints()) == 1)
    workplace.hold(10)
    set_file_size_limit(2_000_000)
    workplace.release(6)
    workplace.wait_until_held(10, attempt)
    wait_for(num_failures)
    # It went on. The last checkpoint fails too, and that is no success.
    workplace.release(10)
    result = attempt.finish()

    assert result.code == 1
    assert "ERROR: The checkpoint of batch 8 could not be written: " in result.out
    assert "Training goes on; the older checkpoints are whole." in result.out
    assert "Experiment 1 failed: The last checkpoint could not be written: " in result.err
    assert "The older ones are whole; make room and resume." in result.err
    (row,) = workplace.checkpoints()
    assert row.batches == 4
    assert [path.name for path in Path(row.path).parent.iterdir()] == [row.uuid]
    assert workplace.invoke("checkpoint", "verify", row.uuid).code == 0

    resumed = workplace.run("resume", "1")
    assert resumed.code == 0, resumed.err
    assert list(workplace.digests()) == [4, 8, 12]
    assert [batches for kind, batches, _ in workplace.metrics() if kind == "training"] == [
        3,
        6,
        9,
        12,
    ]


def test_sighup_to_all_pauses(workplace: Workplace) -> None:
    workplace.hold(2)
    attempt = workplace.start("submit", "trial.py", "--processes", "2")
    workplace.wait_until_held(2, attempt)
    attempt.signal_all(signal.SIGHUP)
    workplace.wait_until_stop_is_requested()
    workplace.release(2, slowly=True)
    result = attempt.finish()
    assert result.code == 3, result.err
    assert result.lines[-1] == "trialrun resume 1"
