"""Finds every damage to a checkpoint's files by their recorded sizes and hashes; needs no torch."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from trialrun._errors import CheckpointError

Manifest = dict[str, dict[str, Any]]
"""For each file name: ``size_bytes`` and ``blake3``, the hash of its bytes in hexadecimal."""


def hash_file(path: Path) -> str:
    """Returns the BLAKE3 hash of a file's bytes in hexadecimal."""
    return blake3().update_mmap(path).hexdigest()


def make_manifest(folder: Path) -> Manifest:
    """Returns size and hash of every file in a folder, after flushing each to the disk.

    Files in folders within it, which a callback may have made, go by their path: ``notes/a.txt``.
    """
    manifest = {}
    for path in sorted(folder.rglob("*")):
        _flush(path)
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            manifest[name] = {"size_bytes": path.stat().st_size, "blake3": hash_file(path)}
    return manifest


def flush_folder(folder: Path) -> None:
    """Makes the names in a folder durable: on Linux a rename is safe once its folder is."""
    _flush(folder)


def flush_tree(folder: Path) -> None:
    """Makes a folder durable with all that is in it."""
    for path in folder.rglob("*"):
        _flush(path)
    _flush(folder)


def make_durable_folder(folder: Path) -> None:
    """Makes a folder, and those above it, unless they are there; then they survive a power cut.

    Raises:
        OSError: It cannot be made, such as in place of a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _flush(path.parent)


def flush_file(path: Path) -> None:
    """Makes the bytes of a file durable."""
    _flush(path)


def verify(folder: Path, manifest: Mapping[str, Mapping[str, Any]]) -> None:
    """Compares the files of a checkpoint with what was recorded about them.

    Args:
        folder: The checkpoint's folder.
        manifest: What ``make_manifest`` returned when it was written.

    Raises:
        CheckpointError: A file is missing, has another size, or another hash; the message says
            which and how.
    """
    for name, recorded in manifest.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise CheckpointError(f"Checkpoint {folder.name}: {name} is missing.") from None
        except OSError as error:
            raise _unreadable(folder, name, error) from error
        if size != recorded["size_bytes"]:
            raise CheckpointError(
                f"Checkpoint {folder.name}: {name} has {size} bytes, but {recorded['size_bytes']} "
                "were written."
            )
        try:
            found = hash_file(path)
        except OSError as error:
            raise _unreadable(folder, name, error) from error
        if found != recorded["blake3"]:
            raise CheckpointError(
                f"Checkpoint {folder.name}: {name} has the hash {found[:16]}…, but "
                f"{recorded['blake3'][:16]}… was written: its bytes have changed."
            )


def _unreadable(folder: Path, name: str, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"Checkpoint {folder.name}: {name} cannot be read: {error.strerror or error}."
    )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
