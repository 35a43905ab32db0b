from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recorded_run import RecordedRun, train_recorded
from safetensors.torch import load_file, save_file
from support import write_trial

import trialrun
from trialrun import CheckpointError, ConfigurationError
from trialrun.controller.checkpoints.contents import read_contents
from trialrun.controller.checkpoints.digest import digest
from trialrun.controller.checkpoints.export import copy_weights, export_checkpoint
from trialrun.controller.checkpoints.manifest import verify
from trialrun.controller.checkpoints.weights import read_weights

PAGE = Path(__file__).parents[3] / "docs" / "checkpoints.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    return train_recorded(tmp_path_factory.mktemp("run"), "predicting.py", max_length="4ba")


def test_the_pages_lines_load_an_export_without_trialrun(run: RecordedRun, tmp_path: Path) -> None:
    export_checkpoint(Path(run.latest.path), tmp_path / "exported", with_optimizers=True)
    page = PAGE.read_text(encoding="utf-8")
    (lines,) = re.findall(r"<!-- load an export -->\n```python\n(.*?)```", page, re.DOTALL)
    (optimizer,) = re.findall(r"`(optimizer\.load_state_dict\(.*?\))`", page)
    script = f"""
import sys
sys.modules["trialrun"] = None  # importing it is an error now
import torch
from torch import nn
model = nn.Sequential(
    nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4)
)
optimizer = torch.optim.Adam(model.parameters())
{lines}
{optimizer}
print(metadata["digest"], metadata["batches"], metadata["hyperparameters"])
torch.save([model.state_dict(), optimizer.state_dict()], "loaded.pt")
"""
    result = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{run.latest.digest} 4 {{}}\n"
    model, state = torch.load(tmp_path / "loaded.pt", weights_only=True)
    assert digest([model], [state]) == run.latest.digest


def test_the_metadata_says_what_it_is(run: RecordedRun, tmp_path: Path) -> None:
    names = export_checkpoint(Path(run.latest.path), tmp_path / "exported")
    assert names == ["model.safetensors", "metadata.json"]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "exported").iterdir())
    metadata = json.loads((tmp_path / "exported" / "metadata.json").read_text())
    assert metadata["uuid"] == run.latest.uuid
    assert metadata["validation_metrics"] == run.validation(4)
    assert metadata["versions"].keys() >= {"trialrun", "torch"}
    verify(tmp_path / "exported", metadata["files"])


def test_several_models_and_optimizers_have_a_file_each(tmp_path: Path) -> None:
    gan = train_recorded(tmp_path, "gan.py", max_length="2ba")
    names = export_checkpoint(Path(gan.latest.path), tmp_path / "exported", with_optimizers=True)
    assert names == [
        "model-0.safetensors",
        "model-1.safetensors",
        "optimizer-0.pt",
        "optimizer-1.pt",
        "metadata.json",
    ]
    contents = read_contents(Path(gan.latest.path))
    for index in range(2):
        found = load_file(tmp_path / "exported" / f"model-{index}.safetensors")
        assert digest([found], []) == digest([contents.models[index]], [])
        state = torch.load(tmp_path / "exported" / f"optimizer-{index}.pt", weights_only=True)
        assert digest([], [state]) == digest([], [contents.state["optimizers"][index]])
    (tmp_path / "exported" / "model-0.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no whole checkpoint: model-0\.safetensors is miss"):
        trialrun.load_trial(tmp_path / "exported")


def test_weights_of_a_type_that_safetensors_does_not_know_are_exported_too(tmp_path: Path) -> None:
    file = write_trial(
        tmp_path,
        """
import torch
from trials.linear import Linear

class Complex(Linear):
    def __init__(self, context):
        super().__init__(context)
        self.model.register_buffer("phase", torch.tensor([1 + 2j, 3j], dtype=torch.complex128))
""",
    )
    run = train_recorded(tmp_path, str(file), max_length="2ba")
    export_checkpoint(Path(run.latest.path), tmp_path / "exported")
    copy_weights(tmp_path / "exported", tmp_path / "copied")
    for folder in (Path(run.latest.path), tmp_path / "exported", tmp_path / "copied"):
        (model,) = read_weights(folder).models
        assert model["phase"].tolist() == [1 + 2j, 3j]
        assert "weight" in load_file(folder / "model.safetensors")


def test_an_export_is_loaded_as_a_checkpoint_is(tmp_path: Path) -> None:
    source = """
import torch
from torch import nn
from trials.counting import Counting, CountingLayer

class Layer(CountingLayer):
    def get_extra_state(self):
        return {"calls": [1, 2]}

    def set_extra_state(self, state):
        self.calls = state["calls"]

class Extra(Counting):
    def make_model(self):
        return Layer()
"""
    run = train_recorded(tmp_path, write_trial(tmp_path, source), max_length="4ba")
    names = export_checkpoint(Path(run.latest.path), tmp_path / "exported")
    assert names == ["extra_state.pt", "model.safetensors", "metadata.json"]
    (model,) = trialrun.load_trial(tmp_path / "exported").context.models  # type: ignore[attr-defined]
    assert model.seen == 8
    assert model.calls == [1, 2]


def test_an_export_of_an_export_is_refused_but_its_weights_can_be_copied(
    run: RecordedRun, tmp_path: Path
) -> None:
    export_checkpoint(Path(run.latest.path), tmp_path / "exported", with_optimizers=True)
    with pytest.raises(CheckpointError, match=r"has no state\.pt: it is an export already\. Copy"):
        export_checkpoint(tmp_path / "exported", tmp_path / "again")
    copy_weights(tmp_path / "exported", tmp_path / "copy")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("exported", "copy")]
    assert files[0] == files[1]
    assert not (tmp_path / "copy" / "optimizer.pt").exists()


def test_other_tensors_than_those_of_the_digest_are_not_exported(tmp_path: Path) -> None:
    run = train_recorded(tmp_path, "linear.py", max_length="2ba")
    path = Path(run.latest.path) / "model.safetensors"
    tensors = load_file(path)
    tensors["bias"] += 1
    save_file(tensors, path)
    with pytest.raises(
        CheckpointError,
        match=r"has the digest v2-[0-9a-f]{12}…, but v2-[0-9a-f]{12}… was recorded: its tensors ha",
    ):
        export_checkpoint(Path(run.latest.path), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
    assert not list(tmp_path.glob(".partial*"))


def test_a_changed_export_is_found(run: RecordedRun, tmp_path: Path) -> None:
    export_checkpoint(Path(run.latest.path), tmp_path / "exported")
    path = tmp_path / "exported" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors has the hash .* bytes have chan"
    ):
        trialrun.load_trial(tmp_path / "exported")


def test_nothing_is_overwritten(run: RecordedRun, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match=rf"^{tmp_path}/mine is not empty, and nothing in"):
        export_checkpoint(Path(run.latest.path), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
