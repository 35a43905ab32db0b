"""How many CPU cores there are for this process; apart from all that must load torch."""

from __future__ import annotations

import os


def num_cores() -> int:
    """Returns the cores on which this process may run."""
    return len(os.sched_getaffinity(0))
