"""Executes one function for each slot of this process, one slot at a time, with meeting points.

A function that calls ``step_optimizer`` in its middle must wait there until every other slot has
come as far. So each folded slot runs in a thread of its own, and the threads hand on one baton:
slot 0 runs to its first meeting, then slot 1, ..., the last slot takes the step for all, then slot
0 goes on. Two slots never run at once. Threads rather than coroutines, because torch keeps grad
mode and autocast for each thread: a slot that waits inside ``with torch.autocast(...)`` must not
change how the next one computes.
"""

from __future__ import annotations

import abc
import contextvars
import threading
from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

import torch

from trialrun._errors import TrialrunError
from trialrun.controller.engine.parallel.meetings import unequal_steps

T = TypeVar("T")
P = ParamSpec("P")

_HEAR_SIGNALS_SECONDS = 0.5


class SlotError(Exception):
    """User code raised in one slot; the cause is the user's exception."""

    def __init__(self, slot: int) -> None:
        super().__init__(f"slot {slot}")
        self.slot = slot


class SlotLocals(Protocol):
    """What each slot has for itself, installed while it holds the baton."""

    def enter(self, slot: int) -> None:
        """Installs what the slot left."""

    def leave(self, slot: int, finished: bool) -> None:
        """Keeps what the slot has, if only for after the batch where it has finished that."""


class Slots(abc.ABC):
    """The slots that this process executes: a half-open range of all S slots."""

    def __init__(self, slots: range) -> None:
        self.numbers = slots

    @property
    @abc.abstractmethod
    def current(self) -> int:
        """The slot that is executing."""

    @abc.abstractmethod
    def run(self, task: Callable[[int], T]) -> list[T]:
        """Calls ``task(slot)`` for every slot and returns the results in slot order.

        Raises:
            SlotError: A task raised; the exception is its cause.
            InvalidTrialError: Some slots met and others did not.
        """

    @abc.abstractmethod
    def meet(self, label: str, action: Callable[[], None]) -> None:
        """Called from within a task: waits for all slots of the process, then acts once.

        Args:
            label: What the slots meet for; it must be the same for all.
            action: Called once, by the last slot that arrives.
        """

    def close(self) -> None:  # noqa: B027 - one slot has nothing to close
        """Ends the threads, if there are any."""


class SingleSlot(Slots):
    """One slot in this process: no threads, nothing to wait for."""

    def __init__(self, slots: range) -> None:
        super().__init__(slots)
        (self._slot,) = slots

    @property
    def current(self) -> int:
        """The one slot."""
        return self._slot

    def run(self, task: Callable[[int], T]) -> list[T]:
        """Calls the task for the one slot."""
        try:
            return [task(self._slot)]
        except TrialrunError:
            raise
        except (Exception, SystemExit) as error:
            raise SlotError(self._slot) from error

    def meet(self, label: str, action: Callable[[], None]) -> None:
        """Acts at once."""
        action()


class _Abandoned(BaseException):
    """Unwinds a slot that waits at a meeting when another slot has failed."""


