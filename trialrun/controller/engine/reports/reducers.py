"""The trial's metric reducers: what each slot collects, and how it becomes one for all slots.

Slot by slot, then all slots in their order, on the chief alone: so the number of processes does not
change the last digit. What a reducer draws at random has an address, like everything else.
"""

from __future__ import annotations

import contextlib
import copy
import enum
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trialrun._adapted_reducers import AdaptedReducer, FunctionReducer
from trialrun._errors import (
    CheckpointError,
    InvalidMetricError,
    InvalidTrialError,
    ReducerError,
    TrialrunError,
)
from trialrun._reducers import MetricReducer
from trialrun._wrapped import WrappedReducer
from trialrun.controller import plain
from trialrun.controller.engine.randomness import Generators
from trialrun.controller.engine.reports.metrics import check_scalars, describe, to_floats
from trialrun.samplers.addresses import Stream

logger = logging.getLogger(__name__)


class Phase(enum.Enum):
    """What a reducer is collecting for; the two never mix."""

    TRAINING = "training"
    VALIDATION = "validation"


class SlotReducers:
    """The trial's metric reducers, with contents for each phase and slot of this process.

    The trial holds one object for each reducer, and it stays that object: entering a slot exchanges
    its attributes.

    Args:
        reducers: The wrapped metric reducers.
        slots: The slots of this process.
        num_slots: S.
        generators: Set to an address of its own for every reduction.
        shared: Objects that are not copied where an attribute refers to them: the trial, models.

    Raises:
        InvalidTrialError: A reducer has attributes that cannot be copied for each slot.
        ReducerError: A reducer cannot be reset.
    """

    def __init__(
        self,
        reducers: Sequence[WrappedReducer],
        *,
        slots: range,
        num_slots: int,
        generators: Generators,
        shared: Sequence[object],
    ) -> None:
        self._wrapped = list(reducers)
        self._slots = slots
        self._num_slots = num_slots
        self._generators = generators
        # In which phases it was said of which reducers that they had nothing.
        self._warned: set[tuple[Phase, int]] = set()
        self._functions = [
            wrapped.reducer for wrapped in reducers if isinstance(wrapped.reducer, FunctionReducer)
        ]
        memo = {id(item): item for item in shared}
        self._contents = {
            (phase, slot): [_new_contents(wrapped, memo) for wrapped in reducers]
            for phase in Phase
            for slot in slots
        }
        for phase in Phase:
            self.reset(phase)

    def enter(self, phase: Phase, slot: int) -> None:
        """Installs the contents of one slot."""
        for wrapped, contents in zip(self._wrapped, self._contents[phase, slot], strict=True):
            if isinstance(wrapped.reducer, AdaptedReducer):
                wrapped.reducer.install(contents)
            else:
                wrapped.reducer.__dict__ = contents

    def begin_batch(self, number: int) -> None:
        """Says to which batch belongs what the slots collect next."""
        for reducer in self._functions:
            reducer.batch = number

    def reset(self, phase: Phase) -> None:
        """Lets every slot of this process forget what it has collected.

        All reducers, whether they are reported in this phase or not: the trial may feed them.
        """
        for slot in self._slots:
            self.enter(phase, slot)
            for wrapped in self._wrapped:
                with _naming("reset", wrapped, slot):
                    wrapped.reducer.reset()

    def takes_part(self, phase: Phase) -> bool:
        """Returns whether any reducer is reported in the phase."""
        return bool(self._reported(phase))

    def per_slot(self, phase: Phase, batches: int) -> list[list[Any]]:
        """Returns for each slot of this process the ``per_slot_reduce`` result of each reducer.

        Args:
            phase: What was collected for.
            batches: The clock, from which random draws have their address.

        Raises:
            ReducerError: A reducer raised.
            InvalidMetricError: It returned what is not plain data.
        """
        results = []
        for slot in self._slots:
            self.enter(phase, slot)
            row = []
            for wrapped in self._reported(phase):
                self._generators.enter(Stream.REDUCER, batches, slot)
                with _naming("per_slot_reduce", wrapped, slot, _HINTS[phase]):
                    result = wrapped.reducer.per_slot_reduce()
                name = f"What per_slot_reduce of reducer {wrapped.label!r} returned on slot {slot}"
                try:
                    plain.check(result, name)
                except TrialrunError as error:
                    raise InvalidMetricError(str(error)) from None
                row.append(result)
            results.append(row)
        return results

    def across_slots(
        self,
        phase: Phase,
        batches: int,
        per_slot: Sequence[Sequence[Any]],
        metrics: dict[str, float],
    ) -> dict[str, float]:
        """Adds the reducers' results to reduced metrics; the chief calls it, which has slot 0.

        Args:
            phase: What was collected for.
            batches: The clock.
            per_slot: For each of all slots, in order, what ``per_slot`` returned for it.
            metrics: The metrics so far.

        Returns:
            All metrics.

        Raises:
            ReducerError: A reducer raised.
            InvalidMetricError: It returned something else than it promised, or a name that is
                taken.
        """
        result = dict(metrics)
        # On any number of processes with what slot 0 has collected.
        self.enter(phase, self._slots.start)
        for index, wrapped in enumerate(self._reported(phase)):
            collected = [slot_results[index] for slot_results in per_slot]
            self._generators.enter(Stream.REDUCER, batches, self._num_slots)
            hint = ""
            if isinstance(wrapped.reducer, AdaptedReducer) and wrapped.reducer.are_empty(collected):
                hint = f" It was given nothing: {_UNUSED[phase]}."
            with _naming("cross_slot_reduce", wrapped, hint=hint):
                value = wrapped.reducer.cross_slot_reduce(collected)
            named = _named(wrapped, value)
            if hint and any(map(math.isnan, named.values())):
                self._warn_once(phase, index, f"Reducer {wrapped.label!r} gave nan.{hint}")
            for name, number in named.items():
                if name in result:
                    raise InvalidMetricError(
                        f"Reducer {wrapped.label!r} returned the metric {name!r}, which exists "
                        "already. Choose another name."
                    )
                result[name] = number
        return result

    def _warn_once(self, phase: Phase, index: int, message: str) -> None:
        if (phase, index) not in self._warned:
            self._warned.add((phase, index))
            logger.warning(message)

    def slot_state(self, slot: int) -> dict[str, Any]:
        """Returns what a slot has collected of a training period that is not over, by reducer."""
        self.enter(Phase.TRAINING, slot)
        states = {}
        for name, wrapped in self._kept():
            with _naming("state_dict", wrapped, slot):
                states[name] = wrapped.reducer.state_dict()
        return states

    def load_slot_state(self, slot: int, saved: Mapping[str, Any]) -> None:
        """Takes up what ``slot_state`` returned.

        Raises:
            CheckpointError: It is of other reducers.
        """
        kept = self._kept()
        names = [name for name, _ in kept]
        if list(saved) != names:
            raise CheckpointError(
                f"The trial has the training reducers {names}, but the checkpoint has "
                f"{list(saved)}. Restore the trial's code, or submit a new experiment."
            )
        self.enter(Phase.TRAINING, slot)
        for name, wrapped in kept:
            with _naming("load_state_dict", wrapped, slot):
                wrapped.reducer.load_state_dict(plain.restore(saved[name]))

    def _reported(self, phase: Phase) -> list[WrappedReducer]:
        return [
            wrapped
            for wrapped in self._wrapped
            if (wrapped.for_training if phase is Phase.TRAINING else wrapped.for_validation)
        ]

    def _kept(self) -> list[tuple[str, WrappedReducer]]:
        return [
            (f"{index}: {wrapped.label}", wrapped)
            for index, wrapped in enumerate(self._wrapped)
            if wrapped.for_training
        ]


