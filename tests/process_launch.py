"""Trains on real processes: P of them join over gloo and go through a list of jobs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from python_start import call_in_processes
from support import Event, Run, run_with_stops

from trialrun.controller.engine.parallel.collectives import Collectives, ProcessGroup
from trialrun.controller.engine.session import TrialSpec


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to the end, in several attempts; its folder is for checkpoints."""

    spec: TrialSpec
    folder: Path
    stops: tuple[Event, ...] = ()

    def __call__(self, collectives: Collectives) -> Run:
        return run_with_stops(self.spec, self.folder, self.stops, collectives)


class Launcher:
    """Starts processes that have torch loaded already.

    Args:
        folder: For what processes leave behind.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._num_launches = 0

    def launch(
        self, num_processes: int, jobs: list[Any], *, shares_memory: bool = True
    ) -> list[list[Any]]:
        """Runs all jobs in one go and returns, for each process, their results.

        A job is called with the collectives; one that raises gives its exception's text.
        """
        self._num_launches += 1
        store = self._folder / f"store-{self._num_launches}"
        return call_in_processes(
            _work,
            [(rank, num_processes, store, jobs, shares_memory) for rank in range(num_processes)],
        )


def _work(rank: int, size: int, store: Path, jobs: list[Any], shares_memory: bool) -> list[Any]:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(store), size), rank=rank, world_size=size
    )
    collectives = ProcessGroup(torch.device("cpu"), shares_memory=shares_memory)
    results = [_result(job, collectives) for job in jobs]
    dist.destroy_process_group()
    return results


def _result(job: Any, collectives: Collectives) -> Any:
    try:
        return job(collectives)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
