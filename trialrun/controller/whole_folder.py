"""A folder that is whole or absent: written aside, flushed, and renamed at the end."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from trialrun._errors import ConfigurationError, TrialrunError
from trialrun.controller.checkpoints.manifest import flush_folder, flush_tree, make_durable_folder


def require_free(folder: Path) -> None:
    """Checks that a folder can be written without touching what is there.

    Raises:
        ConfigurationError: It is a file, or not empty.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file. Name a folder that does not exist yet.")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigurationError(
            f"{folder} is not empty, and nothing in it is overwritten. Name a folder that does not "
            "exist yet, or empty it."
        )


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Gives a folder to write into, which takes its name when the block ends well.

    Args:
        folder: The name; nothing is there, or an empty folder.

    Raises:
        ConfigurationError: Something is there.
        TrialrunError: It cannot be written, such as on a full disk.
    """
    require_free(folder)
    aside = folder.parent / f".partial-{folder.name}-{uuid.uuid4().hex[:8]}"
    try:
        try:
            make_durable_folder(folder.parent)
            aside.mkdir()
            yield aside
            flush_tree(aside)
            # Over an empty folder, never over one that somebody has filled meanwhile.
            aside.rename(folder)
            flush_folder(folder.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise TrialrunError(
            f"{folder} could not be written: {error.strerror or error}. Nothing of it was left "
            "behind; make room or choose another folder, and try again."
        ) from error
