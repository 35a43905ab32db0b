"""A trial that stands still is found, says where it stood, and is restarted."""

from __future__ import annotations

import re
from pathlib import Path

from .test_restarts import once_at_batch
from .workplace import Result, Workplace

STAND_STILL = "__import__('threading').Event().wait()"


def test_a_worker_that_hangs_is_restarted_with_the_stacks_of_all_slots_in_its_log(
    straight: tuple[Workplace, Result], tmp_path: Path
) -> None:
    place = Workplace(tmp_path / "work", once_at_batch(6, 2, STAND_STILL))
    with (place.folder / "trial.yaml").open("a") as config:
        # Long enough for a first batch on a machine that is busy.
        config.write("hang_timeout: 8s\n")
    result = place.run("submit", "trial.py", "--processes", "2")
    assert result.code == 0, result.err
    folder = place.home / "experiments/1/trials/1/attempts/1"
    assert re.fullmatch(
        r"Restart 1 of 5, from batch 4, checkpoint \S+: Nothing went on for 8s \(hang_timeout\) at "
        rf"batch 6\. Where each slot stood is in {folder}/process-0\.log and those beside it\.\n",
        result.err,
    )
    log = (folder / "process-1.log").read_text(encoding="utf-8")
    threads = log.split("\n\n")
    (stuck,) = [text for text in threads if re.search(r" in slot_2$", text, re.MULTILINE)]
    assert re.search(r'trial\.py", line \d+ in train_batch', stuck)
    assert "in slot_3\n" in log
    assert " in slot_0\n" in (folder / "process-0.log").read_text(encoding="utf-8")
    assert place.digests() == straight[0].digests()
    assert place.metrics() == straight[0].metrics()
    first, second = place.attempts()
    assert (first.error or "").startswith("Nothing went on for 8s (hang_timeout) at batch 6.")
    assert second.error is None
