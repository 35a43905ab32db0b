"""What training changes in a process as a whole, and how all of it is put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from trialrun.controller.engine.determinism import kept_determinism


@contextmanager
def kept_process_state(gpu: int) -> Iterator[None]:
    """Puts random generators, threads and settings of torch back when the block ends.

    Args:
        gpu: The GPU that the block will use, where there are any.
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    num_threads = torch.get_num_threads()
    has_gpu = torch.cuda.is_available()
    chosen_gpu = torch.cuda.current_device() if has_gpu else None
    gpu_state = torch.cuda.get_rng_state(gpu) if has_gpu else None
    try:
        with kept_determinism():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        torch.set_num_threads(num_threads)
        if chosen_gpu is not None and gpu_state is not None:
            torch.cuda.set_rng_state(gpu_state, gpu)
            torch.cuda.set_device(chosen_gpu)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Lets this thread compute with so many threads, which torch keeps for each thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
