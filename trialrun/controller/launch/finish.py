"""How training processes wait until all of them are done, and lose nothing when one is killed.

Torch's agent lets each process that is done wait on an event of ``multiprocessing``. That counts
who waits, in memory that all share; where one of them is killed meanwhile, the supervisor waits for
it to wake up, for ever.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import context
from multiprocessing.connection import Connection

START_METHOD = "trialrun-forkserver"
"""What torch's agent is told; ``multiprocessing`` knows it once this module is imported."""


class Finish:
    """An event, as far as torch's agent needs one: processes wait, the supervisor sets it.

    It is set by closing a pipe. So it is also set when the supervisor is no more.
    """

    def __init__(self) -> None:
        self._reader: Connection
        self._writer: Connection | None
        self._reader, self._writer = multiprocessing.Pipe(duplex=False)

    def set(self) -> None:
        """Lets all go who wait."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is set; returns whether it is.

        Args:
            timeout: In seconds; None: for ever.
        """
        return self._reader.poll(timeout)

    def __getstate__(self) -> Connection:
        return self._reader

    def __setstate__(self, reader: Connection) -> None:
        self._reader, self._writer = reader, None


class _Context(context.ForkServerContext):
    """The server's, with an event that survives the death of who waits."""

    def Event(self) -> Finish:  # type: ignore[override]  # noqa: N802 - the name is multiprocessing's
        return Finish()


# The only way to give the agent a context: it looks one up by its name.
context._concrete_contexts[START_METHOD] = _Context()  # type: ignore[attr-defined]
