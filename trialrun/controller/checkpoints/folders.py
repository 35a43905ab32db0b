"""The folders of a trial's checkpoints: which are whole, and how one goes away; needs no torch."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

_PARTIAL = ".partial-"


def partial_folder(parent: Path, identifier: str) -> Path:
    """Returns where a checkpoint lies while it is not whole: being written, or being deleted."""
    return parent / f"{_PARTIAL}{identifier}"


def remove_leftovers(folder: Path, recorded: Iterable[str]) -> list[str]:
    """Deletes folders that no record wants: what a killed process was writing or deleting.

    Args:
        folder: The checkpoints of one trial, none of which is being written now.
        recorded: The UUIDs of those that stay.

    Returns:
        The names of the deleted folders.
    """
    known = set(recorded)
    leftovers = [
        path
        for path in (folder.iterdir() if folder.exists() else ())
        if path.name not in known and path.is_dir() and _is_ours(path.name)
    ]
    for path in leftovers:
        shutil.rmtree(path)
    return [path.name for path in leftovers]


def delete_files(path: Path) -> None:
    """Deletes a checkpoint's folder, in two steps so that no half of it keeps its name."""
    doomed = partial_folder(path.parent, path.name)
    try:
        path.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed)


def _is_ours(name: str) -> bool:
    """Returns whether a folder is named as checkpoints are; others may be a user's."""
    if name.startswith(_PARTIAL):
        return True
    try:
        uuid.UUID(name)
    except ValueError:
        return False
    return True
