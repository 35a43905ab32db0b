from __future__ import annotations

import decimal
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from trialrun import InvalidTrialError
from trialrun.controller.engine.parallel.slots import (
    FoldedSlots,
    SingleSlot,
    SlotError,
    Slots,
    make_slots,
    thread_preparation,
)

Log = list[Any]


class RecordingLocals:
    """Writes down whose things are installed and kept."""

    def __init__(self) -> None:
        self.log: Log = []
        self.fail_at: int | None = None

    def enter(self, slot: int) -> None:
        if slot == self.fail_at:
            raise ValueError("nothing to install")
        self.log.append(("enter", slot))

    def leave(self, slot: int, finished: bool) -> None:
        self.log.append(("leave", slot, finished))


@pytest.fixture
def local() -> RecordingLocals:
    return RecordingLocals()


def folded(slots: range, local: RecordingLocals) -> FoldedSlots:
    return FoldedSlots(slots, local, lambda: torch.set_num_threads(1))


def test_slots_find_what_the_trial_has_set_for_its_thread(local: RecordingLocals) -> None:
    seen = []

    def look(slot: int) -> None:
        made_on = torch.zeros(1).device.type
        seen.append((slot, np.geterr()["over"], decimal.getcontext().prec, made_on))

    with np.errstate(over="raise"), decimal.localcontext(prec=7), torch.device("meta"):
        prepare_thread = thread_preparation(torch.device("cpu"), 1)
        slots = FoldedSlots(range(2), local, prepare_thread)
        slots.run(look)
    slots.close()
    assert seen == [(0, "raise", 7, "meta"), (1, "raise", 7, "meta")]


MAKERS: dict[str, Callable[[RecordingLocals], Slots]] = {
    "single": lambda local: SingleSlot(range(3, 4)),
    "two": lambda local: folded(range(0, 2), local),
    "three": lambda local: folded(range(3, 6), local),
}


@pytest.fixture(params=MAKERS)
def slots(request: pytest.FixtureRequest, local: RecordingLocals) -> Iterator[Slots]:
    made = MAKERS[request.param](local)
    yield made
    made.close()


@pytest.fixture
def three(local: RecordingLocals) -> Iterator[FoldedSlots]:
    made = folded(range(3, 6), local)
    yield made
    made.close()


# What both promise.


def test_results_come_in_slot_order_and_slots_run_in_turn(slots: Slots) -> None:
    log: Log = []

    def task(slot: int) -> str:
        log.append((slot, slots.current))
        return f"result {slot}"

    for _ in range(2):
        assert slots.run(task) == [f"result {slot}" for slot in slots.numbers]
    assert log == [(slot, slot) for slot in slots.numbers] * 2


def test_slots_meet_and_the_action_is_done_once(slots: Slots) -> None:
    log: Log = []

    def task(slot: int) -> None:
        for meeting in ("first", "second"):
            log.append(f"{meeting} by {slot}")
            slots.meet(meeting, lambda meeting=meeting: log.append(meeting))
            assert slots.current == slot
        log.append(f"end of {slot}")

    expected: Log = []
    for meeting in ("first", "second"):
        expected += [f"{meeting} by {slot}" for slot in slots.numbers] + [meeting]
    expected += [f"end of {slot}" for slot in slots.numbers]
    for _ in range(2):
        log.clear()
        slots.run(task)
        assert log == expected


def test_an_exception_names_the_slot_and_the_next_batch_works(slots: Slots) -> None:
    for failing in slots.numbers:

        def task(slot: int, failing: int = failing) -> int:
            if slot == failing:
                raise ZeroDivisionError("mine")
            return slot

        with pytest.raises(SlotError, match=f"^slot {failing}$") as caught:
            slots.run(task)
        assert caught.value.slot == slots.current == failing
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert slots.run(lambda slot: slot) == list(slots.numbers)


def test_an_exit_is_an_exception_of_its_slot(slots: Slots) -> None:
    with pytest.raises(SlotError) as caught:
        slots.run(lambda slot: sys.exit(3))
    assert caught.value.slot == slots.numbers[0]
    assert isinstance(caught.value.__cause__, SystemExit)
    assert slots.run(lambda slot: slot) == list(slots.numbers)


