"""A rehearsal of the whole program: train, validate, checkpoint, restore, go on, compare."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Protocol

import torch

from trialrun._errors import CheckpointError, InvalidMetricError, nearest_name
from trialrun._units import Batch
from trialrun.controller.checkpoints.comparison import compare_contents
from trialrun.controller.checkpoints.contents import read_contents
from trialrun.controller.checkpoints.digest_text import short
from trialrun.controller.checkpoints.store import CheckpointStore, StoredCheckpoint
from trialrun.controller.config import CheckpointPolicy, ExperimentConfig
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.reports.tensorboard_log import CheckpointWriter
from trialrun.controller.engine.session import TrialSession, TrialSpec, open_session
from trialrun.controller.engine.stopping import StopRequest


class OpenFresh(Protocol):
    """Makes a fresh trial, ready to train; nothing of it is recorded."""

    def __call__(
        self,
        *,
        config: ExperimentConfig,
        resume_from: Path | None,
        sink: CheckpointWriter | None,
        tensorboard: Path,
    ) -> TrialSession:
        """Returns its session, with at most one batch of each slot in a validation."""


def rehearse(spec: TrialSpec, collectives: Collectives, device: torch.device) -> None:
    """Rehearses the trial of a file; see ``rehearse_with``."""

    def open_fresh(
        *,
        config: ExperimentConfig,
        resume_from: Path | None,
        sink: CheckpointWriter | None,
        tensorboard: Path,
    ) -> TrialSession:
        return open_session(
            dataclasses.replace(
                spec,
                config=config,
                resume_from=resume_from,
                tensorboard=tensorboard,
                rehearsed_length=spec.config.max_length,
            ),
            collectives=collectives,
            device=device,
            stop_request=StopRequest(),
            journal=None,
            sink=sink,
            max_validation_rounds=1,
        )

    rehearse_with(open_fresh, spec.config, collectives)


def rehearse_with(
    open_fresh: OpenFresh, config: ExperimentConfig, collectives: Collectives
) -> None:
    """Trains two windows straight, and again with a restore into a fresh trial between them.

    A window is one batch, or ``aggregation_frequency`` batches. One batch of validation follows at
    the end of each stretch. Nothing of it is left behind.

    Args:
        open_fresh: Makes the trials.
        config: The configuration; its lengths and periods do not matter.
        collectives: The processes that share the trial's slots.

    Raises:
        CheckpointError: The two ways gave different digests; the message names the first tensor
            that differs.
        InvalidTrialError: No optimizer has learned anything.
        TrialrunError: The trial breaks a rule.
        Exception: Whatever the user's code raises.
    """
    window = config.aggregation_frequency
    with tempfile.TemporaryDirectory(prefix="trialrun-") as folder:
        root = Path(collectives.broadcast(folder, "rehearsal folder"))

        def train(num_batches: int, name: str, resume_from: Path | None = None) -> tuple[Path, int]:
            return _train(open_fresh, config, num_batches, root / name, resume_from, collectives)

        straight, num_batches = train(2 * window, "straight")
        restored, _ = train(window, "restored")
        # A callback may have ended the trial at its first window: then nothing follows.
        if num_batches > window:
            restored, _ = train(2 * window, "restored", resume_from=restored)
        if collectives.is_chief:
            _compare(straight, restored, num_batches)
            _require_searched_metric(config, straight)
        # The chief's folder must stay until every process has read from it.
        collectives.broadcast(None, "end of rehearsal")


def _train(
    open_fresh: OpenFresh,
    config: ExperimentConfig,
    num_batches: int,
    folder: Path,
    resume_from: Path | None,
    collectives: Collectives,
) -> tuple[Path, int]:
    """Trains up to a batch; returns the folder of the checkpoint taken there, and the batch."""
    shortened = config.model_copy(
        update={
            "max_length": Batch(num_batches),
            "reporting_period": Batch(1),
            "validation_period": None,
            "checkpoint_period": None,
            "checkpoint_policy": CheckpointPolicy.NONE,
        }
    )
    stored: list[StoredCheckpoint] = []
    store = CheckpointStore(folder, stored.append) if collectives.is_chief else None
    try:
        session = open_fresh(
            config=shortened,
            resume_from=resume_from,
            sink=store,
            tensorboard=folder.parent / "tensorboard",
        )
        session.run()
        session.require_learning()
    finally:
        failure = store.close() if store is not None else None
    if failure is not None:
        raise CheckpointError(f"The checkpoint could not be written: {failure}") from failure
    path = str(stored[-1].path) if stored else None
    return Path(collectives.broadcast(path, "checkpoint folder")), session.batches_completed


def _require_searched_metric(config: ExperimentConfig, checkpoint: Path) -> None:
    """Finds a misspelt ``searcher.metric`` now, rather than after the first epoch."""
    searcher = config.searcher
    metrics = read_contents(checkpoint).metadata["validation_metrics"]
    if "metric" in searcher.model_fields_set and searcher.metric not in metrics:
        raise InvalidMetricError(
            f"The validation metrics {sorted(metrics)} have no {searcher.metric!r}, which "
            "searcher.metric names." + nearest_name(searcher.metric, metrics)
        )


def _compare(straight: Path, restored: Path, num_batches: int) -> None:
    first, second = read_contents(straight), read_contents(restored)
    if first.metadata["digest"] == second.metadata["digest"]:
        return
    difference = compare_contents(first, second).first
    assert difference is not None  # the digests differ
    raise CheckpointError(
        f"The trial does not resume exactly: {num_batches} batches give the digest "
        f"{short(first.metadata['digest'])} straight and {short(second.metadata['digest'])} with "
        f"a restore between them. The first tensor that differs is {difference.describe()}. Usual "
        "causes: the trial keeps state of its own from batch to batch, draws from a generator of "
        "its own, or reads the time."
    )
