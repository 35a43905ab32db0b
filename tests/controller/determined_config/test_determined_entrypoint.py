from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trialrun import ConfigurationError
from trialrun.controller.determined_config import choose_class, read_entrypoint

TWO_TRIALS = "class First: ...\nclass Second: ...\n"
LAUNCHER = "python3 -m determined.launch.torch_distributed"


@pytest.mark.parametrize(
    ("written", "file", "trial_class"),
    [
        ("model_def:Second", "model_def.py", "Second"),
        ("pkg.sub.model_def:Second", "pkg/sub/model_def.py", "Second"),
        (":Second", "__init__.py", "Second"),
        ("model_def:groups.Second", "model_def.py", "groups.Second"),
        (["model_def:Second"], "model_def.py", "Second"),
        (f"{LAUNCHER} model_def:Second", "model_def.py", "Second"),
        (f"{LAUNCHER} --trial model_def:Second", "model_def.py", "Second"),
        (f"{LAUNCHER} --verbose --trial=model_def:Second", "model_def.py", "Second"),
        (f"{LAUNCHER}\n  -- model_def:Second\n", "model_def.py", "Second"),
        ([*LAUNCHER.split(), "--trial", "model_def:Second"], "model_def.py", "Second"),
        ("python3 -m determined.exec.harness model_def:Second", "model_def.py", "Second"),
    ],
)
def test_an_entrypoint_that_names_a_class(written: Any, file: str, trial_class: str) -> None:
    entrypoint = read_entrypoint(written)
    assert (str(entrypoint.file), entrypoint.trial_class) == (file, trial_class)


@pytest.mark.parametrize(
    "written",
    [
        "python3 train.py",
        "python3 train.py --where model_def:Second",
        f"{LAUNCHER} python3 train.py --from a:b",
        f"{LAUNCHER} train.py a:b",
        f"{LAUNCHER} python3 -m project.main",
        "./run.sh a:b",
        "http://example.com:80",
        ["python3", "train.py"],
        "echo 'it begins",
        "",
    ],
)
def test_an_entrypoint_of_another_kind_names_none(written: Any) -> None:
    assert read_entrypoint(written).trial_class is None


@pytest.mark.parametrize("written", [3, [], ["python3", 3], {"a": "b:c"}])
def test_an_entrypoint_is_text(written: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_entrypoint(written)
    assert str(caught.value) == (
        f"Configuration key 'entrypoint' is {written!r}: it must be text, such as "
        "model_def:MyTrial, or a list of words."
    )


@pytest.fixture
def trial_file(tmp_path: Path) -> Path:
    path = tmp_path / "pkg" / "model_def.py"
    path.parent.mkdir()
    path.write_text(TWO_TRIALS, encoding="utf-8")
    return path


def choose(trial_file: Path, entrypoint: Any, given: str | None = None) -> tuple[str | None, str]:
    return choose_class(read_entrypoint(entrypoint), trial_file, given)


@pytest.mark.parametrize("entrypoint", ["model_def:Second", "pkg.model_def:Second"])
def test_the_entrypoints_class_decides_where_the_command_names_none(
    trial_file: Path, entrypoint: str
) -> None:
    assert choose(trial_file, entrypoint) == ("Second", "")
    assert choose(trial_file, entrypoint, "Second") == ("Second", "")


def test_the_class_of_the_command_wins_and_it_is_said(trial_file: Path) -> None:
    assert choose(trial_file, "model_def:Second", "First") == (
        "First",
        "It names Second in model_def.py, but model_def.py:First is trained, as the command says.",
    )


@pytest.mark.parametrize(
    ("entrypoint", "named"),
    [("other:Second", "other.py"), ("a.model_def:Second", "a/model_def.py")],
)
def test_the_file_of_the_command_wins_and_it_is_said(
    trial_file: Path, entrypoint: str, named: str
) -> None:
    expected = (
        f"It names Second in {named}, but model_def.py:Second is trained, as the command says."
    )
    assert choose(trial_file, entrypoint) == ("Second", expected)
    assert choose(trial_file, entrypoint, "Second") == ("Second", expected)


@pytest.mark.parametrize("named", ["Third", "groups.Second"])
def test_a_class_that_the_file_does_not_have_is_said(trial_file: Path, named: str) -> None:
    assert choose(trial_file, f"model_def:{named}") == (
        None,
        f"It names {named} in model_def.py, but no class of model_def.py has that name: the trial "
        "of the file is trained.",
    )


@pytest.mark.parametrize("given", [None, "First"])
def test_a_command_is_not_run_and_it_is_said(trial_file: Path, given: str | None) -> None:
    assert choose(trial_file, f"{LAUNCHER} python3\n  train.py --lr 3", given) == (
        given,
        "The command 'python3 -m determined.launch.torch_distributed python3 train.py --lr 3' is "
        "not run: the trial in model_def.py is trained. What the command sets (lengths, periods, "
        "hyperparameters) belongs in this configuration.",
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("if True:\n    class Second: ...\n", "Second"),
        ("if False:\n    pass\nelse:\n    class Second: ...\n", "Second"),
        ("try:\n    import x\nfinally:\n    class Second: ...\n", "Second"),
        ("from elsewhere import Second\n", "Second"),
        ("from elsewhere import First as Second\n", "Second"),
        ("from elsewhere import Second as First\n", None),
        ("def make():\n    class Second: ...\n", None),
        ("class Second:\n  this is no Python\n", None),
        ("\0", None),
    ],
)
def test_classes_are_found_without_importing_the_file(
    tmp_path: Path, source: str, expected: str | None
) -> None:
    path = tmp_path / "model_def.py"
    path.write_text("raise SystemExit\n" + source, encoding="utf-8")
    assert choose(path, "model_def:Second")[0] == expected
