"""A trial that has failed by a fault is started again by itself, and ends with the same bits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trialrun.controller.bookkeeping import RunState

from .workplace import NUM_BATCHES, TRIAL, Result, Workplace, wait_for

LEARN = "        loss = nn.functional.mse_loss(self.model(inputs + "


def once_at_batch(batch: int, slot: int, statement: str) -> str:
    """The trial, in which one slot does something else the first time that it sees a batch."""
    return TRIAL.replace(
        LEARN,
        f"        mark = Path(__file__).parent / 'mark-{batch}'\n"
        f"        if batch_idx == {batch} and self.context.slot == {slot} and not mark.exists():\n"
        "            mark.touch()\n"
        f"            {statement}\n{LEARN}",
    )


def test_killed_workers_are_restarted_and_the_result_is_that_of_the_straight_run(
    workplace: Workplace, straight: tuple[Workplace, Result]
) -> None:
    workplace.hold(6)
    attempt = workplace.start("submit", "trial.py", "--processes", "2", "--max-restarts", "2")
    workplace.wait_until_held(6, attempt)
    workplace.hold(13)
    attempt.training_processes()[1].kill()
    workplace.release(6)
    workplace.wait_until_held(13, attempt)
    wait_for(lambda: workplace.checkpoints()[0].batches == 12)
    attempt.training_processes()[0].kill()
    workplace.release(13)
    result = attempt.finish()
    assert result.code == 0, result.err
    restarts = [line for line in result.err.splitlines() if "Restart" in line]
    assert len(restarts) == 2
    for number, (line, process, batch) in enumerate(zip(restarts, (1, 0), (4, 12), strict=True), 1):
        assert re.fullmatch(
            rf"Restart {number} of 2, from batch {batch}, checkpoint [0-9a-f-]{{36}}: "
            rf"Process {process} was killed by SIGKILL\. Its output is in .*/attempts/{number}\.",
            line,
        )
    assert workplace.digests() == straight[0].digests()
    assert workplace.metrics() == straight[0].metrics()
    attempts = workplace.attempts()
    assert [(row.state, row.first_batch) for row in attempts] == [
        (RunState.ERROR, 0),
        (RunState.ERROR, 4),
        (RunState.COMPLETED, 12),
    ]
    assert [(row.error or "")[:33] for row in attempts] == [
        "Process 1 was killed by SIGKILL. ",
        "Process 0 was killed by SIGKILL. ",
        "",
    ]
    shown = workplace.invoke("show", "1").out
    assert shown.count("was killed by SIGKILL") == 2
    log = workplace.invoke("logs", "1").out
    assert "training batch 5\n" in log and f"training batch {NUM_BATCHES - 1}\n" in log


@pytest.mark.parametrize("most", [0, 1])
def test_a_process_that_is_always_lost_ends_the_trial(tmp_path: Path, most: int) -> None:
    dying = TRIAL.replace(LEARN, f"        if batch_idx == 6: __import__('os')._exit(7)\n{LEARN}")
    place = Workplace(tmp_path / "work", dying)
    arguments = ("--processes", "1", "--max-restarts", str(most), "--max-length", "8ba")
    result = place.run("submit", "trial.py", *arguments)
    assert result.code == 1
    how = "Process 0 ended with exit code 7 before the trial was complete. Its output is in "
    remark = "The trial was restarted 1 time (max_restarts), and is not again."
    lines = result.err.splitlines()
    if most:
        # Whether the checkpoint of batch 4 was written by then is chance.
        assert lines.pop(0).startswith("Restart 1 of 1, from batch ")
    assert lines[0].startswith(f"Experiment 1 failed: {how}")
    assert (remark in lines[0]) == bool(most)
    assert len(lines) == 2
    errors = [row.error or "" for row in place.attempts()]
    assert len(errors) == most + 1
    assert (remark in errors[-1]) == bool(most)


def test_an_exception_that_does_not_come_again_costs_a_restart(
    tmp_path: Path, straight: tuple[Workplace, Result]
) -> None:
    place = Workplace(tmp_path / "work", once_at_batch(6, 2, "raise OSError('Stale file handle')"))
    result = place.run("submit", "trial.py", "--processes", "2")
    assert result.code == 0, result.err
    lines = result.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2] == "OSError: Stale file handle"
    assert re.fullmatch(
        r"Restart 1 of 5, from batch 4, checkpoint \S+: "
        r"OSError in slot 2 at batch 6: Stale file handle",
        lines[-1],
    )
    assert place.digests() == straight[0].digests()
    assert place.metrics() == straight[0].metrics()
    assert "OSError: Stale file handle" in (place.attempts()[0].error_traceback or "")


def test_an_exception_that_comes_again_at_the_same_batch_ends_the_trial(tmp_path: Path) -> None:
    place = Workplace(
        tmp_path / "work", TRIAL.replace(LEARN, f"        1 / (6 - batch_idx)\n{LEARN}")
    )
    result = place.run("submit", "trial.py", "--processes", "1")
    assert result.code == 1
    # Each comes after its traceback.
    lines = result.err.splitlines()
    assert lines.count("ZeroDivisionError: division by zero") == 2
    (first,) = [line for line in lines if line.startswith("Restart")]
    last, advice = lines[-2:]
    raised = "ZeroDivisionError in slot 0 at batch 6: division by zero"
    assert first.startswith("Restart 1 of 5, from batch 4, checkpoint ")
    assert first.endswith(f": {raised}")
    assert last == (
        f"Experiment 1 failed: {raised}. It came again at the same batch, and would come every "
        "time: a run is exact. The trial is not restarted."
    )
    assert advice == "When it is mended, go on from batch 4 with: trialrun resume 1"


def test_an_exception_at_the_first_batch_is_not_tried_again(tmp_path: Path) -> None:
    place = Workplace(tmp_path / "work", TRIAL.replace(LEARN, f"        1 / batch_idx\n{LEARN}"))
    result = place.run("submit", "trial.py", "--processes", "1")
    assert result.code == 1
    error, advice = result.err.splitlines()[-2:]
    assert error == "Experiment 1 failed: ZeroDivisionError in slot 0 at batch 0: division by zero"
    assert advice.startswith("Nothing was trained: mend it, and submit it again.")
    assert len(place.attempts()) == 1


def test_a_stop_request_wins_over_a_restart(workplace: Workplace) -> None:
    workplace.hold(6)
    attempt = workplace.start("submit", "trial.py", "--processes", "2")
    workplace.wait_until_held(6, attempt)
    wait_for(lambda: len(workplace.checkpoints()) == 1)
    workplace.invoke("pause", "1", "--no-wait")
    attempt.training_processes()[1].kill()
    result = attempt.finish()
    workplace.release(6)
    assert result.code == 1
    assert "It was asked to stop, so it is not restarted." in result.err
    assert [row.state for row in workplace.attempts()] == [RunState.ERROR]


def test_a_lost_server_is_started_again(
    workplace: Workplace, straight: tuple[Workplace, Result]
) -> None:
    # The supervisor does not see its children then, and must not train beside them.
    workplace.hold(6)
    attempt = workplace.start("submit", "trial.py", "--processes", "2")
    workplace.wait_until_held(6, attempt)
    wait_for(lambda: len(workplace.checkpoints()) == 1)
    training = attempt.training_processes()
    server = training[0].parent()
    assert server is not None and server.pid != attempt.pid
    server.kill()
    wait_for(lambda: not any(process.is_running() for process in training))
    workplace.release(6)
    result = attempt.finish()
    assert result.code == 0, result.err
    assert "Restart 1 of 5, from batch 4, checkpoint " in result.err
    assert workplace.digests() == straight[0].digests()
    assert workplace.metrics() == straight[0].metrics()


def test_a_resume_may_allow_another_number_of_restarts_which_is_recorded(tmp_path: Path) -> None:
    source = once_at_batch(6, 0, "__import__('os')._exit(5)")
    place = Workplace(tmp_path, source=source)
    arguments = ("--processes", "1", "--max-restarts", "0", "--max-length", "8ba")
    assert place.run("submit", "trial.py", *arguments).code == 1
    refused = place.run("resume", "1", "--max-restarts", "-1")
    assert refused.code == 2
    assert "max_restarts" in refused.err and "-1" in refused.err
    assert place.invoke("show", "1", "--json").json["config"]["max_restarts"] == 0
    (tmp_path / "mark-6").unlink()
    resumed = place.run("resume", "1", "--max-restarts", "1")
    assert resumed.code == 0, resumed.err
    assert "Restart 1 of 1" in resumed.err
    assert place.invoke("show", "1", "--json").json["config"]["max_restarts"] == 1
