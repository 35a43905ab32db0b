"""After a power cut only what was flushed is there; what is on record must be among it.

The disk is simulated: of each file it keeps the bytes, and of each folder the names, that were
there at its last ``fsync``. All else is lost, which is less than any real disk would keep.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from trialrun._errors import CheckpointError
from trialrun.controller.checkpoints.contents import CheckpointContents
from trialrun.controller.checkpoints.manifest import verify
from trialrun.controller.checkpoints.store import CheckpointStore, StoredCheckpoint
from trialrun.controller.order_arrays import OrderArrays
from trialrun.controller.whole_folder import written_whole


class Disk:
    """What a power cut would leave of a folder.

    Args:
        root: The folder, which itself is there.
        monkeypatch: Puts ``os.fsync`` back.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._kept: dict[int, bytes | dict[str, int]] = {}
        self._fsync = os.fsync
        self._num_cuts = 0
        self.flushed: list[str] = []
        monkeypatch.setattr(os, "fsync", self.flush)

    def flush(self, descriptor: int) -> None:
        self._fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.flushed.append(path.name)
        self._kept[path.stat().st_ino] = (
            {entry.name: entry.stat().st_ino for entry in path.iterdir()}
            if path.is_dir()
            else path.read_bytes()
        )

    def after_power_cut(self, target: Path) -> Path:
        """Returns the folder as it is found when the power is back."""
        self._num_cuts += 1
        found = target / f"cut-{self._num_cuts}"
        self._restore(self._root.stat().st_ino, found)
        return found

    def _restore(self, inode: int, path: Path) -> None:
        # A name may be durable before what it stands for: then that is empty.
        kept = self._kept.get(inode, {})
        if isinstance(kept, bytes):
            path.write_bytes(kept)
            return
        path.mkdir(parents=True)
        for name, entry in kept.items():
            if entry in self._kept:
                self._restore(entry, path / name)
            else:
                (path / name).touch()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


@pytest.fixture
def disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(root, monkeypatch)


def contents(batches: int) -> CheckpointContents:
    return CheckpointContents(
        models=[{"weight": torch.full((3,), float(batches))}, {"bias": torch.zeros(batches)}],
        state={"batches": batches, "optimizers": []},
        metadata={"batches": batches},
    )


def add_a_note(folder: Path) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("added by a callback")


def test_a_checkpoint_on_record_survives_every_later_power_cut(
    root: Path, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[StoredCheckpoint] = []
    num_checks = 0

    def cut() -> None:
        nonlocal num_checks
        found = disk.after_power_cut(tmp_path / "cuts")
        for stored in recorded:
            verify(found / stored.path.relative_to(root), stored.files)
            num_checks += 1

    def record(stored: StoredCheckpoint) -> None:
        recorded.append(stored)
        cut()

    def flush_and_cut(descriptor: int) -> None:
        disk.flush(descriptor)
        cut()

    monkeypatch.setattr(os, "fsync", flush_and_cut)
    store = CheckpointStore(root / "trials" / "1" / "checkpoints", record)
    for batches in (4, 8, 12):
        store.save_now(contents(batches), None, add_a_note)
    assert store.close() is None
    assert [stored.batches for stored in recorded] == [4, 8, 12]
    # More than at the records themselves: while later ones are being written, too.
    assert num_checks > 20


def test_the_simulated_disk_loses_what_was_not_flushed(
    root: Path, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[StoredCheckpoint] = []
    store = CheckpointStore(root / "checkpoints", recorded.append)
    # As if nobody flushed: the same store without a working flush is found out.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    store.save_now(contents(4), None, lambda folder: None)
    found = disk.after_power_cut(tmp_path / "cuts")
    with pytest.raises(CheckpointError, match="is missing"):
        verify(found / recorded[0].path.relative_to(root), recorded[0].files)
    store.close()


def test_the_arrays_of_the_order_survive(root: Path, disk: Disk, tmp_path: Path) -> None:
    weights = np.arange(5.0)
    name = OrderArrays(root / "experiments" / "1" / "order-arrays").keep(weights)
    found = disk.after_power_cut(tmp_path / "cuts")
    kept = OrderArrays(found / "experiments" / "1" / "order-arrays").fetch(name)
    assert kept.tolist() == weights.tolist()


def test_a_folder_that_is_written_whole_survives_with_its_files(
    root: Path, disk: Disk, tmp_path: Path
) -> None:
    with written_whole(root / "exports" / "best") as folder:
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "notes").mkdir()
        (folder / "notes" / "a.txt").write_text("more")
    found = disk.after_power_cut(tmp_path / "cuts") / "exports" / "best"
    assert (found / "model.safetensors").read_bytes() == b"weights"
    assert (found / "notes" / "a.txt").read_text() == "more"
