"""Reads what training processes print, also while they are still printing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trialrun.controller.bookkeeping import LogFileRow

_POLL_SECONDS = 0.1


class LogTail:
    """The lines of one process's log file that have not been read yet.

    Args:
        row: The record of the file; the file itself may not exist yet.
    """

    def __init__(self, row: LogFileRow) -> None:
        self.process = row.process
        self._path = Path(row.path)
        self._position = 0

    def new_lines(self, at_end: bool = False) -> list[str]:
        """Returns lines that are complete since the last call.

        Args:
            at_end: Whether nothing more is written, so that a last line without an end counts.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return []
        # A process may be in the middle of a character: only whole lines are decoded.
        whole = len(data) if at_end else data.rfind(b"\n") + 1
        self._position += whole
        return data[:whole].decode("utf-8", errors="replace").splitlines()


def follow(
    rows: Sequence[LogFileRow], is_running: Callable[[], bool]
) -> Iterator[tuple[LogFileRow, str]]:
    """Iterates over all lines, and over further ones as they come while something runs.

    Args:
        rows: The log files, in the order in which they are read.
        is_running: Whether more may come.
    """
    tails = [(row, LogTail(row)) for row in rows]
    while True:
        running = is_running()
        for row, tail in tails:
            for line in tail.new_lines(at_end=not running):
                yield row, line
        if not running:
            return
        time.sleep(_POLL_SECONDS)
