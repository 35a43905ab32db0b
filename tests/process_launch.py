"""Trains on real processes: P of them join over gloo and go through a list of jobs."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from support import Event, Run, run_with_stops

from trialrun.controller.engine.parallel.collectives import Collectives, ProcessGroup
from trialrun.controller.engine.session import TrialSpec

PRELOADED = ["process_launch", "torch._dynamo"]
"""What the server loads, so that forking a process takes milliseconds."""

_TIMEOUT_SECONDS = 90


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to the end, in several attempts; its folder is for checkpoints."""

    spec: TrialSpec
    folder: Path
    stops: tuple[Event, ...] = ()

    def __call__(self, collectives: Collectives) -> Run:
        return run_with_stops(self.spec, self.folder, self.stops, collectives)


class Launcher:
    """Starts processes from a server that has torch loaded.

    Args:
        folder: For what processes leave behind.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._num_launches = 0

    def launch(self, num_processes: int, jobs: list[Any]) -> list[list[Any]]:
        """Runs all jobs in one go and returns, for each process, their results.

        A job is called with the collectives; one that raises gives its exception's text.
        """
        self._num_launches += 1
        folder = self._folder / f"launch-{self._num_launches}"
        folder.mkdir()
        processes = [
            self._context.Process(target=_work, args=(rank, num_processes, folder, jobs))
            for rank in range(num_processes)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(_TIMEOUT_SECONDS)
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
        notes = "\n".join(path.read_text() for path in sorted(folder.glob("failure-*")))
        assert [process.exitcode for process in processes] == [0] * num_processes, notes
        return [
            pickle.loads((folder / f"result-{rank}").read_bytes()) for rank in range(num_processes)
        ]


def _work(rank: int, size: int, folder: Path, jobs: list[Any]) -> None:
    try:
        torch.set_num_threads(1)
        store = dist.FileStore(str(folder / "store"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
        collectives = ProcessGroup(torch.device("cpu"))
        results = [_result(job, collectives) for job in jobs]
        (folder / f"result-{rank}").write_bytes(pickle.dumps(results))
        dist.destroy_process_group()
    except BaseException:
        (folder / f"failure-{rank}").write_text(traceback.format_exc())
        raise


def _result(job: Any, collectives: Collectives) -> Any:
    try:
        return job(collectives)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
