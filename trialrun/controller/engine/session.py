"""Builds all that trains one trial in this process, in the order in which parts need each other."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray

import trialrun
from trialrun._context import TrialContext
from trialrun._errors import InvalidTrialError
from trialrun._run_record import RunRecord
from trialrun._trial import Trial, near_misses
from trialrun._units import Epoch, Unit
from trialrun._wording import count
from trialrun.controller.checkpoints.contents import CheckpointContents, read_contents
from trialrun.controller.checkpoints.identity import RunIdentity
from trialrun.controller.checkpoints.weights import read_weights
from trialrun.controller.config import Advice, ExperimentConfig
from trialrun.controller.cores import num_cores
from trialrun.controller.engine.building import SourceBuilder
from trialrun.controller.engine.data.data_wait import DataWait
from trialrun.controller.engine.data.sources import DataFacts
from trialrun.controller.engine.devices import device_name
from trialrun.controller.engine.environment import Environment
from trialrun.controller.engine.evaluation import Evaluator, FullDataset
from trialrun.controller.engine.loop import Outcome, TrainingLoop
from trialrun.controller.engine.observation import TrialObserver
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.parallel.user_collectives import (
    require_slot_each,
    user_collectives,
)
from trialrun.controller.engine.preparation import prepare_data
from trialrun.controller.engine.reports.metrics import TrainingWindow
from trialrun.controller.engine.reports.reporting import Journal, Reporter
from trialrun.controller.engine.reports.tensorboard_log import (
    CheckpointWriter,
    TensorBoardJournal,
    TensorBoardLog,
    TensorBoardSink,
)
from trialrun.controller.engine.runtime import Runtime, RuntimeSettings
from trialrun.controller.engine.schedule import (
    ENDLESS_EPOCH,
    BoundaryWishes,
    Plan,
    Stopwatch,
    Stretch,
)
from trialrun.controller.engine.snapshot import Progress, Snapshots
from trialrun.controller.engine.steps.reduction import sum_version
from trialrun.controller.engine.steps.unwrapped_schedulers import UnwrappedSchedulers
from trialrun.controller.engine.stopping import Agreement, StopRequest
from trialrun.controller.engine.weights import warm_start
from trialrun.controller.trial_file import load_trial_class
from trialrun.samplers.permutation import ALGORITHM_VERSION

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """What a process must know to train a trial; it is sent to every process.

    Args:
        trial_file: The user's file.
        trial_class: Which class in it; None where it has only one.
        config: The experiment's configuration.
        seed: The trial's seed.
        intra_op_threads: CPU threads with which a slot computes.
        metadata: JSON data that every checkpoint repeats, such as ids and the git commit.
        resume_from: The folder of the checkpoint to go on from.
        tensorboard: The folder of the trial's TensorBoard events; None: none are kept.
        warm_start_from: The folder of the weights to begin with, where nothing is resumed.
        stretch: The part of the trial that is trained again; None: all of it is trained.
        rehearsed_length: In a rehearsal, which is shorter: how long the trial is told it trains.
        observer: What looks over the trial's shoulder, if anything.
        working_directory: Where the file finds modules besides its own folder, if anywhere.
    """

    trial_file: Path
    trial_class: str | None
    config: ExperimentConfig
    seed: int
    intra_op_threads: int
    metadata: dict[str, Any]
    resume_from: Path | None = None
    tensorboard: Path | None = None
    warm_start_from: Path | None = None
    stretch: Stretch | None = None
    rehearsed_length: Unit | None = None
    observer: TrialObserver | None = None
    working_directory: Path | None = None

    def settings(self) -> RuntimeSettings:
        """Returns what must be known before the trial is built."""
        return RuntimeSettings(
            hyperparameters=self.config.hyperparameters,
            num_slots=self.config.slots,
            aggregation_frequency=self.config.aggregation_frequency,
            seed=self.seed,
            intra_op_threads=self.intra_op_threads,
            max_length=self.rehearsed_length or self.config.max_length,
            record=RunRecord(
                experiment_config=self.config.to_json(),
                experiment_id=self.metadata.get("experiment", 0),
                trial_id=self.metadata.get("trial", 0),
            ),
            tensorboard_path=self.tensorboard,
            logs_to_tensorboard=self.config.tensorboard,
            stretch=self.stretch,
        )


class TrialSession:
    """One trial, ready to train in this process.

    Args:
        runtime: Its surroundings.
        trial: The user's trial, built with the runtime's context.
        config: Length, periods, and which checkpoints are wanted.
        metadata: JSON data that every checkpoint repeats.
        contents: The checkpoint to go on from; None: from the start.
        journal: Where the chief writes down what happens; None elsewhere.
        sink: Where the chief hands checkpoints; None elsewhere.
        max_validation_rounds: Batches that each slot evaluates at most; None: all.

    Raises:
        TrialrunError: The trial breaks a rule, or the checkpoint does not fit it.
        Exception: Whatever the user's code raises.
    """

    plan: Plan
    """The resolved length and periods."""
    identity: RunIdentity
    """The facts that decide the run's numbers."""
    environment: Environment
    """What this process computes with, which may change their last digits."""

    def __init__(
        self,
        runtime: Runtime,
        trial: Trial,
        *,
        config: ExperimentConfig,
        metadata: dict[str, Any],
        contents: CheckpointContents | None,
        journal: Journal | None,
        sink: CheckpointWriter | None,
        max_validation_rounds: int | None = None,
    ) -> None:
        self._execution = runtime.execution
        self._num_slots, self._collectives = runtime.settings.num_slots, runtime.collectives
        self._execution.trial_is_built()
        self._profiler = runtime.context.profiler
        self._tensorboard_log = TensorBoardLog(runtime.tensorboard)
        if journal is not None:
            journal = TensorBoardJournal(journal, self._tensorboard_log)
        self._execution.begin_at(0 if contents is None else contents.state["batches"])
        builder = SourceBuilder(
            trial,
            runtime.context,
            runtime.execution,
            runtime.generators,
            seed=runtime.settings.seed,
            is_chief=runtime.collectives.is_chief,
        )
        if runtime.collectives.is_chief:
            for sentence in near_misses(type(trial)):
                logger.warning(sentence)
        self._callbacks = builder.callbacks()
        with self._callbacks.failure_told():
            checkpoint_uuid = None if contents is None else contents.metadata.get("uuid")
            self._callbacks.call("on_trial_startup", self._execution.initial_batch, checkpoint_uuid)
            self._build(
                runtime,
                trial,
                builder,
                config=config,
                metadata=metadata,
                contents=contents,
                journal=journal,
                sink=sink,
                max_validation_rounds=max_validation_rounds,
            )

    def _build(
        self,
        runtime: Runtime,
        trial: Trial,
        builder: SourceBuilder,
        *,
        config: ExperimentConfig,
        metadata: dict[str, Any],
        contents: CheckpointContents | None,
        journal: Journal | None,
        sink: CheckpointWriter | None,
        max_validation_rounds: int | None,
    ) -> None:
        collectives, context, device = runtime.collectives, runtime.context, runtime.device
        callbacks, slots = self._callbacks, self._execution.slot_numbers
        data, validation_data = builder.training(), builder.validation()
        _require_wrapped(context)
        require_slot_each(context.models, runtime.settings.num_slots, collectives.size)
        self._execution.meet()
        # The chief's, which has slot 0: where each slot brings a loader, these may differ.
        own_facts = dataclasses.asdict(data.facts)
        facts = DataFacts(**collectives.broadcast(own_facts, "facts of the training data"))
        self.plan = _make_plan(config, runtime.settings, facts)
        told = runtime.settings.max_length or config.max_length
        self._execution.lasts(told, facts.epoch_length)
        builder.make_lr_schedulers()
        UnwrappedSchedulers(context.optimizers, context.lr_schedulers).require_none()
        self._execution.meet()
        self.identity = _make_identity(runtime.settings, self.plan, facts, device)
        self.environment = Environment.here(device)
        self._data, self._validation_data, self._facts = data, validation_data, facts
        self._execution.set_up(
            trial, context, self.plan.epoch_length, data.has_equal_batches, callbacks
        )
        window = TrainingWindow(slots, collectives)
        snapshots = Snapshots(context, self._execution, window, data, trial, callbacks, collectives)
        progress, stopwatch = Progress(), Stopwatch(self.plan)
        if contents is None:
            collectives.broadcast_tensors(
                [t for model in context.models for t in (*model.parameters(), *model.buffers())]
            )
        else:
            recorded = contents.metadata
            differences = self.identity.differences(recorded["identity"])
            differences += self.environment.differences(recorded.get("environment"))
            for difference in differences if collectives.is_chief else ():
                logger.warning(difference)
            progress = snapshots.restore(contents)
            self._reconsider_early_end(progress, contents.metadata, config, runtime)
            stopwatch.load_state_dict(contents.state["stopwatch"])
        if collectives.is_chief:
            _warn_of_small_dataset(facts, self.plan)
            if data.has_equal_batches:
                _warn_of_other_batch_size(facts, runtime.settings)
        data_wait = DataWait(
            num_workers=data.num_workers,
            gathers_batches=data.gathers_batches,
            num_cores=max(1, num_cores() // collectives.size),
            slots_each=len(slots),
            # One process speaks for all: their loaders are alike.
            is_silent=Advice.DATA_WAIT in config.silence or not collectives.is_chief,
        )
        agreement = Agreement(
            collectives,
            BoundaryWishes(runtime.stop_request, stopwatch if collectives.is_chief else None),
            self._execution.meetings,
        )
        self._loop = TrainingLoop(
            config=config,
            plan=self.plan,
            execution=self._execution,
            batches=data_wait.measured(data.batches_from(self._execution.initial_batch)),
            window=window,
            reporter=Reporter(
                execution=self._execution,
                window=window,
                plan=self.plan,
                collectives=collectives,
                journal=journal,
                callbacks=callbacks,
            ),
            evaluator=Evaluator(
                trial=trial,
                models=context.models,
                data=validation_data,
                execution=self._execution,
                generators=runtime.generators,
                collectives=collectives,
                agreement=agreement,
                callbacks=callbacks,
                max_rounds=max_validation_rounds,
            ),
            snapshots=snapshots,
            progress=progress,
            stopwatch=stopwatch,
            agreement=agreement,
            callbacks=callbacks,
            collectives=collectives,
            metadata={
                "identity": self.identity.to_json(),
                "environment": self.environment.to_json(),
                "epoch_length": self.plan.epoch_length,
                "experiment_config": config.to_json(),
                "versions": _versions(),
                **metadata,
            },
            sink=None if sink is None else TensorBoardSink(sink, self._tensorboard_log),
        )

    def _reconsider_early_end(
        self,
        progress: Progress,
        before: dict[str, Any],
        config: ExperimentConfig,
        runtime: Runtime,
    ) -> None:
        """Lets a trial that ended itself go on where another length is asked for since."""
        if progress.ended_at is None:
            return
        length = str(config.max_length)
        is_same = before["experiment_config"]["max_length"] == length
        if not is_same:
            for slot in self._execution.slot_numbers:
                runtime.stop_request.set_slot(slot, False)
        if runtime.collectives.is_chief:
            logger.warning(
                "The trial itself asked to end at batch %d, and is complete: nothing is trained. "
                "Ask for another max_length than %s to go on."
                if is_same
                else "The trial itself asked to end at batch %d. It goes on, since max_length is "
                "%s now.",
                progress.ended_at,
                length,
            )
        if not is_same:
            progress.ended_at = None

    def describe_data(self, keep: Callable[[NDArray[Any]], str]) -> dict[str, Any]:
        """Returns what is known of the training data, and which records make a batch, as JSON data.

        Args:
            keep: Keeps an array, and returns the name by which it is found again.
        """
        return {**dataclasses.asdict(self._facts), "order": self._data.describe_order(keep)}

    def run(self) -> Outcome:
        """Trains until the trial is complete or a stop is agreed on."""
        # A callback may write events when the trial is shut down.
        with contextlib.closing(self._tensorboard_log):
            try:
                with (
                    self._callbacks.failure_told(),
                    self._profiler or contextlib.nullcontext(),
                    user_collectives(self._num_slots, self._collectives.size),
                ):
                    self._callbacks.call("on_training_start")
                    outcome = self._loop.run()
            finally:
                self._execution.close()
                self._data.close()
                if not isinstance(self._validation_data, FullDataset):
                    self._validation_data.close()
            self._callbacks.shut_down()
        return outcome

    def require_learning(self) -> None:
        """Refuses a trial that has not learned anything yet.

        Raises:
            InvalidTrialError: No optimizer has taken a step with gradients.
        """
        self._execution.stepping.require_learning(self.batches_completed)

    @property
    def batches_completed(self) -> int:
        """The clock."""
        return self._execution.batches_completed


def open_session(
    spec: TrialSpec,
    *,
    collectives: Collectives,
    device: torch.device,
    stop_request: StopRequest,
    journal: Journal | None,
    sink: CheckpointWriter | None,
    max_validation_rounds: int | None = None,
    on_progress: Callable[[], None] = lambda: None,
) -> TrialSession:
    """Imports the user's file, builds the trial in it, and returns it ready to train.

    Args:
        spec: The trial.
        collectives: The processes that share its slots.
        device: Where this process computes.
        stop_request: What asks it to stop.
        journal: Where the chief writes down what happens; None elsewhere.
        sink: Where the chief hands checkpoints; None elsewhere.
        max_validation_rounds: Batches that each slot evaluates at most; None: all.
        on_progress: Called after each batch and each validation batch.

    Raises:
        TrialrunError: The trial breaks a rule, or the checkpoint does not fit it.
        Exception: Whatever the user's code raises.
    """
    contents = None if spec.resume_from is None else read_contents(spec.resume_from)
    runtime = Runtime(
        spec.settings(), collectives=collectives, device=device, stop_request=stop_request
    )
    runtime.execution.on_progress = on_progress
    if contents is not None:
        runtime.execution.begin_at(contents.state["batches"])
    # What is drawn while the file is imported, which happens once in a process, changes nothing.
    trial_class = runtime.at_first_address(
        lambda: load_trial_class(spec.trial_file, spec.trial_class, spec.working_directory)
    )
    prepare_data(trial_class, spec.config.hyperparameters, collectives)
    trial = trial_class(runtime.context)
    if spec.observer is not None:
        spec.observer.observe(trial, runtime)
        sink = None if sink is None else spec.observer.around(sink)
    if contents is None and spec.warm_start_from is not None:
        begin_with_weights(runtime, spec.warm_start_from, spec.config.from_checkpoint_partial)
    return TrialSession(
        runtime,
        trial,
        config=spec.config,
        metadata=spec.metadata,
        contents=contents,
        journal=journal,
        sink=sink,
        max_validation_rounds=max_validation_rounds,
    )


def begin_with_weights(runtime: Runtime, folder: Path, is_partial: bool) -> None:
    """Gives a new trial's models the weights of another run.

    Args:
        runtime: The trial's surroundings.
        folder: A checkpoint or an export.
        is_partial: Whether what does not fit is left as the constructor made it.

    Raises:
        CheckpointError: They do not fit.
    """
    left = warm_start(runtime.context.models, read_weights(folder), is_partial)
    if left and runtime.collectives.is_chief:
        logger.warning("Weights that were not taken: %s.", "; ".join(left))


def _warn_of_small_dataset(facts: DataFacts, plan: Plan) -> None:
    num_records, size = facts.dataset_length, plan.global_batch_size
    if num_records is not None and size is not None and num_records < size:
        logger.warning(
            "The training data has %s, fewer than the %d of one batch: each batch holds "
            "records of several passes.",
            count(num_records, "record"),
            size,
        )


def _warn_of_other_batch_size(facts: DataFacts, settings: RuntimeSettings) -> None:
    configured, slots = settings.hyperparameters.get("global_batch_size"), settings.num_slots
    if configured is None or facts.batch_size is None or facts.batch_size * slots == configured:
        return
    logger.warning(
        "Hyperparameter global_batch_size is %s, but the training data has batches of %s: "
        "batch_size=%d for each of %s. Give its DataLoader "
        "batch_size=self.context.get_per_slot_batch_size(), or set global_batch_size to %d.",
        configured,
        count(facts.batch_size * slots, "record"),
        facts.batch_size,
        count(slots, "slot"),
        facts.batch_size * slots,
    )


def _require_wrapped(context: TrialContext) -> None:
    if not context.models:
        raise InvalidTrialError(
            "The trial wrapped no model. Call self.model = context.wrap_model(...) in __init__."
        )
    if not context.optimizers:
        raise InvalidTrialError(
            "The trial wrapped no optimizer. Call self.optimizer = context.wrap_optimizer(...) in "
            "__init__."
        )
    known = {id(parameter) for model in context.models for parameter in model.parameters()}
    for index, optimizer in enumerate(context.optimizers):
        parameters: Iterator[torch.nn.Parameter] = itertools.chain.from_iterable(
            group["params"] for group in optimizer.param_groups
        )
        for parameter in parameters:
            if id(parameter) not in known:
                raise InvalidTrialError(
                    f"Optimizer {index} ({type(optimizer).__name__}) has a parameter of shape "
                    f"{tuple(parameter.shape)} that belongs to no wrapped model, so no checkpoint "
                    "would hold it. Call context.wrap_model on its model before the optimizer is "
                    "made."
                )


def _make_plan(config: ExperimentConfig, settings: RuntimeSettings, facts: DataFacts) -> Plan:
    if facts.epoch_length is None:
        _require_no_epochs(config, facts.record_order)
    return Plan(
        global_batch_size=(
            None if facts.batch_size is None else facts.batch_size * settings.num_slots
        ),
        epoch_length=facts.epoch_length or ENDLESS_EPOCH,
        window=settings.aggregation_frequency,
        max_length=config.max_length,
        reporting_period=config.reporting_period,
        validation_period=config.validation_period,
        checkpoint_period=config.checkpoint_period,
        checkpoint_policy=config.checkpoint_policy,
        step_zero_validation=config.step_zero_validation,
        stretch=settings.stretch,
    )


def _require_no_epochs(config: ExperimentConfig, loader: str) -> None:
    for key in ("max_length", "reporting_period", "validation_period", "checkpoint_period"):
        if isinstance(getattr(config, key), Epoch):
            raise InvalidTrialError(
                f"{key} is {getattr(config, key)}, but the {loader} of the training data has no "
                f"length, so nobody knows how long an epoch is. Give {key} in batches or as a "
                "time, such as 500ba."
            )


def _versions() -> dict[str, str]:
    """Returns what a checkpoint was written with, for people who want to read it years later."""
    return {
        "trialrun": trialrun.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
    }


def _make_identity(
    settings: RuntimeSettings, plan: Plan, facts: DataFacts, device: torch.device
) -> RunIdentity:
    return RunIdentity(
        seed=settings.seed,
        dataset_length=facts.dataset_length,
        pass_length=facts.pass_length,
        record_order=facts.record_order,
        global_batch_size=plan.global_batch_size,
        num_slots=settings.num_slots,
        aggregation_frequency=settings.aggregation_frequency,
        shuffle_version=ALGORITHM_VERSION,
        sum_version=sum_version(settings.aggregation_frequency),
        device_type=device.type,
        device_name=device_name(device),
        intra_op_threads=settings.intra_op_threads,
        torch_version=torch.__version__,
    )
