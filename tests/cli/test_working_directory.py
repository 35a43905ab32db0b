"""A trial finds modules below the folder in which it was submitted, whoever goes on with it."""

from __future__ import annotations

import shutil
from pathlib import Path

from .workplace import TRIAL, Workplace

SOURCE = TRIAL.replace("import torch\n", "import torch\nfrom src.parts import factor\n", 1).replace(
    "        inputs, targets = batch\n",
    "        inputs, targets = batch\n        inputs = inputs * factor(batch_idx)\n",
    1,
)
PARTS = """
from pathlib import Path

def factor(batch_idx):
    if batch_idx == 5 and Path(__file__).with_name("broken").exists():
        raise ValueError("it is broken")
    return 1.5
"""
ARGUMENTS = ("--slots", "2", "--processes", "1", "--max-length", "8ba")


def place_of(folder: Path) -> Workplace:
    place = Workplace(folder / "project")
    place.home = folder / "home"
    place.environment["TRIALRUN_HOME"] = str(place.home)
    (place.folder / "src").mkdir()
    (place.folder / "trial.yaml").rename(place.folder / "src" / "trial.yaml")
    place.trial_file.unlink()
    (place.folder / "src" / "trial.py").write_text(SOURCE, encoding="utf-8")
    (place.folder / "src" / "parts.py").write_text(PARTS, encoding="utf-8")
    return place


def test_what_is_submitted_in_one_folder_goes_on_in_another(tmp_path: Path) -> None:
    place = place_of(tmp_path)
    broken = place.folder / "src" / "broken"
    broken.touch()
    first = place.run("submit", "src/trial.py", *ARGUMENTS)
    assert "ValueError in slot 0 at batch 5: it is broken" in first.err
    broken.unlink()

    project, place.folder = place.folder, tmp_path / "elsewhere"
    place.folder.mkdir()
    resumed = place.run("resume", "1")
    assert resumed.code == 0, resumed.err
    assert place.run("evaluate", "1").code == 0
    replayed = place.run("replay", "1", "--from", "start", "--to", "latest")
    assert replayed.code == 0, replayed.err
    shown = place.run("show", "1", "--json").json
    assert shown["working_directory"] == str(project)

    # The trial needs that folder: without it nothing can go on, and the reason is said.
    shutil.rmtree(project)
    lost = place.run("evaluate", "1")
    assert lost.code == 2
    assert f"It was submitted in {project}, below which modules are searched too" in lost.err


def test_a_rehearsal_finds_them_too(tmp_path: Path) -> None:
    place = place_of(tmp_path)
    result = place.run("submit", "src/trial.py", *ARGUMENTS, "--test-mode")
    assert result.code == 0, result.err
