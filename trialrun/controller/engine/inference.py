"""A trained trial at work: its data evaluated as in training, or predicted, by all its slots."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trialrun._data_loader import DataLoader
from trialrun._errors import InvalidTrialError, TrialrunError
from trialrun._fetching import RecordIds
from trialrun._trial import Trial, signature_of
from trialrun._wording import type_of
from trialrun.controller import plain
from trialrun.controller.checkpoints.contents import read_contents
from trialrun.controller.checkpoints.weights import Weights
from trialrun.controller.engine.building import SourceBuilder, Split
from trialrun.controller.engine.callbacks import Callbacks
from trialrun.controller.engine.data.prediction_data import (
    DescribedData,
    LoaderData,
    PredictionData,
)
from trialrun.controller.engine.evaluation import Evaluated, Evaluator
from trialrun.controller.engine.parallel.slots import SlotError
from trialrun.controller.engine.reports.reducers import Phase
from trialrun.controller.engine.runtime import Runtime
from trialrun.controller.engine.schedule import BoundaryWishes
from trialrun.controller.engine.snapshot import as_callbacks_want_it
from trialrun.controller.engine.steps.mixed_precision import as_it_runs
from trialrun.controller.engine.stopping import Agreement, StopRequest
from trialrun.controller.engine.weights import load_weights
from trialrun.samplers.addresses import Stream


class RawPrediction(NamedTuple):
    """What ``predict_batch`` returned for a batch."""

    batch_idx: int
    records: RecordIds
    returned: Any


class Inference:
    """A trial in this process, which executes some or all of its slots, and a checkpoint for it.

    Args:
        runtime: The trial's surroundings, with its clock at the checkpoint.
        trial: The user's trial, newly built.
        folder: The checkpoint, or an export.
        weights: What it holds.
    """

    runtime: Runtime
    trial: Trial
    weights: Weights

    def __init__(self, runtime: Runtime, trial: Trial, folder: Path, weights: Weights) -> None:
        self.runtime = runtime
        self.trial = trial
        self.weights = weights
        self._folder = folder
        runtime.execution.trial_is_built()
        self._builder = SourceBuilder(
            trial,
            runtime.context,
            runtime.execution,
            runtime.generators,
            seed=runtime.settings.seed,
            is_chief=runtime.collectives.is_chief,
        )

    def restore(self) -> None:
        """Gives the trial its weights and its own state; models are in eval mode afterwards.

        Callbacks may change what is loaded (``on_checkpoint_load_start``); nothing else of them is
        called. It cannot be trained. After ``use_amp`` what evaluates and predicts runs under
        autocast, whoever calls it.

        Raises:
            CheckpointError: The checkpoint does not fit the trial.
        """
        callbacks = self._builder.callbacks()
        self._set_up(callbacks)
        self._restore(callbacks)
        self.runtime.execution.is_only_loaded()
        if self.runtime.context.amp is not None:
            self._compute_as_in_training()

    def evaluate(self, split: Split) -> Evaluated:
        """Evaluates data exactly as a validation in training does, on a trial not restored yet.

        Raises:
            CheckpointError: The checkpoint does not fit the trial.
            InvalidTrialError: The trial has no such data.
            SlotError: User code raised.
        """
        self._require_data(split)
        runtime, execution = self.runtime, self.runtime.execution
        # All in the order in which an attempt that resumes there does it.
        callbacks = self._builder.callbacks()
        with callbacks.failure_told():
            uuid = self.weights.metadata.get("uuid")
            callbacks.call("on_trial_startup", execution.initial_batch, uuid)
            data = self._builder.evaluated(self._build(split), split)
            execution.meet()
            self._set_up(callbacks)
            try:
                callbacks.load_state_dict(self._restore(callbacks))
                evaluated = Evaluator(
                    trial=self.trial,
                    models=runtime.context.models,
                    data=data,
                    execution=execution,
                    generators=runtime.generators,
                    collectives=runtime.collectives,
                    # Not the trial's own wish: there is no training that it could stop.
                    agreement=Agreement(
                        runtime.collectives, BoundaryWishes(StopRequest(), None), execution.meetings
                    ),
                    callbacks=callbacks,
                ).evaluate()
            finally:
                execution.close()
        callbacks.shut_down()
        assert evaluated is not None, "nobody can ask it to stop"
        return evaluated

    def prediction_data(self, split: Split) -> PredictionData:
        """Returns the batches of which this process makes predictions, after restoring the trial.

        Raises:
            CheckpointError: The checkpoint does not fit the trial.
            InvalidTrialError: The trial has no such data, or no ``predict_batch``; or its training
                loader is one that trialrun did not build.
        """
        self._require_written("predict_batch", "trialrun predict")
        self._require_data(split)
        callbacks = self._builder.callbacks()
        loader = self._build(split)
        execution, settings = self.runtime.execution, self.runtime.settings
        execution.meet()
        self._set_up(callbacks)
        self._restore(callbacks)
        if isinstance(loader, DataLoader):
            return DescribedData(
                loader,
                settings.seed,
                num_slots=settings.num_slots,
                slots=execution.slot_numbers,
            )
        if split is Split.TRAINING:
            raise InvalidTrialError(
                f"{split.method} returned {type_of(loader)}, one for each slot, whose "
                "records have no indices. Predictions of training data need a trialrun.DataLoader; "
                "or return the loader from build_test_data_loader too, and give --data test."
            )
        return LoaderData(self._builder.batches(loader, split), self.trial)

    def predictions(self, data: PredictionData) -> Iterator[RawPrediction]:
        """Iterates over what ``predict_batch`` returns for the batches of this process.

        Raises:
            SlotError: User code raised.
        """
        execution, generators = self.runtime.execution, self.runtime.generators
        amp, device = self.runtime.context.amp, self.runtime.device
        predict_batch = as_it_runs(self.trial.predict_batch, amp, device)
        for batch_idx, slot, records, batch in data:
            execution.acting_slot = slot
            execution.reducers.enter(Phase.VALIDATION, slot)
            execution.reducers.begin_batch(batch_idx)
            generators.enter(Stream.VALIDATION, batch_idx)
            try:
                with torch.no_grad(), execution.evaluating("predict_batch"):
                    moved = execution.on_device(batch)
                    returned = predict_batch(batch=moved, batch_idx=batch_idx)
            except TrialrunError:
                raise
            except (Exception, SystemExit) as error:
                raise SlotError(slot) from error
            finally:
                execution.acting_slot = None
            yield RawPrediction(batch_idx, records, returned)

    def _compute_as_in_training(self) -> None:
        for name in ("evaluate_batch", "evaluate_full_dataset", "predict_batch"):
            method = getattr(self.trial, name)
            as_trained = functools.wraps(method)(self.runtime.execution.as_it_runs(method))
            setattr(self.trial, name, as_trained)

    def _set_up(self, callbacks: Callbacks) -> None:
        """Lets the context answer as in training; nothing can be wrapped any more."""
        execution = self.runtime.execution
        execution.set_up(
            self.trial,
            self.runtime.context,
            execution.epoch_length,
            has_equal_batches=True,
            callbacks=callbacks,
        )

    def _restore(self, callbacks: Callbacks) -> Mapping[str, Any]:
        """Restores models and trial; returns the callbacks' states."""
        weights, states = self.weights, self.weights.callback_states
        if states is not None and callbacks.listen_to("on_checkpoint_load_start"):
            contents, states = as_callbacks_want_it(read_contents(self._folder), callbacks)
            weights = dataclasses.replace(weights, models=contents.models)
        else:
            states = plain.restore(states or {})
        load_weights(self.runtime.context.models, weights)
        self.trial.load_state_dict(plain.restore(weights.trial_state))
        for model in self.runtime.context.models:
            model.eval()
        return states

    def _build(self, split: Split) -> Any:
        # In the order of training: a trial may keep in one method what the next needs.
        for earlier in Split:
            loader = self._builder.build(earlier)
            if earlier is split:
                return loader
        raise AssertionError(split)

    def _require_data(self, split: Split) -> None:
        if split is Split.TEST:
            self._require_written(split.method, f"--data {split.value}")

    def _require_written(self, method: str, purpose: str) -> None:
        cls = type(self.trial)
        if getattr(cls, method) is getattr(Trial, method):
            raise InvalidTrialError(
                f"{cls.__name__} has no {method}, which {purpose} needs. Write:\n"
                f"    {signature_of(method)}: ..."
            )