def test_an_exception_releases_the_slots_that_wait(slots: Slots) -> None:
    last = slots.numbers[-1]
    log: Log = []

    def task(slot: int) -> None:
        try:
            if slot == last:
                raise ZeroDivisionError
            slots.meet("step", lambda: log.append("acted"))
            log.append("went on")
        finally:
            log.append(("unwound", slot, slots.current))

    with pytest.raises(SlotError) as caught:
        slots.run(task)
    assert caught.value.slot == slots.current == last
    assert sorted(log) == [("unwound", slot, slot) for slot in slots.numbers]
    assert slots.run(lambda slot: slot) == list(slots.numbers)


def test_an_exception_after_a_meeting_names_its_slot(slots: Slots) -> None:
    first = slots.numbers[0]

    def task(slot: int) -> None:
        slots.meet("step", lambda: None)
        if slot == first:
            raise ZeroDivisionError

    with pytest.raises(SlotError) as caught:
        slots.run(task)
    assert caught.value.slot == first
    assert slots.run(lambda slot: slot) == list(slots.numbers)


def test_an_exception_of_the_action_is_the_last_slots(slots: Slots) -> None:
    def action() -> None:
        raise ZeroDivisionError

    with pytest.raises(SlotError) as caught:
        slots.run(lambda slot: slots.meet("step", action))
    assert caught.value.slot == slots.numbers[-1]
    assert slots.run(lambda slot: slot) == list(slots.numbers)


@pytest.mark.parametrize("error", [InvalidTrialError("rule"), KeyboardInterrupt()])
def test_errors_of_trialrun_and_interrupts_go_on_as_they_are(slots: Slots, error: Any) -> None:
    def task(slot: int) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        slots.run(task)
    assert caught.value is error
    assert slots.run(lambda slot: slot) == list(slots.numbers)


# What only several slots in one process have to promise.


def test_slots_that_step_unequally_are_named(three: FoldedSlots) -> None:
    rule = (
        "Every slot must call step_optimizer equally often and in the same order; do not make it "
        "depend on a slot's own records."
    )

    def skip(*skipping: int) -> Callable[[int], None]:
        return lambda slot: None if slot in skipping else three.meet("step A", lambda: None)

    def message(task: Callable[[int], None]) -> str:
        with pytest.raises(InvalidTrialError) as caught:
            three.run(task)
        assert three.run(lambda slot: slot) == [3, 4, 5]
        return str(caught.value)

    prefix = "The slots of one batch took different steps: "
    assert message(skip(5)) == (
        f"{prefix}slots 3, 4 called step A; slot 5 finished the batch. {rule}"
    )
    assert message(skip(3)) == (
        f"{prefix}slot 3 finished the batch; slots 4, 5 called step A. {rule}"
    )
    assert message(skip(3, 5)) == (
        f"{prefix}slots 3, 5 finished the batch; slot 4 called step A. {rule}"
    )
    assert message(lambda slot: three.meet(f"step {slot % 2}", lambda: None)) == (
        f"{prefix}slots 3, 5 called step 1; slot 4 called step 0. {rule}"
    )

    def twice(slot: int) -> None:
        three.meet("step A", lambda: None)
        if slot == 4:
            three.meet("step B", lambda: None)

    assert message(twice) == (
        f"{prefix}slots 3, 5 finished the batch; slot 4 called step B. {rule}"
    )


def test_what_a_slot_has_is_swapped_with_the_baton(
    three: FoldedSlots, local: RecordingLocals
) -> None:
    three.run(lambda slot: three.meet("step", lambda: local.log.append("act")))
    assert local.log == [
        ("enter", 3),
        ("leave", 3, False),
        ("enter", 4),
        ("leave", 4, False),
        ("enter", 5),
        "act",
        ("leave", 5, False),
        *[event for slot in (3, 4, 5) for event in (("enter", slot), ("leave", slot, True))],
    ]


def test_a_failing_swap_is_an_error_and_no_hang(three: FoldedSlots, local: RecordingLocals) -> None:
    local.fail_at = 4
    with pytest.raises(SlotError) as caught:
        three.run(lambda slot: three.meet("step", lambda: None))
    assert caught.value.slot == 4
    local.fail_at = None
    assert three.run(lambda slot: slot) == [3, 4, 5]


