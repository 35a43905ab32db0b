"""A data loader that can also be taken apart as Determined's can: for code outside of a trial."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Sampler

from trialrun import _data_loader
from trialrun.samplers import (
    DistributedBatchSampler,
    RandomAccessBatchSampler,
    RepeatBatchSampler,
    SkipBatchSampler,
    as_batch_sampler,
)

__all__ = ["DataLoader", "adapt_batch_sampler"]


class DataLoader(_data_loader.DataLoader):
    """A ``trialrun.DataLoader`` with ``get_data_loader``."""

    def get_data_loader(
        self, repeat: bool = False, skip: int = 0, num_replicas: int = 1, rank: int = 0
    ) -> TorchDataLoader[Any]:
        """Returns a loader of torch's for the share of one worker, for use outside of a trial.

        Args:
            repeat: Whether passes follow each other without end.
            skip: Batches of the share to leave out at the beginning.
            num_replicas: Workers that share the batches, round-robin.
            rank: Which of them.
        """
        seed = int(torch.empty((), dtype=torch.int64).random_())
        return TorchDataLoader(
            self.dataset,  # type: ignore[arg-type]  # anything with a length and items
            batch_sampler=adapt_batch_sampler(
                _data_loader.one_pass(self, seed), repeat, skip, num_replicas, rank
            ),
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            pin_memory=self.pin_memory,
            timeout=self.timeout,
            worker_init_fn=self.worker_init_fn,
            multiprocessing_context=self.multiprocessing_context,
            prefetch_factor=self.prefetch_factor,
            persistent_workers=self.persistent_workers,
        )


def adapt_batch_sampler(
    batch_sampler: Sampler[list[int]],
    repeat: bool = False,
    skip: int = 0,
    num_replicas: int = 1,
    rank: int = 0,
) -> RandomAccessBatchSampler:
    """Returns batches -> Repeat -> Distributed -> Skip, each where it is asked for.

    Args:
        batch_sampler: The batches of a pass.
        repeat: Whether passes follow each other without end.
        skip: Batches of the share to leave out at the beginning.
        num_replicas: Workers that share the batches, round-robin.
        rank: Which of them.
    """
    adapted = as_batch_sampler(batch_sampler, seed=0)
    if repeat:
        adapted = RepeatBatchSampler(adapted)
    if num_replicas > 1:
        adapted = DistributedBatchSampler(adapted, num_workers=num_replicas, rank=rank)
    if skip > 0:
        adapted = SkipBatchSampler(adapted, skip)
    return adapted
