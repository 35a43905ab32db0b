from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from trialrun import CheckpointError
from trialrun.controller.checkpoints.contents import (
    METADATA_FILE,
    STATE_FILE,
    CheckpointContents,
    read_contents,
    write_contents,
)


def new_contents(*models: dict[str, Any]) -> CheckpointContents:
    return CheckpointContents(
        models=list(models),
        state={"batches": 7, "optimizers": [{"state": {0: {"step": torch.tensor(3.0)}}}]},
        metadata={"batches": 7, "identity": {"seed": 2**63 - 1}, "digest": "ab"},
    )


def state_dict() -> dict[str, Any]:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()


def assert_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    contents = new_contents(state_dict())
    write_contents(contents, tmp_path)
    found = read_contents(tmp_path)
    assert_equal(found.models[0], contents.models[0])
    assert found.metadata == contents.metadata
    assert found.state["batches"] == 7
    assert torch.equal(found.state["optimizers"][0]["state"][0]["step"], torch.tensor(3.0))
    assert "model_extra_states" not in found.state


def test_weights_are_readable_by_safetensors_alone(tmp_path: Path) -> None:
    model = state_dict()
    write_contents(new_contents(model), tmp_path)
    assert_equal(load_file(tmp_path / "model.safetensors"), model)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.bfloat16, torch.uint16])
def test_a_tensor_of_any_type_is_written_beside_others(tmp_path: Path, dtype: torch.dtype) -> None:
    model = {"other": torch.arange(3.0), "weight": torch.tensor([1, 2]).to(dtype)}
    write_contents(new_contents(model), tmp_path)
    (found,) = read_contents(tmp_path).models
    assert_equal(found, model)
    assert found["weight"].dtype == dtype


def test_the_state_is_readable_by_torch_alone_and_runs_no_code(tmp_path: Path) -> None:
    write_contents(new_contents(state_dict()), tmp_path)
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert state["batches"] == 7


def test_the_description_is_readable_by_people(tmp_path: Path) -> None:
    write_contents(new_contents(state_dict()), tmp_path)
    text = (tmp_path / METADATA_FILE).read_text()
    assert json.loads(text)["identity"]["seed"] == 2**63 - 1
    assert text.startswith('{\n  "batches": 7')
    assert text.endswith("}\n")


@pytest.mark.parametrize("count", [0, 1, 2, 11])
def test_several_models_have_a_file_each(tmp_path: Path, count: int) -> None:
    models = [{"weight": torch.full((2,), float(index))} for index in range(count)]
    write_contents(new_contents(*models), tmp_path)
    names = {path.name for path in tmp_path.glob("*.safetensors")}
    expected = (
        {"model.safetensors"} if count == 1 else {f"model-{i}.safetensors" for i in range(count)}
    )
    assert names == expected
    found = read_contents(tmp_path).models
    assert [model["weight"].tolist() for model in found] == [[float(i)] * 2 for i in range(count)]


def test_extra_state_that_is_no_weight_is_kept(tmp_path: Path) -> None:
    model = {**state_dict(), "0._extra_state": {"calls": 3}, "_extra_state": None}
    write_contents(new_contents(model, {"_extra_state": (1, 2)}), tmp_path)
    first, second = read_contents(tmp_path).models
    assert first["0._extra_state"] == {"calls": 3}
    assert first["_extra_state"] is None
    assert second == {"_extra_state": (1, 2)}
    assert "0.weight" in load_file(tmp_path / "model-0.safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", STATE_FILE, METADATA_FILE])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_a_file_that_cannot_be_read_names_the_checkpoint(
    tmp_path: Path, name: str, damage: str
) -> None:
    folder = tmp_path / "0a1b"
    folder.mkdir()
    write_contents(new_contents(state_dict()), folder)
    path = folder / name
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"" if damage == "empty" else data[: len(data) // 2])
    with pytest.raises(CheckpointError) as caught:
        read_contents(folder)
    assert str(caught.value).startswith(f"Checkpoint 0a1b in {tmp_path} cannot be read: ")


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="could not be written"):
        write_contents(new_contents(state_dict()), tmp_path / "missing")
