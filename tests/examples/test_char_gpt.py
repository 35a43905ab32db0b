"""The text comes from the Python that trains; the model must not look ahead."""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
import torch
from example_module import EXAMPLES, import_example
from support import make_spec, resume, run_session

from trialrun import CheckpointError


@pytest.fixture
def char_gpt() -> ModuleType:
    return import_example("char_gpt")


def test_text_is_ascii_source_of_the_library_alone(char_gpt: ModuleType) -> None:
    training, held_out = (bytes(text.numpy()).decode("ascii") for text in char_gpt.load_text())
    assert "class OrderedDict" not in held_out + training, "collections is a package"
    assert "class ArgumentParser(" in training
    # The first file of all is for validation, whole.
    assert held_out.startswith('"""Record of phased-in incompatible language changes.')
    assert "phased-in incompatible" not in training
    assert len(training) > 20 * len(held_out) > 1_000_000


def test_library_without_source_is_an_error_that_names_its_folder(
    char_gpt: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", {"stdlib": str(tmp_path)}.__getitem__)
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path} has no source of Python's library; "):
        char_gpt.load_text()


def test_resume_on_another_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {"context_length": 32, "num_layers": 1, "num_heads": 1, "num_channels": 4}
    steps = {"lr": 0.1, "warm_up_steps": 1}
    spec = make_spec(
        EXAMPLES / "char_gpt" / "trial.py",
        max_length="2ba",
        hyperparameters={"global_batch_size": 2, **tiny, **steps},
    )
    modules = {"__future__", "abc", "argparse", "bisect"}
    monkeypatch.setattr(sys, "stdlib_module_names", frozenset(modules))
    run = run_session(spec, tmp_path / "run")
    monkeypatch.setattr(sys, "stdlib_module_names", frozenset(modules - {"bisect"}))
    lengths = r"belongs to another run: the length of the training data was (\d+) and is now (\d+);"
    with pytest.raises(CheckpointError, match=lengths) as refused:
        run_session(resume(spec, run), tmp_path / "resumed")
    before, now = re.findall(lengths, str(refused.value))[0]
    folder = Path(sysconfig.get_path("stdlib"))
    assert int(before) - int(now) == len((folder / "bisect.py").read_text("ascii"))


def test_no_prediction_depends_on_what_follows(char_gpt: ModuleType) -> None:
    model = char_gpt.GPT(context_length=16, num_layers=2, num_heads=2, num_channels=8)
    characters = torch.randint(128, (3, 16))
    changed = characters.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 128
    with torch.no_grad():
        before, after = model(characters), model(changed)
    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.isclose(before[:, 10:], after[:, 10:]).all(dim=-1).any()


def test_learning_rate_rises_and_falls_to_a_tenth(char_gpt: ModuleType) -> None:
    share = char_gpt.warm_up_then_cosine(warm_up_steps=4, total_steps=14)
    assert [share(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert share(9) == pytest.approx(0.55)
    assert share(14) == share(1000) == pytest.approx(0.1)


def test_a_warm_up_may_be_longer_than_the_trial(char_gpt: ModuleType) -> None:
    share = char_gpt.warm_up_then_cosine(warm_up_steps=4, total_steps=4)
    assert [share(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, pytest.approx(0.1)]
