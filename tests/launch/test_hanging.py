"""Time without a beat adds up to a hang, and stacks come from processes that sit in C code."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from trialrun.controller.engine.parallel.slots import FoldedSlots
from trialrun.controller.launch.hanging import HangWatch, tell_stacks, write_stacks
from trialrun.controller.launch.heartbeats import Heartbeats

PATIENCE_SECONDS = 60.0
SPAWN = multiprocessing.get_context("forkserver")


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def looks(watch: HangWatch, clock: Clock, number: int) -> list[bool]:
    """Looks once a second."""
    answers = []
    for _ in range(number):
        clock.seconds += 1.0
        answers.append(watch.look())
    return answers


def test_a_trial_hangs_when_no_process_beats_for_the_time() -> None:
    heartbeats, clock = Heartbeats(2), Clock()
    watch = HangWatch(heartbeats, 3.0, clock)
    # Set-up may take its time.
    assert not any(looks(watch, clock, 10))
    heartbeats.beat(0, 4)
    # The first look finds the beat; then 3 seconds must be over.
    assert looks(watch, clock, 5) == [False, False, False, False, True]
    heartbeats.beat(1, 5)
    assert looks(watch, clock, 2) == [False, False]


def test_one_process_that_beats_is_enough() -> None:
    heartbeats, clock = Heartbeats(2), Clock()
    watch = HangWatch(heartbeats, 3.0, clock)
    for number in range(10):
        heartbeats.beat(number % 2, number)
        assert not any(looks(watch, clock, 2))


def test_null_is_for_ever() -> None:
    heartbeats, clock = Heartbeats(1), Clock()
    watch = HangWatch(heartbeats, None, clock)
    heartbeats.beat(0, 1)
    assert not any(looks(watch, clock, 1000))


def test_time_in_which_the_supervisor_itself_stood_still_does_not_count() -> None:
    heartbeats, clock = Heartbeats(1), Clock()
    watch = HangWatch(heartbeats, 10.0, clock)
    heartbeats.beat(0, 1)
    assert looks(watch, clock, 1) == [False]
    clock.seconds += 3600.0
    # 2 seconds of the hour count, and 1 for each look since.
    assert looks(watch, clock, 9) == [False] * 9
    assert looks(watch, clock, 1) == [True]


def beat_in_child(heartbeats: Heartbeats) -> None:
    heartbeats.beat(1, 40)
    heartbeats.beat(1, 41)


def test_beats_of_another_process_are_seen() -> None:
    heartbeats = Heartbeats(3)
    assert (heartbeats.total, heartbeats.batches) == (0, None)
    child = SPAWN.Process(target=beat_in_child, args=(heartbeats,))
    child.start()
    child.join(PATIENCE_SECONDS)
    assert (heartbeats.total, heartbeats.batches) == (2, 41)
    heartbeats.beat(0, 39)
    heartbeats.close()
    # The third has not begun, and does not count.
    assert (heartbeats.total, heartbeats.batches) == (3, 39)


class NoLocals:
    def enter(self, slot: int) -> None:
        pass

    def leave(self, slot: int, finished: bool) -> None:
        pass


def stand_still_in_c_code(log: Path, ready: Connection) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)
    tell_stacks()
    lock = threading.Lock()
    lock.acquire()

    def stuck_here(slot: int) -> None:
        if slot == 5:
            ready.send("ready")
            lock.acquire()

    FoldedSlots(range(4, 6), NoLocals(), lambda: None).run(stuck_here)


def test_stacks_of_all_slots_are_written_and_the_process_lives_on(tmp_path: Path) -> None:
    log = tmp_path / "process-0.log"
    receiver, sender = SPAWN.Pipe(duplex=False)
    child = SPAWN.Process(target=stand_still_in_c_code, args=(log, sender), daemon=True)
    child.start()
    assert receiver.poll(PATIENCE_SECONDS)
    assert child.pid is not None
    write_stacks([child.pid], [log])
    assert child.is_alive()
    child.kill()
    child.join(PATIENCE_SECONDS)
    threads = log.read_text(encoding="utf-8").split("\n\n")
    # By thread: the main one, which waits, and the slots; each bottom line has the slot's name.
    by_name = {
        name: text
        for text in threads
        for name in ("slot_4", "slot_5")
        if f" in {name}\n" in f"{text}\n"
    }
    assert sorted(by_name) == ["slot_4", "slot_5"]
    assert " in stuck_here\n" in by_name["slot_5"]
    assert " in stuck_here\n" not in by_name["slot_4"]
    assert any(" in _wait_until_idle\n" in text for text in threads)


def test_a_process_that_is_gone_writes_nothing_and_holds_up_nobody(tmp_path: Path) -> None:
    child = SPAWN.Process(target=time.sleep, args=(0,))
    child.start()
    child.join(PATIENCE_SECONDS)
    assert child.pid is not None
    log = tmp_path / "process-0.log"
    log.write_text("It printed this.\n", encoding="utf-8")
    write_stacks([child.pid], [log])
    assert log.read_text(encoding="utf-8") == "It printed this.\n"
