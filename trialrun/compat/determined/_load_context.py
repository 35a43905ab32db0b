"""A context to make a trial with, where nothing is trained."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trialrun._construction import Construction
from trialrun._context import TrialContext
from trialrun._run_record import RunRecord
from trialrun._tensorboard import TensorBoard
from trialrun.controller.engine.execution import Execution
from trialrun.controller.engine.parallel.collectives import SingleProcess
from trialrun.controller.engine.randomness import Generators
from trialrun.controller.engine.stopping import StopRequest

__all__ = ["CheckpointLoadContext"]

_SEED = 0


class CheckpointLoadContext(TrialContext):
    """The context of a trial that is made by hand, to look at it or to give it weights.

    It changes no random generator, puts models on the first GPU, or on the CPU where there is none,
    knows one slot, and keeps no TensorBoard events. ``trialrun.load_trial`` needs none: it makes
    the trial of a checkpoint as training did.

    Args:
        hparams: The trial's hyperparameters.
        exp_conf: What ``get_experiment_config`` returns.
    """

    def __init__(
        self, hparams: Mapping[str, Any] | None = None, exp_conf: Mapping[str, Any] | None = None
    ) -> None:
        device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        engine = Execution(
            num_slots=1,
            aggregation_frequency=1,
            num_threads=torch.get_num_threads(),
            generators=Generators(_SEED, device),
            collectives=SingleProcess(),
            stop_request=StopRequest(),
            device=device,
        )
        # Many a trial asks for a writer in its constructor.
        events = Path(tempfile.mkdtemp(prefix="trialrun-"))
        weakref.finalize(self, shutil.rmtree, events, ignore_errors=True)
        super().__init__(
            hyperparameters=hparams or {},
            num_slots=1,
            seed=_SEED,
            device=device,
            engine=engine,
            tensorboard=TensorBoard(events, logs_metrics=False, engine=engine, is_chief=True),
            record=RunRecord(experiment_config=exp_conf),
        )

    def trial_begins(self, construction: Construction) -> None:
        """Does nothing: the generators belong to whoever makes the trial."""