class FoldedSlots(Slots):
    """Several slots in this process, one thread each, one baton.

    Args:
        slots: The slots to execute.
        local: What is swapped when the baton goes on.
        prepare_thread: Called once in each slot's thread before anything runs in it.
    """

    def __init__(self, slots: range, local: SlotLocals, prepare_thread: Callable[[], None]) -> None:
        super().__init__(slots)
        self._local = local
        self._prepare_thread = prepare_thread
        self._current = slots.start
        self._turns = [threading.Semaphore(0) for _ in slots]
        # An event: after an interruption it may be waited for once more.
        self._idle = threading.Event()
        # Apart from the one above, for which the calling thread waits all the while.
        self._unwound = threading.Semaphore(0)
        self._task: Callable[[int], object] | None = None
        self._results: list[object] = []
        # For each slot: the label of the meeting at which it waits, or None when it has finished.
        self._waiting_for: list[str | None] = []
        self._failure: BaseException | None = None
        # What ended the wait of the calling thread, such as Ctrl-C; slots give way to it.
        self._interruption: BaseException | None = None
        self._threads: list[threading.Thread] = []

    @property
    def current(self) -> int:
        """The slot that holds the baton, or held it last."""
        return self._current

    def run(self, task: Callable[[int], T]) -> list[T]:
        """Runs the task in every slot's thread; this thread waits."""
        self._task = task
        results: list[T | None] = [None] * len(self.numbers)
        self._results = results  # type: ignore[assignment]  # one list, filled by the threads
        self._waiting_for = [None] * len(self.numbers)
        self._failure = None
        if not self._threads:
            self._start_threads()
        self._interruption = None
        self._idle.clear()
        self._turns[0].release()
        try:
            self._wait_until_idle()
        except BaseException as interruption:  # Ctrl-C, in the main thread of a script
            # The slot that computes comes to its end, or to a meeting; then all unwind.
            self._interruption = interruption
            self._wait_until_idle()
            raise
        if self._failure is not None:
            raise self._failure
        return results  # type: ignore[return-value]  # every slot has put in its result

    def meet(self, label: str, action: Callable[[], None]) -> None:
        """Hands the baton on; the last slot acts, and the first goes on after that."""
        self._give_way()
        index = self._current - self.numbers.start
        self._waiting_for[index] = label
        if index == len(self.numbers) - 1:
            self._require_all_at(label)
            action()
        self._local.leave(self._current, finished=False)
        self._turns[(index + 1) % len(self.numbers)].release()
        self._wait_for_turn(index)
        if self._failure is not None:
            raise _Abandoned
        self._give_way()
        self._waiting_for[index] = None
        self._local.enter(self._current)

    def close(self) -> None:
        """Ends the threads."""
        self._task = None
        for index, thread in enumerate(self._threads):
            self._turns[index].release()
            thread.join()
        self._threads = []

    def _wait_until_idle(self) -> None:
        # Only the main thread runs signal handlers, and the system may hand a signal to another
        # one, which does not wake it.
        while not self._idle.wait(_HEAR_SIGNALS_SECONDS):
            pass

    def _start_threads(self) -> None:
        # Not before the first batch: a trial that is refused while it is set up leaves none behind.
        self._threads = [
            threading.Thread(
                target=in_present_context(_named(f"slot_{slot}", self._serve)),
                args=(index,),
                name=f"slot-{slot}",
                daemon=True,
            )
            for index, slot in enumerate(self.numbers)
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self, index: int) -> None:
        self._prepare_thread()
        while True:
            self._turns[index].acquire()
            if self._task is None:
                return
            self._run_task(index, self._task)

    def _run_task(self, index: int, task: Callable[[int], object]) -> None:
        self._current = slot = self.numbers[index]
        try:
            self._give_way()
            self._local.enter(slot)
            self._results[index] = task(slot)
            if index == len(self.numbers) - 1:
                self._require_all_at(None)
            self._local.leave(slot, finished=True)
        except _Abandoned:
            self._unwound.release()
            return
        except TrialrunError as error:
            self._failure = error
        except (Exception, SystemExit) as error:
            self._failure = SlotError(slot)
            self._failure.__cause__ = error
        except BaseException as error:  # such as KeyboardInterrupt: as with one slot, it goes on
            self._failure = error
        if self._failure is not None:
            self._abandon_others(index)
            self._idle.set()
        elif index == len(self.numbers) - 1:
            self._idle.set()
        else:
            self._turns[index + 1].release()

    def _give_way(self) -> None:
        if self._interruption is not None:
            raise self._interruption

    def _abandon_others(self, failed: int) -> None:
        """Unwinds the slots that wait at a meeting, one at a time, so that none waits for ever."""
        for index, label in enumerate(self._waiting_for):
            if label is not None and index != failed:
                self._current = self.numbers[index]
                self._turns[index].release()
                self._unwound.acquire()
        self._current = self.numbers[failed]

    def _wait_for_turn(self, index: int) -> None:
        self._turns[index].acquire()
        self._current = self.numbers[index]

    def _require_all_at(self, label: str | None) -> None:
        by_label: dict[str | None, list[int]] = {}
        for slot, waits_for in zip(self.numbers, self._waiting_for, strict=True):
            by_label.setdefault(waits_for, []).append(slot)
        if list(by_label) == [label]:
            return
        raise unequal_steps(by_label)


def _named(name: str, function: Callable[[int], None]) -> Callable[[int], None]:
    """Returns a function that every stack shows by this name, also one that C code writes."""

    def run(index: int) -> None:
        function(index)

    run.__code__ = run.__code__.replace(co_name=name)
    return run


def in_present_context(function: Callable[P, None]) -> Callable[P, None]:
    """Returns a function for a new thread that finds there what the trial has set in this one.

    Settings of torch's compiler, ``numpy.seterr`` and the precision of ``decimal`` are context
    variables, which a new thread has not.
    """
    context = contextvars.copy_context()

    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        context.run(function, *args, **kwargs)

    return run


def thread_preparation(device: torch.device, num_threads: int) -> Callable[[], None]:
    """Returns what a new thread calls first: settings that belong to a thread, not the process.

    Called where the trial has been made, which may have said where torch makes tensors.
    """
    default_device = torch.get_default_device()

    def prepare_thread() -> None:
        torch.set_num_threads(num_threads)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # Once set it costs something at every operation.
        if torch.get_default_device() != default_device:
            torch.set_default_device(default_device)

    return prepare_thread


def make_slots(slots: range, local: SlotLocals, prepare_thread: Callable[[], None]) -> Slots:
    """Returns the way to execute these slots in this process."""
    if len(slots) == 1:
        return SingleSlot(slots)
    return FoldedSlots(slots, local, prepare_thread)
