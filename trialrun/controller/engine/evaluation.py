"""Evaluates the validation data: every record once, on all slots, and nothing else changes."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from trialrun._errors import TrialrunError
from trialrun._trial import Trial, is_called_by_name
from trialrun.controller.engine.callbacks import Callbacks
from trialrun.controller.engine.data.sources import ValidationSource
from trialrun.controller.engine.execution import Execution
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.parallel.slots import SlotError
from trialrun.controller.engine.randomness import Generators
from trialrun.controller.engine.reports.metrics import (
    EvaluatedBatch,
    check_batch_length,
    check_scalars,
    reduce_evaluated,
    to_floats,
)
from trialrun.controller.engine.reports.reducers import Phase
from trialrun.controller.engine.schedule import Event
from trialrun.controller.engine.stopping import Agreement
from trialrun.samplers.addresses import Stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What a validation found."""

    metrics: dict[str, float]
    num_records: int
    duration_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullDataset:
    """The validation data for ``evaluate_full_dataset``.

    Args:
        loader: What the trial built.
        num_records: Records that it has, or 0 where it cannot say.
    """

    loader: Any
    num_records: int


class Evaluator:
    """Evaluates the validation data and reduces what that gives.

    Args:
        trial: The user's trial.
        models: Its models, which are in eval mode meanwhile.
        data: The validation batches of this process; or, for ``evaluate_full_dataset``, the loader
            that the trial built.
        execution: Told which slot evaluates; has the reducers' contents.
        generators: Set to each batch's address, so that validating changes nothing in training.
        collectives: The processes.
        agreement: Asked after every round whether to stop.
        callbacks: Called before, within and after.
        max_rounds: Batches that each slot evaluates at most; None: all.
    """

    def __init__(
        self,
        *,
        trial: Trial,
        models: Sequence[torch.nn.Module],
        data: ValidationSource | FullDataset,
        execution: Execution,
        generators: Generators,
        collectives: Collectives,
        agreement: Agreement,
        callbacks: Callbacks,
        max_rounds: int | None = None,
    ) -> None:
        self._trial = trial
        self._models = models
        self._reducers = execution.reducers
        self._data = data
        self._execution = execution
        self._generators = generators
        self._collectives = collectives
        self._agreement = agreement
        self._callbacks = callbacks
        self._max_rounds = max_rounds
        self._evaluate_batch = execution.as_it_runs(_with_or_without_index(trial))

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
        with _eval_mode(self._models), torch.no_grad(), self._evaluating():
            self._reducers.reset(Phase.VALIDATION)
            self._callbacks.call("on_validation_start")
            if isinstance(self._data, FullDataset):
                evaluated = self._evaluate_full(self._data)
            else:
                batches = self._evaluate_batches(self._data)
                if batches is None:
                    return None
                evaluated = self._reduce(batches)
            metrics, num_records = evaluated
            # What they have collected may be large, and the next validation may be far.
            self._reducers.reset(Phase.VALIDATION)
            self._callbacks.call("on_validation_end", dict(metrics))
        return Evaluated(
            metrics=metrics,
            num_records=num_records,
            duration_seconds=time.monotonic() - started,
        )

    def _evaluate_batches(self, data: ValidationSource) -> list[EvaluatedBatch] | None:
        # What only one of several processes goes through, it cannot break off: the others wait.
        # And what a callback did at the start, such as swapping weights, its end must undo.
        agrees = data.is_lockstep or self._collectives.size == 1
        agrees = agrees and not self._callbacks.listen_to_validation
        batches: list[EvaluatedBatch] = []
        self._callbacks.call("on_validation_epoch_start")
        for number, pieces in enumerate(data.rounds()):
            if number == self._max_rounds:
                break
            if agrees:
                self._agreement.begin()
            batches += [self._evaluate_piece(*piece) for piece in pieces]
            self._execution.on_progress()
            if agrees and self._agreement.settle()[Event.STOP]:
                return None
        return batches

    def _evaluate_full(self, data: FullDataset) -> tuple[dict[str, float], int]:
        """Lets slot 0 evaluate everything, and the others wait."""
        scalars: dict[str, Any] = {}
        if 0 in self._execution.slot_numbers:
            with self._in_slot(0, 0, "evaluate_full_dataset"):
                evaluate = self._execution.as_it_runs(self._trial.evaluate_full_dataset)
                returned = evaluate(data_loader=data.loader)
                returned = self._trial._as_metrics(returned, "evaluate_full_dataset")
                scalars = check_scalars(returned, "evaluate_full_dataset")
        (metrics,) = to_floats([scalars])
        return self._with_reducers(metrics, data.num_records)

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._execution.acting_slot = None

    @contextlib.contextmanager
    def _in_slot(self, slot: int, number: int, method: str) -> Iterator[None]:
        """Lets user code evaluate for a slot, with the random numbers of a batch."""
        self._execution.acting_slot = slot
        self._reducers.enter(Phase.VALIDATION, slot)
        self._reducers.begin_batch(number)
        self._generators.enter(Stream.VALIDATION, number)
        try:
            refused_in = self._execution.stepping.schedules.refused_in
            with refused_in(method), self._execution.evaluating(method):
                yield
        except TrialrunError:
            raise
        except (Exception, SystemExit) as error:
            raise SlotError(slot) from error

    def _evaluate_piece(self, slot: int, number: int, batch: Any) -> EvaluatedBatch:
        with self._in_slot(slot, number, "evaluate_batch"):
            batch = self._execution.on_device(batch)
            returned = self._trial._as_metrics(
                self._evaluate_batch(batch, number), "evaluate_batch"
            )
            scalars = check_scalars(returned, "evaluate_batch")
            return number, check_batch_length(self._trial.get_batch_length(batch)), scalars

    def _reduce(self, batches: list[EvaluatedBatch]) -> tuple[dict[str, float], int]:
        floats = to_floats([scalars for _, _, scalars in batches])
        rows = [(n, records, row) for (n, records, _), row in zip(batches, floats, strict=True)]
        gathered = self._collectives.gather(rows, "validation metrics")
        metrics: dict[str, float] = {}
        all_rows = []
        if gathered is not None:
            all_rows = sorted(row for process_rows in gathered for row in process_rows)
            metrics = reduce_evaluated(all_rows, self._trial.evaluation_reducer())
        if self._callbacks.listen_to("on_validation_epoch_end"):
            outputs = [row for _, _, row in all_rows]
            outputs = self._collectives.broadcast(outputs, "outputs of the validation")
            self._callbacks.call("on_validation_epoch_end", outputs)
        return self._with_reducers(metrics, sum(records for _, records, _ in all_rows))

    def _with_reducers(
        self, metrics: dict[str, float], num_records: int
    ) -> tuple[dict[str, float], int]:
        """Adds the results of the trial's reducers to the chief's metrics; all processes get them.

        Args:
            metrics: The chief's; those of the others do not count.
            num_records: The same.
        """
        clock = self._execution.batches_completed
        per_slot = self._reducers.per_slot(Phase.VALIDATION, clock)
        gathered = self._collectives.gather(per_slot, "validation reducers")
        outcome = None
        if gathered is not None:
            all_slots = [results for process_slots in gathered for results in process_slots]
            metrics = self._reducers.across_slots(Phase.VALIDATION, clock, all_slots, metrics)
            outcome = (metrics, num_records)
        reduced: tuple[dict[str, float], int] = self._collectives.broadcast(
            outcome, "validation metrics"
        )
        return reduced


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


def _with_or_without_index(trial: Trial) -> Callable[[Any, int], Any]:
    """Returns how to call ``evaluate_batch``, which may leave ``batch_idx`` out."""
    parameters = inspect.signature(trial.evaluate_batch).parameters
    if is_called_by_name(parameters.values()):
        return lambda batch, number: trial.evaluate_batch(batch=batch, batch_idx=number)
    if len(parameters) > 1:
        return lambda batch, number: trial.evaluate_batch(batch, number)
    return lambda batch, number: trial.evaluate_batch(batch)  # type: ignore[call-arg]  # as written
