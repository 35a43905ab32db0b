"""Evaluates the validation data: every record once, on all slots, and nothing else changes."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from trialrun._errors import TrialrunError
from trialrun._trial import Trial
from trialrun._wrapped import WrappedReducer
from trialrun.controller.engine.collectives import Collectives
from trialrun.controller.engine.execution import Execution
from trialrun.controller.engine.metrics import (
    EvaluatedBatch,
    check_scalars,
    reduce_custom,
    reduce_evaluated,
    to_floats,
)
from trialrun.controller.engine.randomness import Generators
from trialrun.controller.engine.schedule import Event
from trialrun.controller.engine.slot_state import Phase
from trialrun.controller.engine.slots import SlotError
from trialrun.controller.engine.sources import ValidationSource
from trialrun.controller.engine.stopping import Agreement
from trialrun.samplers.addresses import Stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What a validation found."""

    metrics: dict[str, float]
    num_records: int
    duration_seconds: float


class Evaluator:
    """Runs ``evaluate_batch`` over the validation data and reduces what it returns.

    Args:
        trial: The user's trial.
        models: Its models, which are in eval mode meanwhile.
        reducers: The reducers that take part in validation.
        data: The validation batches of this process.
        slots: The slots of this process.
        execution: Told which slot evaluates; has the reducers' contents.
        generators: Set to each batch's address, so that validating changes nothing in training.
        collectives: The processes.
        agreement: Asked after every round whether to stop.
        max_rounds: Batches that each slot evaluates at most; None: all.
    """

    def __init__(
        self,
        *,
        trial: Trial,
        models: Sequence[torch.nn.Module],
        reducers: Sequence[WrappedReducer],
        data: ValidationSource,
        slots: range,
        execution: Execution,
        generators: Generators,
        collectives: Collectives,
        agreement: Agreement,
        max_rounds: int | None = None,
    ) -> None:
        self._trial = trial
        self._models = models
        self._reducers = reducers
        self._data = data
        self._slots = slots
        self._execution = execution
        self._contents = execution.reducers
        self._generators = generators
        self._collectives = collectives
        self._agreement = agreement
        self._max_rounds = max_rounds
        # What only one of several processes goes through, it cannot break off: the others wait.
        self._agrees = data.is_lockstep or collectives.size == 1

    def evaluate(self) -> Evaluated | None:
        """Evaluates all batches.

        Returns:
            The metrics, on every process; None when a stop was agreed on meanwhile: a validation is
            whole or absent.

        Raises:
            InvalidMetricError: Metrics are no numbers, or named differently between batches.
            SlotError: User code raised.
        """
        started = time.monotonic()
        batches: list[tuple[int, int, dict[str, Any]]] = []
        with _eval_mode(self._models), torch.no_grad(), self._evaluating():
            self._reset_reducers()
            for number, pieces in enumerate(self._data.rounds()):
                if number == self._max_rounds:
                    break
                if self._agrees:
                    self._agreement.begin()
                batches += [self._evaluate_batch(*piece) for piece in pieces]
                if self._agrees and self._agreement.settle()[Event.STOP]:
                    return None
            metrics, num_records = self._reduce(batches)
        return Evaluated(
            metrics=metrics,
            num_records=num_records,
            duration_seconds=time.monotonic() - started,
        )

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._execution.acting_slot = None

    def _evaluate_batch(self, slot: int, number: int, batch: Any) -> EvaluatedBatch:
        self._execution.acting_slot = slot
        self._contents.enter(Phase.VALIDATION, slot)
        self._generators.enter(Stream.VALIDATION, number)
        try:
            batch = self._execution.on_device(batch)
            returned = self._trial.evaluate_batch(batch=batch, batch_idx=number)
            scalars = check_scalars(returned, "evaluate_batch")
            return number, self._trial.get_batch_length(batch), scalars
        except TrialrunError:
            raise
        except (Exception, SystemExit) as error:
            raise SlotError(slot) from error

    def _reduce(self, batches: list[EvaluatedBatch]) -> tuple[dict[str, float], int]:
        floats = to_floats([scalars for _, _, scalars in batches])
        rows = [(n, records, row) for (n, records, _), row in zip(batches, floats, strict=True)]
        per_slot = self._per_slot_results()
        gathered = self._collectives.gather((rows, per_slot), "validation metrics")
        outcome = None
        if gathered is not None:
            all_rows = [row for process_rows, _ in gathered for row in process_rows]
            all_slots = [results for _, process_slots in gathered for results in process_slots]
            metrics = reduce_evaluated(all_rows, self._trial.evaluation_reducer())
            # On any number of processes with what slot 0 has collected.
            self._contents.enter(Phase.VALIDATION, self._slots.start)
            metrics = reduce_custom(self._reducers, all_slots, metrics)
            outcome = (metrics, sum(records for _, records, _ in all_rows))
        reduced: tuple[dict[str, float], int] = self._collectives.broadcast(
            outcome, "validation metrics"
        )
        return reduced

    def _reset_reducers(self) -> None:
        for slot in self._slots:
            self._contents.enter(Phase.VALIDATION, slot)
            for wrapped in self._reducers:
                wrapped.reducer.reset()

    def _per_slot_results(self) -> list[list[Any]]:
        results = []
        for slot in self._slots:
            self._contents.enter(Phase.VALIDATION, slot)
            results.append([wrapped.reducer.per_slot_reduce() for wrapped in self._reducers])
        return results


@contextlib.contextmanager
def _eval_mode(models: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Puts all modules in eval mode, and each back into the mode that it had."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
