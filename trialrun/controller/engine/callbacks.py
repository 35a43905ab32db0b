"""Calls the trial's callbacks at the events of the loop, each with random numbers of its own."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from trialrun._callback import Callback
from trialrun._errors import CheckpointError, InvalidTrialError, nearest_name
from trialrun._wording import type_of
from trialrun.controller.engine.execution import Execution
from trialrun.controller.engine.parallel.slots import SlotError
from trialrun.controller.engine.randomness import Generators
from trialrun.samplers.addresses import Stream

logger = logging.getLogger(__name__)

_EVENTS = [name for name in vars(Callback) if name.startswith("on_")]
STEP_END = "on_optimizer_step_end"
# What an event's random numbers are a function of; those of STEP_END have a stream of their own.
_EVENT_NUMBERS = {
    name: number for number, name in enumerate(name for name in _EVENTS if name != STEP_END)
}
_VALIDATION = [name for name in _EVENTS if name.startswith("on_validation_")]
# Where the loop waits for a checkpoint to be written.
_WRITING = ["on_checkpoint_write_end", "on_checkpoint_upload_end"]
# Called by the chief alone, or by processes that may have lost each other: slots cannot meet there.
_NOT_TOGETHER = {
    "on_checkpoint_save_start",
    "on_checkpoint_write_end",
    "on_exception",
    "on_trial_shutdown",
}
# Followed by a meeting of the processes in any case.
_AT_BATCHES = {
    "on_training_epoch_start",
    "on_training_batch_start",
    STEP_END,
    "on_training_batch_end",
    "on_training_epoch_end",
}
_MAX_CALLBACKS = 2**16


class Callbacks:
    """The callbacks of one trial in this process.

    Args:
        callbacks: What ``build_callbacks`` returned.
        generators: Set to (batch, event and callback) before each call.
        execution: Keeps the clock and the epochs.

    Raises:
        InvalidTrialError: It is no dictionary of names and callbacks, or a callback has a method
            for an event that there is not.
    """

    def __init__(self, callbacks: Any, generators: Generators, execution: Execution) -> None:
        self._callbacks = _checked(callbacks)
        self._generators = generators
        self._execution = execution
        # For each event the callbacks that do something: those that override the method.
        self._listeners: dict[str, list[tuple[int, str, Callable[..., None]]]] = {
            event: [
                (index, name, _adapted(getattr(callback, event), event))
                for index, (name, callback) in enumerate(self._callbacks.items())
                if getattr(type(callback), event) is not getattr(Callback, event)
            ]
            for event in _EVENTS
        }
        self._listens_to_starts = self.listen_to("on_training_epoch_start") or self.listen_to(
            "on_training_batch_start"
        )
        self._listens_to_ends = self.listen_to("on_training_epoch_end") or self.listen_to(
            "on_training_batch_end"
        )

    def listen_to(self, *events: str) -> bool:
        """Returns whether a callback does something at one of these events."""
        return any(self._listeners[event] for event in events)

    @property
    def listen_to_validation(self) -> bool:
        """Whether a validation must not be broken off: what its start did, its end may undo."""
        return self.listen_to(*_VALIDATION)

    @property
    def listen_to_writing(self) -> bool:
        """Whether the loop must wait for checkpoints to be written."""
        return self.listen_to(*_WRITING)

    @property
    def listen_to_boundaries(self) -> bool:
        """Whether a callback is called between batches, where it may ask for a stop."""
        return self.listen_to(
            "on_training_workload_end", *_VALIDATION, "on_checkpoint_save_start", *_WRITING
        )

    def call(self, event: str, *arguments: Any) -> None:
        """Calls every callback's method for an event.

        Raises:
            Exception: Whatever a callback raises, with a note that names it.
        """
        if not self._listeners[event]:
            return
        with self._speaking_for_slots(event):
            self._call_each(event, arguments, functools.partial(self._enter, event))
            if event not in _NOT_TOGETHER | _AT_BATCHES:
                self._execution.meet()

    def begin_batch(self, batch: int, epoch_length: int) -> None:
        """Calls what comes before a batch."""
        if self._listens_to_starts:
            epoch, batch_in_epoch = divmod(batch, epoch_length)
            if batch_in_epoch == 0:
                self.call("on_training_epoch_start", epoch)
            self.call("on_training_batch_start", batch)

    def end_batch(self, batch: int, epoch_length: int) -> None:
        """Calls what comes after a batch."""
        if self._listens_to_ends:
            self.call("on_training_batch_end", batch)
            epoch, batch_in_epoch = divmod(batch + 1, epoch_length)
            if batch_in_epoch == 0:
                self.call("on_training_epoch_end", epoch - 1)

    @property
    def listen_to_steps(self) -> bool:
        """Whether a callback is called after the steps of optimizers."""
        return self.listen_to(STEP_END)

    def end_step(
        self, optimizer: torch.optim.Optimizer, step_idx: int, batch: int, number: int
    ) -> None:
        """Calls what comes after a step of an optimizer, in the middle of a batch.

        Args:
            optimizer: What has stepped.
            step_idx: Its steps before that one, since the start of the trial.
            batch: The batch.
            number: The steps of all optimizers before that one, in the batch.
        """

        def enter(index: int) -> None:
            self._generators.enter(Stream.STEP_CALLBACK, batch, number * _MAX_CALLBACKS + index)

        # The slot that steps goes on drawing where it was.
        states = self._generators.save()
        with self._speaking_for_slots(STEP_END), torch.no_grad():
            self._call_each(STEP_END, (optimizer, step_idx), enter)
        self._generators.restore(states)

    @contextlib.contextmanager
    def failure_told(self) -> Iterator[None]:
        """Tells every callback when the block fails, and that it is the end."""
        try:
            yield
        except BaseException as error:
            is_users = isinstance(error, SlotError) and error.__cause__ is not None
            self.fail(error.__cause__ if is_users else error)  # type: ignore[arg-type]  # is there
            self.shut_down()
            raise

    def fail(self, exception: BaseException) -> None:
        """Tells every callback why training ended; none can hide that by failing itself."""
        self._call_all("on_exception", exception, reverse=False)

    def shut_down(self) -> None:
        """Tells every callback that the trial ends; one that fails keeps none from being told."""
        self._call_all("on_trial_shutdown", reverse=True)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Returns the state of each callback, by name."""
        return {name: callback.state_dict() for name, callback in self._callbacks.items()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Hands each callback its state.

        Raises:
            CheckpointError: The checkpoint has others than the trial.
        """
        missing = [name for name in self._callbacks if name not in states]
        extra = [name for name in states if name not in self._callbacks]
        if missing or extra:
            problems = [f"the checkpoint has no state of {name!r}" for name in missing]
            problems += [f"the trial has no {name!r}, whose state it holds" for name in extra]
            raise CheckpointError(
                f"The callbacks do not fit the checkpoint: {'; '.join(problems)}. Restore "
                "build_callbacks, or submit a new experiment."
            )
        for name, callback in self._callbacks.items():
            callback.load_state_dict(states[name])

    def _call_each(
        self, event: str, arguments: tuple[Any, ...], enter: Callable[[int], None]
    ) -> None:
        for index, name, method in self._listeners[event]:
            enter(index)
            try:
                method(*arguments)
            except BaseException as error:
                error.add_note(f"Raised by {event} of callback {name!r}.")
                raise

    def _call_all(self, event: str, *arguments: Any, reverse: bool) -> None:
        listeners = self._listeners[event]
        with self._speaking_for_slots(event):
            for index, name, method in reversed(listeners) if reverse else listeners:
                self._enter(event, index)
                try:
                    method(*arguments)
                except Exception:
                    logger.exception("%s of callback %r raised:", event, name)

    def _speaking_for_slots(self, event: str) -> contextlib.AbstractContextManager[None]:
        if event in _NOT_TOGETHER:
            return self._execution.as_first_slot()
        return self._execution.once_in_each_process(event)

    def _enter(self, event: str, index: int) -> None:
        minor = _EVENT_NUMBERS[event] * _MAX_CALLBACKS + index
        self._generators.enter(Stream.CALLBACK, self._execution.batches_completed, minor)


def _checked(callbacks: Any) -> dict[str, Callback]:
    if not isinstance(callbacks, dict):
        raise InvalidTrialError(
            f"build_callbacks returned {type_of(callbacks)}. Return a dictionary of names "
            "and trialrun.Callback objects; the names are those in checkpoints."
        )
    for name, callback in callbacks.items():
        if not isinstance(name, str) or not isinstance(callback, Callback):
            raise InvalidTrialError(
                f"build_callbacks returned {name!r}: {type(callback).__name__}. Names are strings, "
                "and callbacks are objects of classes that derive from trialrun.Callback."
            )
        _require_known_events(type(callback))
    if len(callbacks) >= _MAX_CALLBACKS:
        raise InvalidTrialError(f"{len(callbacks)} callbacks are more than {_MAX_CALLBACKS}.")
    return dict(callbacks)


def _require_known_events(cls: type[Callback]) -> None:
    """Refuses a method for an event that there is not: nothing would ever call it."""
    known = {*_EVENTS, *cls._further_events}
    for event in dir(cls):
        if event.startswith("on_") and event not in known and callable(getattr(cls, event)):
            raise InvalidTrialError(
                f"{cls.__name__}.{event} is never called: a Callback has no such event."
                f"{nearest_name(event, _EVENTS)} A method that the trial calls itself needs a name "
                "that does not begin with on_."
            )


def _adapted(method: Callable[..., None], event: str) -> Callable[..., None]:
    """Returns what can be called with the event's arguments.

    Raises:
        InvalidTrialError: The user's method does not take them.
    """
    expected = list(inspect.signature(getattr(Callback, event)).parameters)[1:]
    try:
        inspect.signature(method).bind(*expected)
    except TypeError as error:
        raise InvalidTrialError(
            f"{type(method.__self__).__name__}.{event} does not take the arguments "  # type: ignore[attr-defined]  # a bound method
            f"({', '.join(expected)}): {error}. Write: def {event}"
            f"({', '.join(['self', *expected])}): ..."
        ) from error
    return method
