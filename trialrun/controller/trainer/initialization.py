"""``trialrun.init``: makes of a process one that can train, and gives it back as it was."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trialrun._context import TrialContext
from trialrun._errors import ConfigurationError, RunConflictError
from trialrun._run_record import RunRecord
from trialrun.controller.config import (
    ExperimentConfig,
    not_divisible,
    read_config,
    read_config_file,
)
from trialrun.controller.engine.devices import prepare_device
from trialrun.controller.engine.parallel.collectives import Collectives, ProcessGroup, SingleProcess
from trialrun.controller.engine.preparation import prepare_data
from trialrun.controller.engine.runtime import Runtime, RuntimeSettings
from trialrun.controller.engine.stopping import StopRequest
from trialrun.controller.home import Home, find_home
from trialrun.controller.launch.joining import join, leave
from trialrun.controller.launch.place import Place
from trialrun.controller.launch.placement import num_threads
from trialrun.controller.trainer.attempts import ScriptTrial
from trialrun.controller.trainer.process_state import kept_process_state
from trialrun.controller.trainer.with_block import context_block
from trialrun.samplers.addresses import Stream

# After the addresses of the trial's constructor (0) and of its loaders (1, 2).
_SCRIPT = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What an open ``init`` has set up.

    Args:
        runtime: Processes, device, generators and the context.
        config_data: What the configuration says so far, which may lack lengths and periods.
        home: Where experiments are recorded.
        prints_progress: Whether the chief prints what happens.
        script_trials: The records of its one trial, once a Trainer was made: every further Trainer
            shares them.
    """

    runtime: Runtime
    config_data: Mapping[str, Any]
    home: Home
    prints_progress: bool
    script_trials: list[ScriptTrial] = dataclasses.field(default_factory=list)