def test_modes_of_one_slot_do_not_leak_into_another(three: FoldedSlots) -> None:
    seen: Log = []

    def task(slot: int) -> None:
        seen.append((slot, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        if slot == 3:
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                three.meet("step", lambda: None)
                seen.append((slot, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        else:
            three.meet("step", lambda: None)
        seen.append((slot, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))

    three.run(task)
    plain = [(slot, True, False) for slot in (3, 4, 5)]
    assert seen == [*plain, (3, False, True), *plain]
    assert torch.is_grad_enabled()


def slot_threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("slot-")}


def test_threads_live_from_the_first_batch_to_the_close() -> None:
    made = folded(range(3), RecordingLocals())
    assert slot_threads() == set()
    made.run(lambda slot: slot)
    assert slot_threads() == {"slot-0", "slot-1", "slot-2"}
    made.close()
    assert slot_threads() == set()
    made.close()


def test_threads_end_on_close_after_a_failure() -> None:
    made = folded(range(3), RecordingLocals())
    with pytest.raises(SlotError):
        made.run(lambda slot: made.meet("step", lambda: None) if slot < 2 else 1 / 0)
    made.close()
    assert slot_threads() == set()


class InterruptedWait(threading.Event):
    """Lets the calling thread be interrupted once at a chosen moment, as Ctrl-C does."""

    def __init__(self) -> None:
        super().__init__()
        self.moment = threading.Event()
        self.is_to_come = True

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_to_come:
            return super().wait(timeout)
        self.moment.wait()
        self.is_to_come = False
        raise KeyboardInterrupt


MOMENTS = [
    *[("before", slot) for slot in range(3)],
    *[("leave at the meeting", slot) for slot in range(3)],
    *[("after", slot) for slot in range(3)],
    *[("leave at the end", slot) for slot in range(3)],
    ("idle", 2),
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interruption_at_any_moment_unwinds_all_slots(moment: tuple[str, int]) -> None:
    wait = InterruptedWait()

    def pass_moment(name: str, slot: int) -> None:
        if (name, slot) == moment and wait.is_to_come:
            wait.moment.set()
            while made._interruption is None:
                time.sleep(0.0005)

    class Locals(RecordingLocals):
        def leave(self, slot: int, finished: bool) -> None:
            pass_moment("leave at the end" if finished else "leave at the meeting", slot)

    def task(slot: int) -> int:
        pass_moment("before", slot)
        made.meet("step", lambda: None)
        pass_moment("after", slot)
        return slot

    made = folded(range(3), Locals())
    if moment == ("idle", 2):
        # All is done, and nobody will wake the calling thread again.
        wait.set = lambda: (threading.Event.set(wait), wait.moment.set())  # type: ignore[method-assign,assign]
    made._idle = wait
    with pytest.raises(KeyboardInterrupt):
        made.run(task)
    assert made.run(task) == [0, 1, 2]
    made.close()
    assert slot_threads() == set()


def test_a_signal_that_the_system_hands_to_a_slots_thread_is_heard() -> None:
    heard = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.set())
    slots = folded(range(2), RecordingLocals())

    def task(slot: int) -> bool:
        if slot == 0:
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        # Its handler runs in the main thread, which waits for this one.
        return heard.wait(timeout=30)

    try:
        assert slots.run(task) == [True, True]
    finally:
        slots.close()
        signal.signal(signal.SIGUSR1, before)


def test_one_slot_needs_no_thread() -> None:
    before = threading.active_count()
    made = make_slots(range(2, 3), RecordingLocals(), lambda: None)
    assert isinstance(made, SingleSlot)
    assert threading.active_count() == before


def test_each_slot_computes_with_the_threads_it_was_given() -> None:
    prepare_thread = thread_preparation(torch.device("cpu"), 3)
    made = make_slots(range(2), RecordingLocals(), prepare_thread)
    try:
        assert made.run(lambda slot: torch.get_num_threads()) == [3, 3]
    finally:
        made.close()
