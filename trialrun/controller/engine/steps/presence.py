"""Processes tell each other which parameters had a gradient, before they sum any."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch

from trialrun._errors import InvalidTrialError
from trialrun.controller.engine.parallel.collectives import Collectives

_WORD_BITS = 62
_WORDS_AT_A_TIME = 2048
"""So few that a socket takes them from everybody before anybody reads."""


class Presence:
    """Which of some parameters had a gradient on any slot.

    Args:
        number: Of parameters.
    """

    dense: list[bool]
    """For each parameter whether it had a dense one."""
    sparse: list[bool]
    """For each parameter whether it had a sparse one."""

    def __init__(self, number: int) -> None:
        self.dense = [False] * number
        self.sparse = [False] * number

    def extend(self, number: int) -> None:
        """Appends parameters without a gradient."""
        self.dense += [False] * number
        self.sparse += [False] * number

    def update(self, other: Presence) -> None:
        """Takes in the gradients of other slots, or of another batch."""
        self.dense = [a or b for a, b in zip(self.dense, other.dense, strict=True)]
        self.sparse = [a or b for a, b in zip(self.sparse, other.sparse, strict=True)]


class Announced:
    """What this process has told the others, under way while it goes on.

    Args:
        own: Which parameters had a gradient on any of this process's slots.
        description: Of the parameters: how many, their elements, and a checksum.
        collectives: The processes.
        note: Whatever else they are told, in equally many integers from each.
    """

    notes: list[list[int]]
    """Of all processes, once there is a result."""

    def __init__(
        self,
        own: Presence,
        description: Sequence[int],
        collectives: Collectives,
        note: Sequence[int] = (),
    ) -> None:
        self._own = own
        self._num_noted = len(note)
        self._collectives = collectives
        # One short message in the usual case, where every parameter has a dense gradient.
        is_usual = all(own.dense) and not any(own.sparse)
        self._pending = collectives.start_gather([*note, *description, is_usual])

    def result(self) -> Presence:
        """Returns which parameters had a gradient on any slot of any process.

        Raises:
            InvalidTrialError: Processes speak of different parameters.
        """
        received = self._pending.result()
        self.notes = [message[: self._num_noted] for message in received]
        messages = [message[self._num_noted :] for message in received]
        _require_same_parameters([message[:-1] for message in messages])
        number = len(self._own.dense)
        if self._collectives.size == 1 or all(message[-1] for message in messages):
            return self._own
        words = _to_words([*self._own.dense, *self._own.sparse])
        for start in range(0, len(words), _WORDS_AT_A_TIME):
            stop = start + _WORDS_AT_A_TIME
            for row in self._collectives.start_gather(words[start:stop]).result():
                words[start:stop] = [a | b for a, b in zip(words[start:stop], row, strict=True)]
        bits = _to_bits(words, 2 * number)
        present = Presence(0)
        present.dense, present.sparse = bits[:number], bits[number:]
        return present


def description(parameters: Sequence[torch.nn.Parameter]) -> list[int]:
    """Returns in a few integers what must be equal on all processes."""
    shapes = repr([(tuple(p.shape), p.dtype) for p in parameters])
    return [len(parameters), sum(p.numel() for p in parameters), zlib.crc32(shapes.encode())]


def _require_same_parameters(descriptions: list[list[int]]) -> None:
    if descriptions.count(descriptions[0]) == len(descriptions):
        return
    named = "; ".join(
        f"process {rank} has {number} with {length} elements"
        for rank, (number, length, _) in enumerate(descriptions)
    )
    raise InvalidTrialError(
        "The parameters that take gradients in one step of an optimizer are not the same for all "
        f"slots: {named}. Freeze, unfreeze and add parameters in the same way on every slot."
    )


def _to_words(bits: Sequence[bool]) -> list[int]:
    """Returns the bits as integers that fit into a message, the first in the lowest place."""
    return [
        sum(bit << place for place, bit in enumerate(bits[start : start + _WORD_BITS]))
        for start in range(0, len(bits), _WORD_BITS)
    ]


def _to_bits(words: Sequence[int], number: int) -> list[bool]:
    return [bool(words[i // _WORD_BITS] >> i % _WORD_BITS & 1) for i in range(number)]
