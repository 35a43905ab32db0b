"""How far apart two tensors of one type and shape are: where first, how often, by how many steps.

A unit in the last place (ULP) is the step from one number that the type can hold to the next. Steps
are counted on the bits, which lie in the order of the numbers once the sign is taken out:

    float32     -1.0        -0.0   0.0    1e-45   1.0         next after 1.0
    bits        bf800000    8000.. 0000.. 0000..1 3f800000    3f800001
    place       -3f800000   0      0      1       3f800000    3f800001

So 0.0 and -0.0 are 0 steps apart, though their bits differ. NaN and infinities have no distance.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trialrun._wording import count

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distance:
    """How two tensors differ that have one type and one shape.

    Args:
        index: Of the first element that differs, in the order of memory; empty for a number.
        first: That element in the first tensor, as text.
        second: And in the second.
        num_differing: Elements whose bits differ.
        num_elements: Elements of one tensor.
        num_not_finite: Of those that differ, how many are NaN or infinite on either side.
        unit: What distances count: ``ulp`` for floating point, ``1`` for integers; None for others.
        first_distance: Of the first element; None where it has no distance.
        largest_distance: Of all elements that have one; None where none has.
    """

    index: tuple[int, ...]
    first: str
    second: str
    num_differing: int
    num_elements: int
    num_not_finite: int
    unit: str | None
    first_distance: int | None
    largest_distance: int | None

    def describe(self) -> str:
        """Returns it for people: "at [0, 3]: 0.5 and 0.25, ... apart; 12 of 640 elements ..."."""
        place = f"at {list(self.index)}: " if self.index else "has "
        apart = f", {self._steps(self.first_distance)} apart" if self.first_distance else ""
        if self.first_distance == 0:
            apart = ", the same number with another sign"
        sentence = f"{place}{self.first} and {self.second}{apart}"
        if self.num_elements == 1:
            return sentence
        often = f"{self.num_differing} of {self.num_elements} elements differ"
        if self.largest_distance is not None:
            often += f", by at most {self._steps(self.largest_distance)}"
        if self.num_not_finite:
            often += f", {self.num_not_finite} of them between values that are not all finite"
        return f"{sentence}; {often}"

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON data."""
        return {
            "index": list(self.index),
            "values": [self.first, self.second],
            "num_differing": self.num_differing,
            "num_elements": self.num_elements,
            "num_not_finite": self.num_not_finite,
            "unit": self.unit,
            "distance": self.first_distance,
            "largest_distance": self.largest_distance,
        }

    def _steps(self, number: int | None) -> str:
        return f"{number}" if self.unit == "1" else count(number or 0, "unit") + _IN_LAST_PLACE


_IN_LAST_PLACE = " in the last place"


def measure_distance(first: torch.Tensor, second: torch.Tensor) -> Distance | None:
    """Compares two tensors of one type and shape by their bits.

    Args:
        first: On the CPU.
        second: The same type and shape.

    Returns:
        How they differ; None where all bits are equal.
    """
    if torch.equal(_bytes(first), _bytes(second)):
        return None
    first, second = first.detach().contiguous(), second.detach().contiguous()
    size = max(1, first.element_size())
    differs = (_bytes(first) != _bytes(second)).view(-1, size).any(dim=1)
    # Only what differs is looked at further: a copy of a few elements, as a rule.
    ours, theirs = first.reshape(-1)[differs], second.reshape(-1)[differs]
    place = int(differs.to(torch.uint8).argmax())
    unit, distances, is_finite = _distances(ours, theirs)
    texts = _text(ours[0]), _text(theirs[0])
    if texts[0] == texts[1]:  # such as two NaN
        texts = f"{texts[0]} ({_hex(ours[:1])})", f"{texts[1]} ({_hex(theirs[:1])})"
    finite = distances[is_finite]
    return Distance(
        index=tuple(int(i) for i in np.unravel_index(place, tuple(first.shape))),
        first=texts[0],
        second=texts[1],
        num_differing=len(ours),
        num_elements=first.numel(),
        num_not_finite=int((~is_finite).sum()),
        unit=unit,
        first_distance=int(distances[0]) if unit and is_finite[0] else None,
        largest_distance=int(finite.max()) if unit and len(finite) else None,
    )


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _distances(
    first: torch.Tensor, second: torch.Tensor
) -> tuple[str | None, NDArray[np.uint64], NDArray[np.bool_]]:
    """Returns the unit, the distances of elements, and which of them have one."""
    if first.is_complex():
        # The farther of real and imaginary part.
        parts = [torch.view_as_real(t.resolve_conj()) for t in (first, second)]
        unit, distances, finite = _distances(parts[0].reshape(-1), parts[1].reshape(-1))
        return unit, np.max(distances.reshape(-1, 2), axis=1), finite[::2] & finite[1::2]
    all_have = np.ones(len(first), dtype=np.bool_)
    if first.is_floating_point():
        is_finite = _is_finite(first) & _is_finite(second)
        return "ulp", _apart(_places(first), _places(second)), is_finite.numpy()
    if first.dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64, *_INTEGERS.values()):
        return "1", _apart(first.numpy(), second.numpy()), all_have
    return None, np.zeros(len(first), dtype=np.uint64), all_have


def _places(tensor: torch.Tensor) -> NDArray[np.int64]:
    """Returns for each number its place among all numbers of the type, 0 for both zeros."""
    bits = tensor.view(_INTEGERS[tensor.element_size()]).numpy().astype(np.int64)
    # 80000000 becomes 00000000, bf800000 becomes -3f800000.
    lowest = -(2 ** (8 * tensor.element_size() - 1))
    return np.where(bits < 0, lowest - bits, bits)


def _apart(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.uint64]:
    """Returns |first - second|, which may need all 64 bits."""
    high, low = np.maximum(first, second), np.minimum(first, second)
    # Unsigned numbers wrap around, so the difference is right whatever the signs.
    difference: NDArray[np.uint64] = high.astype(np.uint64) - low.astype(np.uint64)
    return difference


def _is_finite(tensor: torch.Tensor) -> torch.Tensor:
    # The 8-bit types have no isfinite of their own.
    return torch.isfinite(tensor.to(torch.float32) if tensor.element_size() == 1 else tensor)


def _text(element: torch.Tensor) -> str:
    """Returns a number with as many digits as its type needs."""
    if element.dtype in (torch.float16, torch.float32):
        return str(element.numpy()[()])
    return str(element.item())


def _hex(element: torch.Tensor) -> str:
    # Numbers are stored with their lowest byte first.
    return "0x" + bytes(_bytes(element).tolist()[::-1]).hex()
