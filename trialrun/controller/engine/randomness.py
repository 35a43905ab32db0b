"""Sets the generators of torch, numpy and ``random`` to an address, so that no state is carried.

An address is (seed, stream, major, minor): which four random words belong to it is a pure function
(``trialrun.samplers.addresses``). Two runs that reach the same batch and slot draw the same
numbers, whatever either did before.
"""

from __future__ import annotations

import _random
import contextlib
import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from trialrun.samplers.addresses import AddressBook, Stream

# The generator behind the functions of the ``random`` module.
_PYTHON_GENERATOR: Any = random.seed.__self__  # type: ignore[attr-defined]  # a bound method


@dataclasses.dataclass(frozen=True, slots=True)
class GeneratorStates:
    """Where the generators stand in the middle of an address's numbers."""

    torch_cpu: torch.Tensor
    torch_device: torch.Tensor | None
    numpy: Any
    python: Any


class Generators:
    """The process's default generators, set to addresses of one trial's seed.

    Args:
        seed: The trial's seed.
        device: The device whose default generator is set too, when it is not the CPU.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._books = {stream: AddressBook(seed, stream) for stream in Stream}
        self._device_generator = _device_generator(device)

    def enter(self, stream: Stream, major: int, minor: int = 0) -> None:
        """Sets all generators to the beginning of an address.

        Args:
            stream: Which of the trial's random streams.
            major: The batch, or 0.
            minor: The slot, or 0.
        """
        torch_word, device_word, numpy_word, python_word = self._books[stream].words(major, minor)
        # The generators themselves: torch.manual_seed also walks over every backend (200 us).
        torch.default_generator.manual_seed(torch_word)
        if self._device_generator is not None:
            self._device_generator.manual_seed(device_word)
        # 32 bits: an array of words takes numpy five times as long (9 us).
        np.random.seed(numpy_word & 0xFFFFFFFF)
        # What random.seed does with an integer, without its tests for other types.
        _random.Random.seed(_PYTHON_GENERATOR, python_word)
        _PYTHON_GENERATOR.gauss_next = None

    @contextlib.contextmanager
    def apart(self, stream: Stream, major: int, minor: int) -> Iterator[None]:
        """Sets torch's generators to an address for a while, and puts them back.

        Torch's alone: to put back numpy's takes 130 us, as long as a small batch.
        """
        device = self._device_generator
        cpu_state = torch.default_generator.get_state()
        device_state = None if device is None else device.get_state()
        torch_word, device_word, _, _ = self._books[stream].words(major, minor)
        torch.default_generator.manual_seed(torch_word)
        if device is not None:
            device.manual_seed(device_word)
        try:
            yield
        finally:
            torch.default_generator.set_state(cpu_state)
            if device is not None and device_state is not None:
                device.set_state(device_state)

    def save(self) -> GeneratorStates:
        """Returns where the generators stand, for a slot that has to wait for the others."""
        device = self._device_generator
        return GeneratorStates(
            torch_cpu=torch.default_generator.get_state(),
            torch_device=None if device is None else device.get_state(),
            numpy=np.random.get_state(),
            python=random.getstate(),
        )

    def restore(self, states: GeneratorStates) -> None:
        """Takes the generators back to where ``save`` found them."""
        torch.default_generator.set_state(states.torch_cpu)
        if self._device_generator is not None and states.torch_device is not None:
            self._device_generator.set_state(states.torch_device)
        np.random.set_state(states.numpy)
        random.setstate(states.python)


def _device_generator(device: torch.device) -> torch.Generator | None:
    if device.type != "cuda":
        return None
    torch.cuda.init()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    index = torch.cuda.current_device() if device.index is None else device.index
    generator: torch.Generator = torch.cuda.default_generators[index]
    return generator
