"""What processes sum is cut into buckets, and each process sums a chunk of every bucket.

    rows    (N, L)  one row for each of the N summands that all processes bring, L elements each
    chunk           the elements of a bucket for which one process is responsible: about L / P

A bucket is packed by every process, which writes its own rows; each chunk of it is added up by the
process that is responsible; and the whole of it is unpacked by every process. In which order rows
are added is for the bucket to say, never for what moves them: so it may move them as it likes, and
cut them where it likes, since additions are element by element.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence

import torch

_CACHED_BYTES = 1 << 19


class Bucket(abc.ABC):
    """Some elements that are summed over all processes in one go.

    Args:
        length: L.
    """

    length: int

    def __init__(self, length: int) -> None:
        self.length = length

    @abc.abstractmethod
    def pack(self, rows: Sequence[torch.Tensor]) -> None:
        """Writes this process's summands, one of L elements into each row."""

    @abc.abstractmethod
    def add(self, rows: Sequence[torch.Tensor], total: torch.Tensor) -> None:
        """Adds up a chunk.

        Args:
            rows: The chunk of all summands, in order of rank; they may be overwritten.
            total: Where the sum is written.
        """

    @abc.abstractmethod
    def unpack(self, total: torch.Tensor) -> None:
        """Takes the sum of the whole bucket, of L elements; the memory is not the bucket's."""


class BucketExchange(abc.ABC):
    """Moves buckets between processes; every one that does so gives the same bits."""

    @abc.abstractmethod
    def largest(self, num_rows: int, dtype: torch.dtype) -> int:
        """Returns how many elements a bucket may have.

        Args:
            num_rows: Summands that one process brings at most.
            dtype: Of the elements.
        """

    @abc.abstractmethod
    def run(
        self,
        buckets: Sequence[Bucket],
        *,
        num_rows: Sequence[int],
        like: torch.Tensor,
        unpacks: bool = True,
    ) -> None:
        """Packs, adds and unpacks buckets; every process calls it with buckets of the same lengths.

        Args:
            buckets: What is summed.
            num_rows: For each process the summands that it brings.
            like: Some tensor of the type and on the device of the elements.
            unpacks: Whether every process needs the sums, or the responsible one alone.
        """


def cut(length: int, largest: int) -> Iterator[tuple[int, int]]:
    """Yields the half-open ranges of buckets.

    L = 10, largest 4: (0, 4), (4, 8), (8, 10).
    """
    for start in range(0, length, largest):
        yield start, min(start + largest, length)


class WithinProcess(BucketExchange):
    """P = 1: nothing is moved.

    Args:
        bucket_bytes: Of one bucket; default: it stays in a processor's cache from pack to unpack.
    """

    def __init__(self, bucket_bytes: int | None = None) -> None:
        self._bucket_bytes = _CACHED_BYTES if bucket_bytes is None else bucket_bytes

    def largest(self, num_rows: int, dtype: torch.dtype) -> int:
        """Returns the elements of a bucket."""
        return self._bucket_bytes // dtype.itemsize

    def run(
        self,
        buckets: Sequence[Bucket],
        *,
        num_rows: Sequence[int],
        like: torch.Tensor,
        unpacks: bool = True,
    ) -> None:
        """Does all three with each bucket in turn."""
        longest = max((bucket.length for bucket in buckets), default=0)
        memory = like.new_empty((num_rows[0], longest))
        for bucket in buckets:
            rows = [row[: bucket.length] for row in memory]
            bucket.pack(rows)
            bucket.add(rows, rows[0])
            if unpacks:
                bucket.unpack(rows[0])
