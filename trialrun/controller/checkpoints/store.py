"""Writes checkpoints beside the running loop and deletes those that are no longer wanted.

A folder ``.partial-UUID`` becomes ``UUID`` by one rename after all its files are on the disk, and
is recorded after that. So a folder without a record is never a checkpoint.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trialrun.controller.checkpoints.contents import CheckpointContents, write_contents
from trialrun.controller.checkpoints.digest import digest
from trialrun.controller.checkpoints.folders import partial_folder
from trialrun.controller.checkpoints.manifest import (
    Manifest,
    flush_folder,
    make_durable_folder,
    make_manifest,
)

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredCheckpoint:
    """A checkpoint that lies whole on the disk."""

    uuid: str
    batches: int
    digest: str
    path: Path
    files: Manifest
    metrics: dict[str, float] | None

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(entry["size_bytes"] for entry in self.files.values())


class _HookError(Exception):
    """What was called between writing and renaming raised; the cause is its exception."""


class CheckpointStore:
    """Keeps the checkpoints of one trial in a folder; writes one at a time, on a thread.

    Args:
        folder: Where checkpoints go; it is made if missing.
        on_stored: Called on the writing thread when a checkpoint is whole, to record it.
    """

    def __init__(self, folder: Path, on_stored: Callable[[StoredCheckpoint], None]) -> None:
        self._folder = folder
        self._on_stored = on_stored
        self._executor = concurrent.futures.ThreadPoolExecutor(1, "checkpoint-writer")
        self._pending: concurrent.futures.Future[str | None] | None = None
        self._last_failure: BaseException | None = None

    def save(
        self,
        contents: CheckpointContents,
        metrics: dict[str, float] | None,
        on_written: Callable[[Path], None] | None = None,
    ) -> None:
        """Starts writing; waits only for the one before it.

        Args:
            contents: In memory of its own, which the writer may read while training goes on.
            metrics: The validation metrics at this batch, if there are any.
            on_written: As with ``save_now``, but called on the writing thread; it raises nothing.
        """
        self.wait()
        self._pending = self._executor.submit(self._write, contents, metrics, on_written)

    def save_now(
        self,
        contents: CheckpointContents,
        metrics: dict[str, float] | None,
        on_written: Callable[[Path], None],
    ) -> str | None:
        """Writes while the caller waits.

        Args:
            contents: What to write.
            metrics: The validation metrics at this batch, if there are any.
            on_written: Called with the folder when the files are there; what it adds belongs to the
                checkpoint.

        Returns:
            The checkpoint's UUID; None where it could not be written.

        Raises:
            Exception: Whatever ``on_written`` raises; there is no checkpoint then.
        """
        self.wait()
        try:
            return self._write(contents, metrics, on_written)
        except _HookError as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None

    def wait(self) -> BaseException | None:
        """Waits for the checkpoint that is being written; returns why the last one failed.

        Any thread may call it.
        """
        if self._pending is not None:
            self._pending.result()
        return self._last_failure

    def close(self) -> BaseException | None:
        """Waits and ends the thread; returns why the last checkpoint failed, if it did."""
        failure = self.wait()
        self._executor.shutdown()
        return failure

    def _write(
        self,
        contents: CheckpointContents,
        metrics: dict[str, float] | None,
        on_written: Callable[[Path], None] | None,
    ) -> str | None:
        identifier = str(uuid.uuid4())
        partial = partial_folder(self._folder, identifier)
        try:
            stored = self._write_whole(contents, metrics, identifier, partial, on_written)
            self._on_stored(stored)
            self._last_failure = None
            return identifier
        except _HookError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        except Exception as error:
            # Training goes on: the older checkpoints are whole, and the next one may succeed.
            self._last_failure = error
            shutil.rmtree(partial, ignore_errors=True)
            logger.error(
                "The checkpoint of batch %d could not be written: %s. Training goes on; the older "
                "checkpoints are whole.",
                contents.metadata["batches"],
                error,
            )
            return None

    def _write_whole(
        self,
        contents: CheckpointContents,
        metrics: dict[str, float] | None,
        identifier: str,
        partial: Path,
        on_written: Callable[[Path], None] | None,
    ) -> StoredCheckpoint:
        make_durable_folder(self._folder)
        partial.mkdir()
        state = contents.state
        checksum = digest(
            contents.models, state["optimizers"], state.get("non_persistent_buffers", ())
        )
        metadata: dict[str, Any] = {"uuid": identifier, "digest": checksum, **contents.metadata}
        write_contents(dataclasses.replace(contents, metadata=metadata), partial)
        if on_written is not None:
            try:
                on_written(partial)
            except BaseException as error:
                raise _HookError from error
        files = make_manifest(partial)
        flush_folder(partial)
        final = self._folder / identifier
        partial.rename(final)
        flush_folder(self._folder)
        return StoredCheckpoint(
            uuid=identifier,
            batches=metadata["batches"],
            digest=checksum,
            path=final,
            files=files,
            metrics=metrics,
        )
