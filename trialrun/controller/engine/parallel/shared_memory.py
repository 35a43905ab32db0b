"""Processes of one machine sum buckets in memory that all of them see.

The memory holds the rows of two buckets and the sums of three (B bytes each, P processes):

    rows    (2, P, B)    process r packs bucket k into rows[k % 2, r]
    sums    (3, B)       each process writes the sum of its chunk into sums[k % 3]

Between two meetings of the processes each of them adds its chunk of bucket k, packs bucket k + 1
and unpacks bucket k - 1, which is why one meeting for each bucket is enough:

    pack 0 | add 0, pack 1 | add 1, pack 2, unpack 0 | add 2, pack 3, unpack 1 | ...

A process says that it has arrived before it unpacks, so that others need not wait for that; hence
the third place for sums: bucket k + 3 is added when all have arrived once more after unpacking k.

The memory has no name in any file system: the chief makes it (``memfd_create``) and hands it to the
others over a socket. So nothing is left behind, whenever a process is killed; and the size of
/dev/shm, which is 64 MB in many containers, does not matter.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Sequence

import torch

from trialrun.controller.engine.parallel.buckets import Bucket, BucketExchange
from trialrun.controller.engine.parallel.lines import Lines

_ROW_PLACES, _SUM_PLACES = 2, 3
_ALIGNED_BYTES = 64
_BUCKET_BYTES = 1 << 22
"""B. What two processes pack and add at a time stays in a processor's cache."""


class SharedMemory(BucketExchange):
    """Sums buckets in memory that all processes have mapped.

    Args:
        memory: All of it, as bytes.
        lines: To the other processes, for nothing else.
        rank: This process.
        size: P.

    Raises:
        PeerLostError: From ``run``: a process is gone.
    """

    def __init__(self, memory: torch.Tensor, lines: Lines, *, rank: int, size: int) -> None:
        self._rank = rank
        self._size = size
        self._lines = lines
        places = memory.view(-1, _BUCKET_BYTES)
        num_rows = _ROW_PLACES * size
        self._rows = places[:num_rows].view(_ROW_PLACES, size, _BUCKET_BYTES)
        self._sums = places[num_rows:]
        self._num_packed = 0
        self._num_added = 0

    def largest(self, num_rows: int, dtype: torch.dtype) -> int:
        """Returns how many elements fit into a row when a process brings so many rows."""
        return _row_length(num_rows, dtype)

    def run(
        self,
        buckets: Sequence[Bucket],
        *,
        num_rows: Sequence[int],
        like: torch.Tensor,
        unpacks: bool = True,
    ) -> None:
        """Packs, adds and unpacks buckets, one meeting for each and one more."""
        views = _Views(self._rows, self._sums, num_rows, like.dtype)
        added: tuple[Bucket, torch.Tensor] | None = None
        packed: tuple[Bucket, list[torch.Tensor]] | None = None
        for bucket in (*buckets, None):
            before, added = added, None
            if packed is not None:
                added = packed[0], self._add(*packed, views)
            packed = None if bucket is None else (bucket, self._pack(bucket, views))
            self._arrive()
            if unpacks and before is not None:
                before[0].unpack(before[1])
            self._wait_for_others()
        if unpacks and added is not None:
            added[0].unpack(added[1])

    def close(self) -> None:
        """Takes the lines down; the memory goes with the last process that has mapped it."""
        self._lines.close()

    def _pack(self, bucket: Bucket, views: _Views) -> list[torch.Tensor]:
        """Returns the bucket's rows of all processes; this one's are written."""
        rows = views.rows(self._num_packed % _ROW_PLACES, bucket.length)
        bucket.pack(rows[self._rank])
        self._num_packed += 1
        return [row for of_process in rows for row in of_process]

    def _add(self, bucket: Bucket, rows: list[torch.Tensor], views: _Views) -> torch.Tensor:
        """Returns the bucket's sums, of which this process's chunk is written."""
        total = views.sums(self._num_added % _SUM_PLACES, bucket.length)
        chunk = -(-bucket.length // self._size)
        own = slice(self._rank * chunk, (self._rank + 1) * chunk)  # past the end: short or empty
        bucket.add([row[own] for row in rows], total[own])
        self._num_added += 1
        return total

    def _arrive(self) -> None:
        self._lines.send([self._num_packed])

    def _wait_for_others(self) -> None:
        for peer, (num_packed,) in self._lines.receive(1).items():
            assert num_packed == self._num_packed, (
                f"process {peer} has packed {num_packed} buckets, this one {self._num_packed}"
            )


class _Views:
    """The memory as elements of one type, shared out among the rows that each process brings."""

    def __init__(
        self,
        rows: torch.Tensor,
        sums: torch.Tensor,
        num_rows: Sequence[int],
        dtype: torch.dtype,
    ) -> None:
        self._num_rows = num_rows
        self._rows = rows.view(dtype)
        self._sums = sums.view(dtype)
        self._longest = _row_length(max(num_rows), dtype)

    def rows(self, place: int, length: int) -> list[list[torch.Tensor]]:
        """Returns for each process its rows."""
        assert length <= self._longest
        return [
            [row[i * self._longest : i * self._longest + length] for i in range(number)]
            for row, number in zip(self._rows[place], self._num_rows, strict=True)
        ]

    def sums(self, place: int, length: int) -> torch.Tensor:
        return self._sums[place, :length]


def _row_length(num_rows: int, dtype: torch.dtype) -> int:
    """Returns the elements of each of so many rows of a process, which begin at aligned places."""
    aligned = _BUCKET_BYTES // num_rows // _ALIGNED_BYTES * _ALIGNED_BYTES
    return aligned // dtype.itemsize


def share_memory(lines: Lines, *, rank: int, size: int) -> SharedMemory | None:
    """Makes memory that all processes see; they call it together.

    Args:
        lines: To the other processes; they are the memory's from then on.
        rank: This process.
        size: P.

    Returns:
        None on every process where any of them could not have it: the system does not offer it,
        or has none left.

    Raises:
        PeerLostError: A process is gone.
    """
    size_bytes = (_ROW_PLACES * size + _SUM_PLACES) * _BUCKET_BYTES
    memory = None
    if rank == 0:
        descriptor = _reserved(size_bytes)
        lines.send_descriptor(descriptor)
    else:
        descriptor = lines.receive_descriptor(from_rank=0)
    if descriptor is not None:
        try:
            with contextlib.suppress(OSError, ValueError):
                memory = mmap.mmap(descriptor, size_bytes)
        finally:
            os.close(descriptor)
    lines.send([memory is not None])
    others_have_it = all(has_it for (has_it,) in lines.receive(1).values())
    if memory is None or not others_have_it:
        return None
    return SharedMemory(torch.frombuffer(memory, dtype=torch.uint8), lines, rank=rank, size=size)


def _reserved(size_bytes: int) -> int | None:
    """Returns the descriptor of new memory; None where there is none to have."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        descriptor = os.memfd_create("trialrun-sums", os.MFD_CLOEXEC)
    except OSError:
        return None
    try:
        # Now rather than at the first write, where the lack of memory would be a fatal signal.
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
