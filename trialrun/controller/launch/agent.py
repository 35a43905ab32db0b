"""torch's elastic agent, which watches over the processes of an attempt, with two things added.

It tells of the first process that is gone as soon as it is: the agent's own way is to wait half a
minute for the others first. And it takes a process that has ended with exit code 0, but without a
result, for what it is: the agent would wait for that result for ever.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed.elastic.rendezvous.registry as rendezvous_registry
from torch.distributed.elastic.agent.server.api import (
    RunResult,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import MultiprocessContext
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.launcher.api import LaunchConfig

from trialrun._errors import TrialrunError
from trialrun.controller.launch.finish import START_METHOD

_MONITOR_SECONDS = 0.1
_END_SECONDS = 30.0

ExitCodes = dict[int, int]
"""For each process that has ended its exit code, or minus the signal; the first to end first."""


class Agent(LocalElasticAgent):
    """Runs a function in P processes of this machine.

    Args:
        function: Called in each process.
        argument: What it is called with.
        num_processes: P.
        log_folder: Where the agent keeps its files.
        on_loss: Called once, when processes have ended before all were done.
        is_hung: Asked again and again whether nothing goes on any more.
        on_hang: Called once, with the process ids, when that is so; then they are killed.
    """

    exit_codes: ExitCodes
    """The processes that ended before all were done."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        argument: Any,
        *,
        num_processes: int,
        log_folder: Path,
        on_loss: Callable[[ExitCodes], None],
        is_hung: Callable[[], bool],
        on_hang: Callable[[list[int]], None],
    ) -> None:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_processes,
            logs_specs=DefaultLogsSpecs(log_dir=str(log_folder)),
        )
        rendezvous = RendezvousParameters(
            backend="c10d",
            endpoint="127.0.0.1:0",
            run_id=str(uuid.uuid4()),
            min_nodes=1,
            max_nodes=1,
            local_addr="127.0.0.1",
            **config.rdzv_configs,
        )
        spec = WorkerSpec(
            role="trialrun",
            local_world_size=num_processes,
            entrypoint=function,
            args=(argument,),
            rdzv_handler=rendezvous_registry.get_rendezvous_handler(rendezvous),
            max_restarts=0,
            monitor_interval=_MONITOR_SECONDS,
            local_addr="127.0.0.1",
            **_affinity(config),
        )
        assert config.logs_specs is not None  # given above
        super().__init__(spec, config.logs_specs, start_method=START_METHOD)
        self.exit_codes = {}
        self._on_loss = on_loss
        self._is_hung = is_hung
        self._on_hang = on_hang
        self._was_hung = False
        self._pids: list[int] = []

    def run_all(self) -> dict[int, Any] | None:
        """Returns what the function returned in each process; None when a process has failed.

        None of them lives when this returns.

        Raises:
            TrialrunError: A process cannot even be killed.
        """
        # The agent reads there which signals it shall take; none: those of ``Interruptions`` stay.
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ""
        try:
            result = self.run()
        finally:
            self._rdzv_handler.shutdown()
        if result.is_failed():
            for pid in self._pids:
                _end(pid)
            return None
        return_values: dict[int, Any] = result.return_values
        return return_values

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Called by the agent again and again; one that finds a failure ends all processes."""
        self._pids = list(self._processes().pids().values())
        if not self.exit_codes and not self._was_hung and self._is_hung():
            self._was_hung = True
            self._on_hang(self._pids)
            for pid in self._pids:
                _kill(pid)
        was_lost = bool(self.exit_codes)
        self._note_exit_codes()
        if self.exit_codes and not was_lost:
            self._on_loss(self.exit_codes)
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed():
            return_values = self._processes()._return_values
            if len(return_values) == len(self._pids):
                # One was killed when all had nothing left to do but to end.
                return RunResult(state=WorkerState.SUCCEEDED, return_values=return_values)
            self._note_exit_codes()
        elif self.exit_codes:
            return RunResult(state=WorkerState.FAILED)
        return result

    def _note_exit_codes(self) -> None:
        # Only its list of processes tells how each has ended; the agent tells of one.
        context = self._processes()._pc
        assert context is not None
        for rank, process in enumerate(context.processes):
            if process.exitcode is not None:
                self.exit_codes.setdefault(rank, process.exitcode)

    def _processes(self) -> MultiprocessContext:
        context = self._pcontext
        assert isinstance(context, MultiprocessContext)
        return context


def _kill(pid: int) -> bool:
    """Returns whether there was something to kill."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _end(pid: int) -> None:
    """Ends a process for sure: where the server was lost, the agent does not see it any more."""
    deadline = time.monotonic() + _END_SECONDS
    while _kill(pid) and not _is_zombie(pid):
        if time.monotonic() > deadline:
            raise TrialrunError(
                f"Process {pid} does not end, though it was killed: it waits for a device or a "
                "disk. When that is mended, resume the trial."
            )
        time.sleep(_MONITOR_SECONDS)


def _is_zombie(pid: int) -> bool:
    """Returns whether a process has ended, and its parent has not taken note of that.

    Where the server was lost that is process 1, which in many containers never does.
    """
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux, or it is gone
        return False
    # "12 (a name) Z 1 ...": the name may have parentheses and spaces itself.
    state, *fields = line.rpartition(")")[2].split()
    # Its first thread may have ended while another still waits for a device.
    num_threads = int(fields[16])
    return state == "Z" and num_threads <= 1


def _affinity(config: LaunchConfig) -> dict[str, Any]:
    """Returns to which NUMA nodes torch binds processes with GPUs, in versions that do."""
    options = getattr(config, "numa_options", None)
    return {} if options is None else {"numa_options": options}
