"""A trained trial at work in one process: its data evaluated as in training, or predicted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from trialrun._batch_contents import to_device
from trialrun._data_loader import DataLoader
from trialrun._errors import InvalidTrialError, TrialrunError
from trialrun._trial import Trial
from trialrun.controller.engine.building import SourceBuilder, Split
from trialrun.controller.engine.evaluation import Evaluated, Evaluator
from trialrun.controller.engine.fetching import RecordIds
from trialrun.controller.engine.prediction_data import (
    DescribedData,
    LoaderData,
    PredictionData,
)
from trialrun.controller.engine.runtime import Runtime
from trialrun.controller.engine.schedule import BoundaryWishes
from trialrun.controller.engine.slots import SlotError
from trialrun.controller.engine.stopping import Agreement
from trialrun.controller.trial_file import signature_of
from trialrun.samplers.addresses import Stream


class RawPrediction(NamedTuple):
    """What ``predict_batch`` returned for a batch."""

    batch_idx: int
    records: RecordIds
    returned: Any


class Inference:
    """Evaluates a trained trial, or asks it for predictions; all slots are in this process.

    Args:
        runtime: The trial's surroundings, with its clock at the checkpoint.
        trial: The user's trial, its models restored and in eval mode.
    """

    def __init__(self, runtime: Runtime, trial: Trial) -> None:
        self._runtime = runtime
        self._trial = trial
        self._builder = SourceBuilder(
            trial,
            runtime.context,
            runtime.execution,
            runtime.generators,
            seed=runtime.settings.seed,
            is_chief=True,
        )

    def evaluate(self, split: Split) -> Evaluated:
        """Runs ``evaluate_batch`` over the data, exactly as a validation in training does.

        Raises:
            InvalidTrialError: The trial has no such data.
            SlotError: User code raised.
        """
        self._require_data(split)
        data = self._builder.evaluated(self._build(split), split)
        runtime, context, execution = self._runtime, self._runtime.context, self._runtime.execution
        execution.set_up(self._trial, context, execution.epoch_length)
        try:
            evaluated = Evaluator(
                trial=self._trial,
                models=context.models,
                reducers=[wrapped for wrapped in context.reducers if wrapped.for_validation],
                data=data,
                slots=execution.slot_numbers,
                execution=execution,
                generators=runtime.generators,
                collectives=runtime.collectives,
                agreement=Agreement(
                    runtime.collectives,
                    BoundaryWishes(runtime.stop_request, None),
                    execution.meetings,
                ),
                device=runtime.device,
            ).evaluate()
        finally:
            execution.close()
        assert evaluated is not None, "nobody asks it to stop"
        return evaluated

    def prediction_data(self, split: Split) -> PredictionData:
        """Returns the batches of which predictions are made.

        Raises:
            InvalidTrialError: The trial has no such data, or no ``predict_batch``; or its training
                loader is one that trialrun did not build.
        """
        self._require_written("predict_batch", "trialrun predict")
        self._require_data(split)
        loader = self._build(split)
        if isinstance(loader, DataLoader):
            return DescribedData(loader, self._runtime.settings.seed)
        if split is Split.TRAINING:
            raise InvalidTrialError(
                f"{split.method} returned a {type(loader).__name__}, one for each slot, whose "
                "records have no indices. Predictions of training data need a trialrun.DataLoader; "
                "or return the loader from build_test_data_loader too, and give --data test."
            )
        return LoaderData(self._builder.evaluated(loader, split), self._trial)

    def predictions(self, data: PredictionData) -> Iterator[RawPrediction]:
        """Iterates over what ``predict_batch`` returns, batch by batch.

        Raises:
            SlotError: User code raised.
        """
        execution, generators = self._runtime.execution, self._runtime.generators
        for batch_idx, records, batch in data:
            execution.acting_slot = batch_idx % self._runtime.settings.num_slots
            generators.enter(Stream.VALIDATION, batch_idx)
            try:
                with torch.no_grad():
                    moved = to_device(batch, self._runtime.device)
                    returned = self._trial.predict_batch(batch=moved, batch_idx=batch_idx)
            except TrialrunError:
                raise
            except (Exception, SystemExit) as error:
                raise SlotError(execution.acting_slot) from error
            finally:
                execution.acting_slot = None
            yield RawPrediction(batch_idx, records, returned)

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
        cls = type(self._trial)
        if getattr(cls, method) is getattr(Trial, method):
            raise InvalidTrialError(
                f"{cls.__name__} has no {method}, which {purpose} needs. Write:\n"
                f"    def {method}{signature_of(method)}: ..."
            )
