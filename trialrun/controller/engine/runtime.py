"""What a process has before it has a trial: threads, generators, execution, context."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from trialrun._context import TrialContext
from trialrun._run_record import RunRecord
from trialrun._tensorboard import TensorBoard
from trialrun._units import Unit
from trialrun.controller.engine.data.lost_workers import defer_lost_workers
from trialrun.controller.engine.execution import Execution
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.randomness import Generators
from trialrun.controller.engine.schedule import Stretch
from trialrun.controller.engine.stopping import StopRequest
from trialrun.samplers.addresses import Stream

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """What must be known before a trial can be built: no periods, and no length if need be.

    Args:
        hyperparameters: What ``context.get_hparam`` returns.
        num_slots: S.
        aggregation_frequency: Batches in an aggregation window.
        seed: The trial's seed.
        intra_op_threads: CPU threads with which a slot computes.
        max_length: How long the trial is told that it trains; None: what its session is told.
        record: What is on record about the run.
        tensorboard_path: The folder of the trial's TensorBoard events; None: none are kept.
        logs_to_tensorboard: Whether reported metrics are written there; None: where tensorboard is
            installed.
        stretch: The part of the trial that is trained again; None: all of it is trained.
    """

    hyperparameters: Mapping[str, Any]
    num_slots: int
    aggregation_frequency: int
    seed: int
    intra_op_threads: int
    max_length: Unit | None = None
    record: RunRecord = RunRecord()
    tensorboard_path: Path | None = None
    logs_to_tensorboard: bool | None = None
    stretch: Stretch | None = None


class Runtime:
    """The surroundings of one trial in this process.

    Args:
        settings: What must be known beforehand.
        collectives: The processes that share its slots.
        device: Where this process computes.
        stop_request: What asks it to stop.
    """

    settings: RuntimeSettings
    collectives: Collectives
    device: torch.device
    stop_request: StopRequest
    generators: Generators
    """The process's default random generators."""
    execution: Execution
    """Who executes the slots of this process."""
    tensorboard: TensorBoard
    """The trial's TensorBoard events."""
    context: TrialContext
    """What the trial is built with."""

    def __init__(
        self,
        settings: RuntimeSettings,
        *,
        collectives: Collectives,
        device: torch.device,
        stop_request: StopRequest,
    ) -> None:
        torch.set_num_threads(settings.intra_op_threads)
        defer_lost_workers()
        self.settings = settings
        self.collectives = collectives
        self.device = device
        self.stop_request = stop_request
        self.generators = Generators(settings.seed, device)
        self.execution = Execution(
            num_slots=settings.num_slots,
            aggregation_frequency=settings.aggregation_frequency,
            num_threads=settings.intra_op_threads,
            generators=self.generators,
            collectives=collectives,
            stop_request=stop_request,
            device=device,
        )
        self.execution.lasts(settings.max_length)
        self.tensorboard = TensorBoard(
            settings.tensorboard_path,
            logs_metrics=settings.logs_to_tensorboard,
            engine=self.execution,
            is_chief=collectives.is_chief,
        )
        self.context = TrialContext(
            hyperparameters=settings.hyperparameters,
            num_slots=settings.num_slots,
            seed=settings.seed,
            device=device,
            engine=self.execution,
            tensorboard=self.tensorboard,
            record=settings.record,
        )

    def compute_with_threads(self, intra_op_threads: int) -> None:
        """Chooses another number of threads, which an earlier attempt at the trial had."""
        self.settings = dataclasses.replace(self.settings, intra_op_threads=intra_op_threads)
        self.execution.compute_with_threads(intra_op_threads)

    def run_begins(self, record: RunRecord, tensorboard_path: Path) -> None:
        """Tells the context what is on record of the run, which may not be known earlier."""
        self.context.run_begins(record)
        self.tensorboard.keep_in(tensorboard_path)

    def at_first_address(self, call: Callable[[], T]) -> T:
        """Calls what comes before the trial's constructor, which sets its address itself.

        There is one address for all slots: what a file draws while it is imported is the same in
        every process.
        """
        self.generators.enter(Stream.MODEL, 0)
        return call()
