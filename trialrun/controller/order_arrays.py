"""The arrays of a described order, one file for each, under the name that its content has.

Weights, indices and lengths have one number for each record of a dataset, too many for a row of the
database. A file is whole or absent: written aside, flushed, renamed. Equal arrays share a file.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from trialrun._errors import BookkeepingError
from trialrun.controller.checkpoints.manifest import flush_folder, make_durable_folder

logger = logging.getLogger(__name__)


class OrderArrays:
    """The files of one experiment.

    Args:
        folder: Where they lie; it is made when the first one is written.
        writer: Who writes, such as a trial that is locked: no two at one time have the same name.
    """

    def __init__(self, folder: Path, writer: str = "") -> None:
        self._folder = folder
        self._writer = writer

    def keep(self, array: NDArray[Any]) -> str:
        """Writes an array, unless it is there, and returns its name.

        Where it cannot be written a warning says so: training needs none of it.
        """
        name = _hash(array)
        try:
            if not self._is_whole(name):
                self._write(name, array)
        except OSError as error:
            logger.warning(
                "%s cannot be written: %s. Training goes on; trialrun data show and find have no "
                "answer until the next attempt writes it.",
                self._path(name),
                error.strerror or error,
            )
        return name

    def fetch(self, name: str) -> NDArray[Any]:
        """Returns the array of that name.

        Raises:
            BookkeepingError: Its file is missing or damaged.
        """
        path = self._path(name)
        try:
            array = _load(path)
        except FileNotFoundError:
            raise BookkeepingError(
                f"{path} is missing, which holds a part of the order of the records. Put it back, "
                "or resume the experiment: each attempt writes what is missing."
            ) from None
        except (OSError, ValueError, EOFError) as error:
            raise BookkeepingError(_damaged(path, str(error))) from error
        if _hash(array) != name:
            raise BookkeepingError(_damaged(path, "its bytes have changed"))
        return array

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npy"

    def _is_whole(self, name: str) -> bool:
        if not self._path(name).exists():
            return False
        try:
            self.fetch(name)
        except BookkeepingError:
            return False
        return True

    def _write(self, name: str, array: NDArray[Any]) -> None:
        make_durable_folder(self._folder)
        # The same name in every attempt, so that a killed one leaves nothing for ever.
        partial = self._folder / f".partial-{self._writer}-{name}"
        try:
            with partial.open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path(name))
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        flush_folder(self._folder)


def _load(path: Path) -> NDArray[Any]:
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("it is no .npy file")
    return array


def _hash(array: NDArray[Any]) -> str:
    hashed = blake3(f"{array.dtype.str} {array.shape}".encode())
    hashed.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return hashed.hexdigest()


def _damaged(path: Path, reason: str) -> str:
    return (
        f"{path} is damaged, which holds a part of the order of the records: {reason}. Resume the "
        "experiment: each attempt writes it again. Or restore the file."
    )