_UNUSED = {
    Phase.TRAINING: "if train_batch does not update it, wrap it with for_training=False",
    Phase.VALIDATION: "if evaluate_batch does not update it, wrap it with for_validation=False",
}
_HINTS = {
    Phase.TRAINING: f" A slot may have nothing to reduce: {_UNUSED[Phase.TRAINING]}.",
    Phase.VALIDATION: (
        " A slot may have nothing to reduce, where there are fewer validation batches than slots; "
        f"{_UNUSED[Phase.VALIDATION]}."
    ),
}


@contextlib.contextmanager
def _naming(
    method: str, wrapped: WrappedReducer, slot: int | None = None, hint: str = ""
) -> Iterator[None]:
    """Names reducer, method and slot where the user's code raises."""
    try:
        yield
    except TrialrunError:
        raise
    except Exception as error:
        place = "" if slot is None else f" on slot {slot}"
        stop = "" if str(error).endswith((".", "!", "?")) else "."
        raise ReducerError(
            f"{method} of reducer {wrapped.label!r} raised {type(error).__name__}{place}: "
            f"{error}{stop if hint else ''}{hint}"
        ) from error


def _new_contents(wrapped: WrappedReducer, shared: Mapping[int, object]) -> Any:
    reducer: MetricReducer = wrapped.reducer
    if isinstance(reducer, AdaptedReducer):
        return reducer.new_contents(shared)
    try:
        return copy.deepcopy(vars(reducer), dict(shared))
    except Exception as error:  # whatever an attribute raises that cannot be copied
        raise InvalidTrialError(
            f"Reducer {wrapped.label!r} cannot be copied for each slot: {type(error).__name__}: "
            f"{error}. Keep in its attributes only what a slot collects."
        ) from error


def _named(wrapped: WrappedReducer, value: Any) -> dict[str, float]:
    if wrapped.name is None and not isinstance(value, Mapping):
        raise InvalidMetricError(
            f"Reducer {wrapped.label!r} was wrapped without a name, so {_RETURNS} a dictionary of "
            f"metrics; it returned {describe(value)}. Give wrap_reducer a name."
        )
    if wrapped.name is not None and isinstance(value, Mapping):
        raise InvalidMetricError(
            f"Reducer {wrapped.label!r} was wrapped with a name, so {_RETURNS} one number; it "
            "returned a dictionary. Wrap it without a name."
        )
    named = value if isinstance(value, Mapping) else {wrapped.name: value}
    source = f"reducer {wrapped.label!r}"
    (row,) = to_floats([check_scalars(named, source, "Return one number for each name.")])
    return row


_RETURNS = "cross_slot_reduce must return"
