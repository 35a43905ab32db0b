"""One signal asks to stop at the next boundary, a second Ctrl-C to stop now."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from trialrun.controller.launch.supervisor import Interruptions

PATIENCE_SECONDS = 60.0


class Watcher:
    """Counts the calls of an ``Interruptions`` and the thread that makes them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.threads: set[str] = set()
        self.stopped = threading.Event()
        self.killed = threading.Event()
        self.ticked = threading.Event()
        self.interruptions = Interruptions(
            on_stop=lambda: self._note("stop", self.stopped),
            on_kill=self._kill,
            on_tick=self.ticked.set,
        )

    def _note(self, name: str, event: threading.Event) -> None:
        self.calls.append(name)
        self.threads.add(threading.current_thread().name)
        event.set()

    def _kill(self) -> None:
        self._note("kill", self.killed)
        # As os._exit does it, nothing comes after this on the watching thread.
        raise SystemExit

    def tick(self) -> None:
        """Waits for a tick that began after this call."""
        for _ in range(2):
            self.ticked.clear()
            assert self.ticked.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_asks_to_stop_once(number: signal.Signals) -> None:
    watcher = Watcher()
    with watcher.interruptions.watched():
        os.kill(os.getpid(), number)
        assert watcher.stopped.wait(PATIENCE_SECONDS)
        watcher.tick()
    assert watcher.calls == ["stop"]
    # Never in the handler, which may interrupt a transaction.
    assert watcher.threads == {"attempt-watch"}


# The thread ends as os._exit would end the process; nobody else raises in it.
ends_its_thread = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@ends_its_thread
def test_second_ctrl_c_stops_now() -> None:
    watcher = Watcher()
    with watcher.interruptions.watched():
        os.kill(os.getpid(), signal.SIGINT)
        assert watcher.stopped.wait(PATIENCE_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)
        assert watcher.killed.wait(PATIENCE_SECONDS)
    assert watcher.calls == ["stop", "kill"]


@ends_its_thread
def test_ctrl_c_after_sigterm_stops_now() -> None:
    watcher = Watcher()
    with watcher.interruptions.watched():
        os.kill(os.getpid(), signal.SIGTERM)
        assert watcher.stopped.wait(PATIENCE_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)
        assert watcher.killed.wait(PATIENCE_SECONDS)
    assert watcher.calls == ["stop", "kill"]


def test_second_sigterm_asks_for_nothing_new() -> None:
    watcher = Watcher()
    with watcher.interruptions.watched():
        os.kill(os.getpid(), signal.SIGTERM)
        assert watcher.stopped.wait(PATIENCE_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        watcher.tick()
    assert watcher.calls == ["stop"]


def test_handlers_are_put_back_whatever_happens() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(ValueError, match="^inside$"), Watcher().interruptions.watched():
        assert all(
            signal.getsignal(number) != handler
            for number, handler in zip(numbers, before, strict=True)
        )
        raise ValueError("inside")
    assert [signal.getsignal(number) for number in numbers] == before
    assert not any(thread.name == "attempt-watch" for thread in threading.enumerate())


def test_last_tick_comes_after_the_end() -> None:
    watcher = Watcher()
    with watcher.interruptions.watched():
        watcher.tick()
        watcher.ticked.clear()
    # What was recorded just before the end is shown, too.
    assert watcher.ticked.is_set()
