"""Arrays of an order are whole or absent, and damage to them is said."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from trialrun import BookkeepingError
from trialrun.controller.order_arrays import OrderArrays

WEIGHTS = np.array([0.5, 0.0, 2.5])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_is_kept_is_found_again_by_its_name(tmp_path: Path) -> None:
    arrays = OrderArrays(tmp_path / "new" / "folder")
    kept = {
        arrays.keep(array): array
        for array in (WEIGHTS, np.arange(5), np.arange(0), np.arange(10)[::2], WEIGHTS[::-1])
    }
    assert len(kept) == 5
    for name, array in kept.items():
        found = OrderArrays(tmp_path / "new" / "folder").fetch(name)
        assert found.dtype == array.dtype and np.array_equal(found, array)
    assert files(tmp_path) == sorted(f"{name}.npy" for name in kept)


def test_equal_arrays_share_a_file_and_others_do_not(tmp_path: Path) -> None:
    arrays = OrderArrays(tmp_path)
    assert arrays.keep(WEIGHTS) == OrderArrays(tmp_path, "another").keep(WEIGHTS.copy())
    assert len(files(tmp_path)) == 1
    # The same bytes, but another type.
    assert arrays.keep(np.zeros(3)) != arrays.keep(np.zeros(3, dtype=np.int64))


def test_a_file_that_is_whole_is_not_written_again(tmp_path: Path) -> None:
    name = OrderArrays(tmp_path).keep(WEIGHTS)
    tmp_path.chmod(0o500)
    before = (tmp_path / f"{name}.npy").stat().st_mtime_ns
    assert OrderArrays(tmp_path).keep(WEIGHTS) == name
    assert (tmp_path / f"{name}.npy").stat().st_mtime_ns == before


def test_what_a_killed_attempt_left_is_no_array_and_is_overwritten(tmp_path: Path) -> None:
    name = OrderArrays(tmp_path / "elsewhere").keep(WEIGHTS)
    (tmp_path / f".partial-7-{name}").write_bytes(b"half")
    arrays = OrderArrays(tmp_path, "7")
    with pytest.raises(BookkeepingError) as caught:
        arrays.fetch(name)
    assert str(caught.value) == (
        f"{tmp_path / name}.npy is missing, which holds a part of the order of the records. Put it "
        "back, or resume the experiment: each attempt writes what is missing."
    )
    arrays.keep(WEIGHTS)
    assert [path.name for path in tmp_path.glob("*") if path.is_file()] == [f"{name}.npy"]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _change_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _pickle(path: Path) -> None:
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


def _zip(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncate, ".*"),
        (_change_a_bit, "its bytes have changed"),
        (_pickle, "Object arrays cannot be loaded when allow_pickle=False"),
        (_zip, "it is no .npy file"),
        (lambda path: path.write_bytes(b""), "No data left in file"),
        (lambda path: (path.unlink(), path.mkdir()), ".*Is a directory.*"),
    ],
)
def test_damage_is_said_and_mended_by_the_next_attempt(
    damage: object, reason: str, tmp_path: Path
) -> None:
    arrays = OrderArrays(tmp_path)
    path = tmp_path / f"{arrays.keep(WEIGHTS)}.npy"
    damage(path)  # type: ignore[operator]
    with pytest.raises(
        BookkeepingError,
        match=rf"^{path} is damaged, which holds a part of the order of the records: {reason}\. "
        r"Resume the experiment: each attempt writes it again\. Or restore the file\.$",
    ):
        arrays.fetch(path.stem)
    if path.is_file():
        arrays.keep(WEIGHTS)
        assert np.array_equal(arrays.fetch(path.stem), WEIGHTS)


def test_a_folder_that_cannot_be_written_does_not_stop_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    arrays = OrderArrays(tmp_path / "file" / "folder")
    with caplog.at_level(logging.WARNING):
        name = arrays.keep(WEIGHTS)
    assert caplog.messages == [
        f"{tmp_path / 'file' / 'folder' / name}.npy cannot be written: Not a directory. Training "
        "goes on; trialrun data show and find have no answer until the next attempt writes it."
    ]
