"""A profiler from torch that sees every slot, and leaves its traces beside TensorBoard's events."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)


def make_profiler(path: Path, *args: Any, **kwargs: Any) -> torch.profiler.profile:
    """Returns a profiler that has not started.

    Args:
        path: The folder for its traces, unless ``on_trace_ready`` is given.
        args: Positional arguments of ``torch.profiler.profile``.
        kwargs: Its keyword arguments.
    """
    kwargs.setdefault("on_trace_ready", torch.profiler.tensorboard_trace_handler(str(path)))
    if "experimental_config" not in kwargs:
        kwargs["experimental_config"] = _all_threads()
    return torch.profiler.profile(*args, **kwargs)


def _all_threads() -> Any:
    """Returns the setting that shows the slots of a process, each of which has its own thread."""
    try:
        return torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    except TypeError:
        logger.warning(
            "torch %s profiles only the main thread: operations of slots that share a process are "
            "missing. Take a newer torch, or as many processes as slots.",
            torch.__version__,
        )
        return None
