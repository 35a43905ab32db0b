"""The bell reaches a training process at once, and goes dead with the supervisor."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

from trialrun.controller.launch.bell import Bell, BellListener


def report_what_is_heard(listener: BellListener, heard: Connection) -> None:
    while listener.wait():
        heard.send("rang")
    heard.send("dead")


def test_ring_is_heard_in_a_child_and_so_is_that_the_line_goes_dead() -> None:
    context = multiprocessing.get_context("forkserver")
    bell = Bell()
    ours, theirs = context.Pipe()
    child = context.Process(target=report_what_is_heard, args=(bell.listener, theirs))
    child.start()
    bell.ring()
    assert ours.recv() == "rang"
    bell.ring()
    assert ours.recv() == "rang"
    bell.hang_up()
    assert ours.recv() == "dead"
    child.join()
    assert child.exitcode == 0
    # There is nobody to hear it.
    bell.ring()
    bell.close()
