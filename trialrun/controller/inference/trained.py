"""Builds the trial of a checkpoint in this process, from what the checkpoint says of itself."""

from __future__ import annotations

import contextlib
import inspect
import random
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trialrun._errors import CheckpointError, InvalidTrialError
from trialrun._run_record import RunRecord
from trialrun._trial import Trial, require_complete
from trialrun._units import parse_unit
from trialrun.controller.checkpoints.weights import read_weights
from trialrun.controller.engine.inference import Inference
from trialrun.controller.engine.parallel.collectives import Collectives, SingleProcess
from trialrun.controller.engine.preparation import prepare_data
from trialrun.controller.engine.runtime import Runtime, RuntimeSettings
from trialrun.controller.engine.stopping import StopRequest
from trialrun.controller.inference.selection import locate_checkpoint
from trialrun.controller.trial_file import load_trial_class
from trialrun.controller.trial_source import find_trial_file


def load_trial(
    checkpoint: str | Path,
    trial_class: type[Trial] | None = None,
    hparams: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    *,
    home: str | Path | None = None,
    db: str | None = None,
) -> Trial:
    """Builds a trial and gives its models the weights of a checkpoint.

    The models are in eval mode, and after ``use_amp`` its methods that evaluate and predict run
    under autocast, as in training; it cannot be trained. Optimizers and schedulers are as the
    trial's constructor made them, and nothing of the checkpoint runs as code; without
    ``trial_class`` the trial's own file is imported, as training does. The random generators and
    the number of threads of this process are left as they were.

    Args:
        checkpoint: The folder of a checkpoint, or the first characters of its UUID.
        trial_class: The trial's class. Default: the one that was trained, from the file that was
            submitted, or from the copy of it in the experiment's folder.
        hparams: Hyperparameters that take the place of recorded ones, or join them.
        device: Where the models go. Default: the first GPU, or the CPU where there is none.
        home: Where a UUID is looked up. Default: as for the commands.
        db: The database in which it is looked up. Default: as for the commands.

    Returns:
        The trial. Its ``context`` answers as in training, at the checkpoint's batch.

    Raises:
        CheckpointError: It does not exist, is not whole, does not fit the trial, or does not say
            what is needed; the message names it.
        InvalidTrialError: The trial's file is gone, or breaks a rule.
    """
    folder = locate_checkpoint(checkpoint, home, db)
    chosen = _default_device() if device is None else torch.device(device)
    with _unchanged_process(chosen):
        opened = open_trained(folder, device=chosen, trial_class=trial_class, hparams=hparams)
        opened.restore()
    return opened.trial


def open_trained(
    folder: Path,
    *,
    device: torch.device,
    trial_class: type[Trial] | None = None,
    trial_file: Path | None = None,
    working_directory: Path | None = None,
    hparams: Mapping[str, Any] | None = None,
    collectives: Collectives | None = None,
) -> Inference:
    """Builds the trial of a checkpoint, not restored yet; threads become those of training.

    Args:
        folder: The checkpoint.
        device: Where this process computes.
        trial_class: The trial's class; default: the one in the trial's file.
        trial_file: That file; default: the one that the checkpoint names.
        working_directory: Where the file finds modules besides its own folder; default: what the
            checkpoint names.
        hparams: Hyperparameters that take the place of recorded ones.
        collectives: The processes that share the trial's slots; default: this one alone.

    Raises:
        CheckpointError: It cannot be read, or does not say what is needed.
        InvalidTrialError: The trial breaks a rule.
        Exception: Whatever the user's code raises.
    """
    weights = read_weights(folder)
    facts = _Facts(folder, weights.metadata)
    values = dict(hparams or {})
    if hparams is None or "hyperparameters" in weights.metadata:
        values = {**facts.get("hyperparameters", "hparams="), **values}
    identity = facts.get("identity")
    recorded = weights.metadata.get("experiment_config") or {}
    max_length = parse_unit(recorded["max_length"]) if "max_length" in recorded else None
    events = Path(tempfile.mkdtemp(prefix="trialrun-"))
    runtime = Runtime(
        RuntimeSettings(
            hyperparameters=values,
            num_slots=identity["num_slots"],
            aggregation_frequency=identity["aggregation_frequency"],
            seed=identity["seed"],
            intra_op_threads=identity["intra_op_threads"],
            record=RunRecord(
                experiment_config=weights.metadata.get("experiment_config"),
                experiment_id=weights.metadata.get("experiment", 0),
                trial_id=weights.metadata.get("trial", 0),
            ),
            # What the trial writes there, as it is built or evaluated, is no part of the run.
            tensorboard_path=events,
            logs_to_tensorboard=False,
        ),
        collectives=collectives or SingleProcess(),
        device=device,
        stop_request=StopRequest(),
    )
    weakref.finalize(runtime.context, shutil.rmtree, events, ignore_errors=True)
    runtime.execution.begin_at(facts.get("batches"), facts.get("epoch_length"))
    runtime.execution.lasts(max_length, facts.get("epoch_length"))
    if trial_class is None:
        name = _class_name(weights.metadata.get("trial_class"))
        file = trial_file or _trial_file(folder, facts)
        recorded_folder = weights.metadata.get("working_directory")
        if working_directory is None and recorded_folder is not None:
            working_directory = Path(recorded_folder)
        cls = runtime.at_first_address(lambda: load_trial_class(file, name, working_directory))
    else:
        cls = trial_class
        if not (inspect.isclass(cls) and issubclass(cls, Trial)):
            raise InvalidTrialError(
                f"trial_class={cls!r} is no Trial. Give the class that was trained."
            )
        require_complete(cls, "trial_class")
    prepare_data(cls, values, runtime.collectives)
    trial = cls(runtime.context)
    return Inference(runtime, trial, folder, weights)


class _Facts:
    """What a checkpoint says of itself."""

    def __init__(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        self._folder = folder
        self._metadata = metadata

    def get(self, name: str, instead: str | None = None) -> Any:
        """Returns a fact.

        Args:
            name: Its name in the metadata.
            instead: The argument by which a user can give it.

        Raises:
            CheckpointError: It is not there.
        """
        if self._metadata.get(name) is None:
            advice = (
                "It was written by another version of trialrun: use that one."
                if instead is None
                else f"Give {instead}."
            )
            raise CheckpointError(
                f"{self._folder / 'metadata.json'} does not say {name!r}. {advice}"
            )
        return self._metadata[name]


def _class_name(recorded: str | None) -> str | None:
    """Returns which class of the trial's file was trained; None where it has only one."""
    if recorded is None:
        return None
    module, _, name = recorded.rpartition(":")  # a script has recorded module:Class
    if module == "__main__":
        raise InvalidTrialError(
            f"The checkpoint was trained by a script or notebook, which defines its {name}: to "
            "import it would run it. Give trial_class=."
        )
    return name


def _trial_file(folder: Path, facts: _Facts) -> Path:
    path = Path(facts.get("trial_file", "trial_class="))
    # EXPERIMENT/trials/TRIAL/checkpoints/UUID, and the copy in EXPERIMENT.
    parents = folder.parents
    try:
        return find_trial_file(path, (parents[3] if len(parents) > 3 else folder) / path.name)
    except InvalidTrialError as error:
        raise InvalidTrialError(f"{error} Or give trial_class=.") from None


def _default_device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@contextlib.contextmanager
def _unchanged_process(device: torch.device) -> Iterator[None]:
    """Leaves generators and threads as they were: they belong to whoever calls."""
    num_threads = torch.get_num_threads()
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            torch.set_num_threads(num_threads)
            np.random.set_state(numpy_state)
            random.setstate(python_state)