class _OpenInit:
    """The one ``init`` that may be open: generators and settings of torch are the process's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.surroundings: Surroundings | None = None

    @contextmanager
    def claimed(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise RunConflictError(
                "A trialrun.init is open in this process already, and two would draw from the same "
                "random generators. Leave its with block first."
            )
        try:
            yield
        finally:
            self.surroundings = None
            self._lock.release()


_OPEN = _OpenInit()


def open_surroundings() -> Surroundings | None:
    """Returns what the open ``init`` has set up; None where none is open."""
    return _OPEN.surroundings


@context_block
def init(
    *,
    hparams: Mapping[str, Any] | None = None,
    exp_conf: Mapping[str, Any] | str | Path | None = None,
    aggregation_frequency: int | None = None,
    enable_tensorboard_logging: bool | None = None,
    slots: int | None = None,
    seed: int | None = None,
    name: str | None = None,
    home: str | Path | None = None,
    db: str | None = None,
    progress: bool = True,
) -> Iterator[TrialContext]:
    """Prepares this process for training a trial in it; use it in a ``with`` block.

    It joins the other processes where a launcher (torchrun, srun) started several, chooses the
    device and sets the random generators: what the block draws is a function of the seed. When the
    block ends, however it ends, generators, threads, torch's settings and the process group are
    what they were before.

    Args:
        hparams: The trial's hyperparameters; they win over those in ``exp_conf``.
        exp_conf: The configuration, with the keys of ``trial.yaml``, or the path of such a file.
        aggregation_frequency: Batches whose gradients make one optimizer step. Default: 1.
        enable_tensorboard_logging: Whether reported metrics are written as TensorBoard events.
            Default: where tensorboard is installed.
        slots: Logical workers that share each batch; a multiple of the number of processes, and by
            default equal to it.
        seed: All of a trial's randomness is a function of it. Default: 0.
        name: The experiment's name, for people. Default: that of the trial's file.
        home: Folder of all records and files. Default: as for the command ``trialrun``.
        db: Database, as a SQLAlchemy URL. Default: as for the command ``trialrun``.
        progress: Whether to print a line for each report and validation.

    Yields:
        The context, with which the trial is built.

    Raises:
        ConfigurationError: The configuration or the launcher's variables are wrong.
        RunConflictError: Another ``init`` is open in this process.
    """
    data = _configuration(
        exp_conf,
        hparams,
        aggregation_frequency=aggregation_frequency,
        slots=slots,
        seed=seed,
        name=name,
        tensorboard=enable_tensorboard_logging,
    )
    place = _own_place()
    data.setdefault("slots", place.size)
    # A length is not needed yet; one that is there is checked.
    config = read_config({"max_length": "1ba", **data})
    _require_fitting(config, place)
    with _OPEN.claimed(), kept_process_state(place.local_rank):
        device = prepare_device(place.local_rank, config.deterministic, warns=place.rank == 0)
        with _joined(place, device) as collectives:
            runtime = Runtime(
                RuntimeSettings(
                    hyperparameters=config.hyperparameters,
                    num_slots=config.slots,
                    aggregation_frequency=config.aggregation_frequency,
                    seed=config.seed,
                    intra_op_threads=num_threads(config),
                    record=RunRecord(experiment_config=config.to_json()),
                    logs_to_tensorboard=config.tensorboard,
                ),
                collectives=collectives,
                device=device,
                stop_request=StopRequest(),
            )
            runtime.execution.before_trial = lambda trial_class: prepare_data(
                trial_class, config.hyperparameters, collectives
            )
            runtime.generators.enter(Stream.MODEL, _SCRIPT)
            _OPEN.surroundings = Surroundings(
                runtime=runtime,
                config_data=data,
                home=find_home(None if home is None else str(home), db),
                prints_progress=progress,
            )
            yield runtime.context


def _configuration(
    exp_conf: Mapping[str, Any] | str | Path | None,
    hparams: Mapping[str, Any] | None,
    **arguments: Any,
) -> dict[str, Any]:
    if isinstance(exp_conf, str | Path):
        data = read_config_file(Path(exp_conf))
    elif exp_conf is None or isinstance(exp_conf, Mapping):
        data = dict(exp_conf or {})
    else:
        raise ConfigurationError(
            f"exp_conf is {exp_conf!r}. Give a dictionary with the keys of trial.yaml, or the path "
            "of such a file."
        )
    if hparams is not None:
        if not isinstance(hparams, Mapping):
            raise ConfigurationError(
                f"hparams is {hparams!r}. Give a dictionary of names and values."
            )
        data["hyperparameters"] = {**(data.get("hyperparameters") or {}), **hparams}
    given = {name: value for name, value in arguments.items() if value is not None}
    return {**data, **given}


def _own_place() -> Place:
    if dist.is_available() and dist.is_initialized():
        # The script has joined the processes itself.
        environment = Place.from_environment()
        rank = dist.get_rank()
        return Place(
            rank=rank,
            size=dist.get_world_size(),
            local_rank=environment.local_rank if environment.size > 1 else rank,
            launcher="the script's own process group",
        )
    return Place.from_environment()


def _require_fitting(config: ExperimentConfig, place: Place) -> None:
    if config.slots % place.size:
        raise ConfigurationError(not_divisible(config.slots, place.size))
    if config.processes not in (None, place.size):
        raise ConfigurationError(
            f"The configuration says processes: {config.processes}, but the number of processes "
            f"that run the script is {place.size}. Start it with torchrun --nproc-per-node "
            f"{config.processes}, or leave the key out: any number gives the same bits."
        )
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_gpus and place.local_rank >= num_gpus:
        raise ConfigurationError(
            f"{place.size} processes need as many GPUs, but this machine has {num_gpus}. Start "
            "fewer: each then executes several slots, with the same result."
        )


@contextmanager
def _joined(place: Place, device: torch.device) -> Iterator[Collectives]:
    if place.size == 1:
        yield SingleProcess()
        return
    has_joined = not dist.is_initialized()  # else the script has, which then also leaves
    collectives = join(place, device) if has_joined else ProcessGroup(device)
    try:
        yield collectives
    except Exception:
        collectives.close()
        # With NCCL, and after Ctrl-C, something may be under way that waits for lost processes.
        if device.type == "cpu":
            leave(collectives, has_joined=has_joined)
        raise
    except BaseException:
        collectives.close()
        raise
    collectives.close()
    leave(collectives, has_joined=has_joined)
