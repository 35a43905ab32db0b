"""A trial is alive exactly as long as the kernel holds its lock."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from trialrun.controller.launch.lock import TrialLock

PATIENCE_SECONDS = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trials" / "1" / "lock"


def take(path: Path) -> TrialLock:
    lock = TrialLock.take(path)
    assert lock is not None
    return lock


def is_free(path: Path) -> bool:
    lock = TrialLock.take(path)
    if lock is not None:
        lock.release()
    return lock is not None


def hold_until_told(lock: TrialLock, connection: Connection) -> None:
    connection.send("held")
    connection.recv()
    lock.release()
    connection.send("released")
    connection.recv()


@pytest.fixture
def child(path: Path) -> Iterator[tuple[TrialLock, BaseProcess, Connection]]:
    """This process's lock, and a child to which it was handed as to a training process."""
    lock = take(path)
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold_until_told, args=(lock, theirs))
    process.start()
    assert ours.recv() == "held"
    yield lock, process, ours
    process.kill()
    process.join()


def test_lock_is_taken_once(path: Path) -> None:
    lock = take(path)
    assert TrialLock.take(path) is None
    lock.release()
    assert is_free(path)


def test_lock_file_and_its_folder_are_made(path: Path) -> None:
    take(path).release()
    assert path.is_file()


def test_locks_of_two_trials_are_apart(tmp_path: Path) -> None:
    first = take(tmp_path / "1" / "lock")
    assert is_free(tmp_path / "2" / "lock")
    first.release()


def test_take_waits_for_a_lock_that_is_released(path: Path) -> None:
    lock = take(path)
    with pytest.MonkeyPatch.context() as patch:
        # The holder lets go while the taker waits for its next try.
        patch.setattr(time, "sleep", lambda seconds: lock.release())
        second = TrialLock.take(path, wait_seconds=PATIENCE_SECONDS)
    assert second is not None
    second.release()


def test_lock_stays_until_the_last_holder_lets_go(
    path: Path, child: tuple[TrialLock, BaseProcess, Connection]
) -> None:
    lock, _, connection = child
    lock.release()
    assert not is_free(path)
    connection.send("go")
    assert connection.recv() == "released"
    assert is_free(path)


def test_lock_stays_with_its_owner_when_a_child_lets_go(
    path: Path, child: tuple[TrialLock, BaseProcess, Connection]
) -> None:
    lock, _, connection = child
    connection.send("go")
    assert connection.recv() == "released"
    assert not is_free(path)
    lock.release()
    assert is_free(path)


def test_lock_ends_with_a_killed_process(
    path: Path, child: tuple[TrialLock, BaseProcess, Connection]
) -> None:
    lock, process, _ = child
    lock.release()
    assert process.pid is not None
    assert not is_free(path)
    os.kill(process.pid, signal.SIGKILL)
    process.join(PATIENCE_SECONDS)
    assert is_free(path)


def keep_from_grandchild(lock: TrialLock, connection: Connection) -> None:
    lock.keep_from_children()
    grandchild = multiprocessing.get_context("fork").Process(target=signal.pause)
    grandchild.start()
    connection.send(grandchild.pid)
    os._exit(0)


def test_loader_workers_do_not_hold_the_lock(path: Path) -> None:
    lock = take(path)
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=keep_from_grandchild, args=(lock, theirs))
    process.start()
    grandchild = ours.recv()
    process.join(PATIENCE_SECONDS)
    lock.release()
    try:
        os.kill(grandchild, 0)  # it lives, and the lock is free all the same
        second = TrialLock.take(path, wait_seconds=PATIENCE_SECONDS)
        assert second is not None
        second.release()
    finally:
        os.kill(grandchild, signal.SIGKILL)
