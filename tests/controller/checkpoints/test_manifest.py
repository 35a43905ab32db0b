from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3

from trialrun import CheckpointError
from trialrun.controller.checkpoints.manifest import Manifest, hash_file, make_manifest, verify

CONTENT = bytes(range(256)) * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "0a1b2c3d"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(CONTENT)
    (folder / "state.pt").write_bytes(CONTENT[::-1])
    (folder / "empty").write_bytes(b"")
    return folder


@pytest.fixture
def manifest(folder: Path) -> Manifest:
    return make_manifest(folder)


def message(folder: Path, manifest: Manifest) -> str:
    with pytest.raises(CheckpointError) as caught:
        verify(folder, manifest)
    return str(caught.value)


def test_a_manifest_has_size_and_hash_of_every_file(folder: Path, manifest: Manifest) -> None:
    assert manifest == {
        "empty": {"size_bytes": 0, "blake3": blake3(b"").hexdigest()},
        "model.safetensors": {"size_bytes": 16384, "blake3": blake3(CONTENT).hexdigest()},
        "state.pt": {"size_bytes": 16384, "blake3": blake3(CONTENT[::-1]).hexdigest()},
    }
    verify(folder, manifest)


def test_a_file_that_the_manifest_does_not_know_is_no_damage(
    folder: Path, manifest: Manifest
) -> None:
    (folder / "notes.txt").write_text("mine")
    verify(folder, manifest)


def test_a_missing_file_is_named(folder: Path, manifest: Manifest) -> None:
    (folder / "state.pt").unlink()
    assert message(folder, manifest) == "Checkpoint 0a1b2c3d: state.pt is missing."


@pytest.mark.parametrize("size", [0, 1, 16383, 16385])
def test_a_file_of_another_size_is_named(folder: Path, manifest: Manifest, size: int) -> None:
    (folder / "state.pt").write_bytes((CONTENT[::-1] + b"x")[:size])
    assert message(folder, manifest) == (
        f"Checkpoint 0a1b2c3d: state.pt has {size} bytes, but 16384 were written."
    )


@pytest.mark.parametrize("position", [0, 1, 8191, 16383])
@pytest.mark.parametrize("bit", [0, 7])
def test_one_flipped_bit_is_found(
    folder: Path, manifest: Manifest, position: int, bit: int
) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)
    written = manifest["model.safetensors"]["blake3"]
    assert message(folder, manifest) == (
        f"Checkpoint 0a1b2c3d: model.safetensors has the hash {hash_file(path)[:16]}…, but "
        f"{written[:16]}… was written: its bytes have changed."
    )
    data[position] ^= 1 << bit
    path.write_bytes(data)
    verify(folder, manifest)
