"""Answers that cost much are kept, up to a number of bytes; the one read longest ago goes first."""

from __future__ import annotations

import threading
from typing import Any, Generic, TypeVar

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


class Kept(Generic[KeyT, ValueT]):
    """A mapping that forgets, for what can be computed again at any time.

    The newest value is kept whatever its size. Any number of threads may use it. A copy in another
    process begins empty: to compute again is cheaper than to send.

    Args:
        max_bytes: What all values but the newest may take together with it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        # key -> (value, its bytes), the one read longest ago first.
        self._values: dict[KeyT, tuple[ValueT, int]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._max_bytes,)

    def get(self, key: KeyT) -> ValueT | None:
        """Returns a value, or None where it was never put or is forgotten."""
        with self._lock:
            entry = self._values.pop(key, None)
            if entry is None:
                return None
            self._values[key] = entry
            return entry[0]

    def make_room(self, size_bytes: int) -> None:
        """Forgets as much as a value of that size needs, before it is computed."""
        with self._lock:
            self._make_room(size_bytes)

    def put(self, key: KeyT, value: ValueT, size_bytes: int) -> None:
        """Keeps a value."""
        with self._lock:
            self._values.pop(key, None)
            self._make_room(size_bytes)
            self._values[key] = (value, size_bytes)

    def _make_room(self, size_bytes: int) -> None:
        total = size_bytes + sum(size for _, size in self._values.values())
        while self._values and total > self._max_bytes:
            total -= self._values.pop(next(iter(self._values)))[1]
