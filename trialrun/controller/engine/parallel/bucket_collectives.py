"""Buckets travel by collectives, where processes share no memory: between GPUs, above all."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trialrun.controller.engine.parallel.buckets import Bucket, BucketExchange, WithinProcess
from trialrun.controller.engine.parallel.collectives import Collectives, TensorCollectives

_SENT_BYTES = 1 << 25
"""Of one bucket: enough to be worth the overhead of a message, or of a kernel's launch."""


def exchange_for(collectives: Collectives, device: torch.device) -> BucketExchange:
    """Returns the fastest way for elements on a device: memory that the processes share, if any."""
    if collectives.size == 1:
        # On a GPU it is launches that take time: small buckets would be thousands of them.
        return WithinProcess() if device.type == "cpu" else WithinProcess(_SENT_BYTES)
    if device.type == "cpu" and collectives.shared_memory is not None:
        return collectives.shared_memory
    return ThroughCollectives(collectives)


class ThroughCollectives(BucketExchange):
    """Chunks travel by all_to_all to where they are added, and their sums by all_gather.

    With one row for each process that is as many bytes as a ring all-reduce sends.

    Args:
        collectives: The processes.
    """

    def __init__(self, collectives: TensorCollectives) -> None:
        self._collectives = collectives

    def largest(self, num_rows: int, dtype: torch.dtype) -> int:
        """Returns the elements of a message that is worth its overhead, and little memory."""
        return max(1, _SENT_BYTES // num_rows // dtype.itemsize)

    def run(
        self,
        buckets: Sequence[Bucket],
        *,
        num_rows: Sequence[int],
        like: torch.Tensor,
        unpacks: bool = True,
    ) -> None:
        """Does all three with each bucket in turn."""
        size, rank = self._collectives.size, self._collectives.rank
        for bucket in buckets:
            chunk = -(-bucket.length // size)
            # (rows, P, chunk) -> (P, rows, chunk): what one process gets stands together.
            own = like.new_zeros((num_rows[rank], size * chunk))
            bucket.pack([row[: bucket.length] for row in own])
            sent = own.view(-1, size, chunk).transpose(0, 1).reshape(-1)
            received = self._collectives.all_to_all(
                sent,
                receive_sizes=[rows * chunk for rows in num_rows],
                send_sizes=[num_rows[rank] * chunk] * size,
            )
            rows = list(received.view(-1, chunk))
            bucket.add(rows, rows[0])
            if unpacks:
                bucket.unpack(self._collectives.all_gather(rows[0])[: bucket.length])
