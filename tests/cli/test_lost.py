"""A process that leaves the others, or steps otherwise, ends the attempt with its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from .workplace import TRIAL, Workplace

LEARN = "        loss = nn.functional.mse_loss(self.model(inputs + "
STEP = "        self.context.step_optimizer(self.optimizer)\n"
ADVICE = "When it is mended, go on from batch 4 with: trialrun resume 1"


def at_batch_6(slot: int, statement: str) -> str:
    """The trial, in which one slot does something else."""
    condition = f"        if batch_idx == 6 and self.context.slot == {slot}:\n"
    return TRIAL.replace(LEARN, f"{condition}            {statement}\n{LEARN}")


def test_step_that_one_slot_leaves_out_is_named(tmp_path: Path) -> None:
    skipping = "        if batch_idx != 6 or self.context.slot != 2:\n    "
    place = Workplace(tmp_path / "work", TRIAL.replace(STEP, skipping + STEP))
    result = place.run("submit", "trial.py", "--slots", "4", "--processes", "4")
    assert result.code == 1
    assert result.err.splitlines() == [
        "Experiment 1 failed: The slots of one batch took different steps: slots 0, 1, 3 called "
        "step_optimizer on optimizer 0 (Adam); slot 2 finished the batch. Every slot must call "
        "step_optimizer equally often and in the same order; do not make it depend on a slot's own "
        "records. (At batch 6.)",
        ADVICE,
    ]


@pytest.mark.parametrize("slots, processes", [(1, 1), (4, 1), (4, 2)])
def test_sys_exit_names_slot_and_batch(tmp_path: Path, slots: int, processes: int) -> None:
    slot = slots // 2
    place = Workplace(tmp_path / "work", at_batch_6(slot, "raise SystemExit"))
    arguments = ("--slots", str(slots), "--processes", str(processes), "--max-length", "8ba")
    result = place.run("submit", "trial.py", *arguments)
    assert result.code == 1
    # After the traceback.
    assert result.err.splitlines()[-2:] == [
        f"Experiment 1 failed: The trial called sys.exit() in slot {slot} at batch 6. To end it, "
        "call context.set_stop_requested(True), or raise an exception.",
        ADVICE,
    ]


@pytest.mark.parametrize("slots, processes, code", [(1, 1, 0), (4, 2, 0), (4, 2, 1)])
def test_process_that_ends_itself_is_named_and_the_run_is_resumed(
    tmp_path: Path, slots: int, processes: int, code: int
) -> None:
    # At batch 4 the checkpoint is written while batches 5 and 6 are computed.
    place = Workplace(tmp_path / "work", at_batch_6(slots // 2, f"__import__('os')._exit({code})"))
    arguments = ("--slots", str(slots), "--processes", str(processes), "--max-length", "8ba")
    result = place.run("submit", "trial.py", *arguments, "--max-restarts", "0")
    assert result.code == 1
    how = f"Process {processes - 1} ended with exit code {code} before the trial was complete."
    lines = result.err.splitlines()
    if processes > 1:
        assert lines.pop(0) == f"{how} The others are being ended."
    assert lines[0].startswith(f"Experiment 1 failed: {how} Its output is in ")
    (attempt,) = place.invoke("show", "1", "--json").json["attempts"]
    assert (attempt["state"], attempt["error"].startswith(how)) == ("ERROR", True)

    if processes > 1:
        return
    place.trial_file.write_text(TRIAL, encoding="utf-8")
    resumed = place.run("resume", "1")
    assert resumed.code == 0, resumed.err
    assert list(place.digests()) == [4, 8]


def test_survivor_does_not_finish_its_batch(workplace: Workplace) -> None:
    workplace.hold(6)
    attempt = workplace.start("submit", "trial.py", "--processes", "2", "--max-restarts", "0")
    workplace.wait_until_held(6, attempt)
    _, lost = attempt.training_processes()
    lost.kill()
    # The gate stays shut: the other process would stand there for ever.
    result = attempt.finish()
    assert result.code == 1
    how = "Process 1 was killed by SIGKILL."
    line, error, advice = result.err.splitlines()
    assert line == f"{how} The others are being ended."
    assert error.startswith(f"Experiment 1 failed: {how} Its output is in ")
    assert advice == ADVICE
