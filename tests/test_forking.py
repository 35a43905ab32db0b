"""A process is not forked in the middle of another thread's import."""

from __future__ import annotations

import os
import threading

from trialrun._forking import no_fork


def test_a_fork_waits_for_the_end_of_the_block() -> None:
    events: list[str] = []
    begun, may_end = threading.Event(), threading.Event()

    def import_slowly() -> None:
        with no_fork():
            begun.set()
            may_end.wait()
            events.append("imported")

    thread = threading.Thread(target=import_slowly)
    thread.start()
    begun.wait()
    threading.Timer(0.1, may_end.set).start()
    pid = os.fork()
    events.append("forked")
    if pid == 0:
        with no_fork():  # in the child nobody has it
            os._exit(len(events))
    _, status = os.waitpid(pid, 0)
    thread.join()
    assert events == ["imported", "forked"]
    assert os.waitstatus_to_exitcode(status) == 2


def test_the_thread_itself_may_fork() -> None:
    with no_fork():
        pid = os.fork()
        if pid == 0:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
