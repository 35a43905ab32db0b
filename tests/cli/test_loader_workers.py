"""Loader processes end with the training process, which would otherwise wait for them for ever."""

from __future__ import annotations

from pathlib import Path

from .workplace import TRIAL, Result, Workplace

WORKERS = "num_workers=1, persistent_workers=True)"
SOURCE = TRIAL.replace("shuffle=True)", f"shuffle=True, {WORKERS}").replace(
    "batch_size=4)", f"batch_size=4, {WORKERS}"
)


def test_a_trial_with_loader_workers_ends_as_the_one_without(
    straight: tuple[Workplace, Result], tmp_path: Path
) -> None:
    assert SOURCE.count(WORKERS) == 2
    place = Workplace(tmp_path, SOURCE)
    assert place.run("submit", "trial.py", "--processes", "1").code == 0
    assert place.digests() == straight[0].digests()
    assert place.metrics() == straight[0].metrics()


def test_a_trial_with_loader_workers_that_fails_ends(tmp_path: Path) -> None:
    failing = SOURCE.replace("    wait_at_gate(batch_idx)", "    1 / (batch_idx - 7)")
    assert failing != SOURCE
    arguments = ("--processes", "2", "--max-restarts", "0")
    result = Workplace(tmp_path, failing).run("submit", "trial.py", *arguments)
    assert result.code == 1
    assert "ZeroDivisionError in slot " in result.err + result.out
