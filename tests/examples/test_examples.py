"""Every folder of examples/ that has a trial is held to the same promises."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli.workplace import Workplace
from process_launch import Job, Launcher
from support import Run, make_spec, resume, run_session

import trialrun
from trialrun.controller.determined_config import is_determined, read_determined_config
from trialrun.controller.engine.session import TrialSpec

ROOT = Path(trialrun.__file__).parents[1]
EXAMPLES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/trial.py"))
README = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
COMMANDS = dict(
    re.findall(r"^\| \[(\w+)\]\(\1/trial\.py\) \|.*\| `(trialrun submit [^`]+)` \|", README, re.M)
)
"""The command of each row of the table, by the example's name."""

NUM_BATCHES = 6
STOP_HEARD_AT = 4
STOPPED_AT = (4, 5)
"""A stop is agreed on one batch ahead; at once where a callback may ask for it."""
NUM_BATCHES_TO_LEARN = 30


def config_of(folder: Path) -> dict[str, Any]:
    """Returns an example's configuration; one that is Determined's in trialrun's keys."""
    path = folder / "trial.yaml"
    if path.exists():
        config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        return config
    data = yaml.safe_load((folder / "const.yaml").read_text(encoding="utf-8"))
    assert is_determined(data)
    return read_determined_config(data, {}).config.to_json()


def spec_of(example: str, **overrides: Any) -> TrialSpec:
    """Returns the example with its own configuration but for 2 slots and what is overridden."""
    folder = ROOT / "examples" / example
    config = config_of(folder)
    quiet = {"checkpoint_policy": "none", "checkpoint_period": None, "validation_period": None}
    return make_spec(folder / "trial.py", **{**config, **quiet, "slots": 2, **overrides})


def short_spec(example: str) -> TrialSpec:
    # So that the stop falls between two reports.
    length = {"max_length": f"{NUM_BATCHES}ba", "reporting_period": f"{NUM_BATCHES // 2}ba"}
    return spec_of(example, step_zero_validation=False, **length)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Each example, stopped in the middle of a short run in this process."""
    stop = ("progress", STOP_HEARD_AT)
    return {
        example: run_session(
            short_spec(example), tmp_path_factory.mktemp(f"{example}-stopped"), stop_upon=stop
        )
        for example in EXAMPLES
    }


@pytest.fixture(scope="module")
def resumed_on_two_processes(
    stopped: dict[str, Run], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What became of each stopped run on two real processes, one slot each."""
    folder = tmp_path_factory.mktemp("two-processes")
    jobs = [
        Job(resume(short_spec(example), stopped[example]), folder / example) for example in EXAMPLES
    ]
    chief, _ = Launcher(folder).launch(2, jobs)
    return dict(zip(EXAMPLES, chief, strict=True))


def test_readme_has_a_row_for_each_example() -> None:
    assert sorted(COMMANDS) == EXAMPLES
    assert {"char_gpt", "determined_style", "digits", "gan", "lstm"} <= set(EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES)
def test_documented_command_passes_its_rehearsal_on_two_processes(
    example: str, tmp_path: Path
) -> None:
    arguments = shlex.split(COMMANDS[example])[1:]
    assert f"examples/{example}/trial.py" in arguments
    arguments = [str(ROOT / a) if a.startswith("examples/") else a for a in arguments]
    result = Workplace(tmp_path / "work").run(*arguments, "--processes", "2", "--test-mode")
    assert result.code == 0, result.err
    assert "2 processes went well: training, validation, a checkpoint, and a restore" in result.out


@pytest.mark.parametrize("example", EXAMPLES)
def test_run_that_was_stopped_ends_like_a_straight_one(
    example: str,
    tmp_path: Path,
    stopped: dict[str, Run],
    resumed_on_two_processes: dict[str, Any],
) -> None:
    straight = run_session(short_spec(example), tmp_path / "straight")
    first_half = stopped[example]
    assert straight.batches == NUM_BATCHES
    assert first_half.batches in STOPPED_AT
    assert first_half.digest != straight.digest

    second_half = run_session(resume(short_spec(example), first_half), tmp_path / "resumed")
    assert first_half.then(second_half).reported == straight.reported

    elsewhere = resumed_on_two_processes[example]
    assert isinstance(elsewhere, Run), elsewhere  # else the text of an exception
    assert first_half.then(elsewhere).reported == straight.reported


@pytest.mark.parametrize("example", EXAMPLES)
def test_short_training_beats_no_training_by_far(example: str, tmp_path: Path) -> None:
    spec = spec_of(example, max_length=f"{NUM_BATCHES_TO_LEARN}ba", step_zero_validation=True)
    (start, *_, untrained), (end, *_, trained) = run_session(spec, tmp_path).validation
    assert (start, end) == (0, NUM_BATCHES_TO_LEARN)
    searcher = spec.config.searcher
    before, after = untrained[searcher.metric], trained[searcher.metric]
    if searcher.smaller_is_better:
        assert after < 0.8 * before
    else:  # an accuracy or the like, from 0 to 1
        assert after > before + 0.2
