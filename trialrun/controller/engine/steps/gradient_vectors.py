"""Gradients of one device and element type, end to end as a vector that is cut into buckets.

    vector:  | parameter 0 | parameter 1 | parameter 2 |        L elements
    buckets: |       |       |       |       |    |             at most ``largest`` elements each

Within a parameter elements stand in the order of its own memory, which autograd gives gradients
too; so nothing is rearranged. A parameter that a slot did not use has zeros there.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch

from trialrun.controller.engine.parallel.buckets import cut


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Elements [start, stop) of one parameter, which lie in one bucket."""

    place: int
    """The parameter's."""
    start: int
    stop: int
    is_whole: bool

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """Returns the piece of a parameter's elements."""
        return flat if self.is_whole else flat[self.start : self.stop]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Elements [start, stop) of the vector: those of one bucket."""

    start: int
    stop: int
    pieces: list[Piece]
    sizes: list[int]
    """Of the pieces."""


class VectorLayout:
    """Where parameters and buckets begin and end.

    Args:
        lengths: For each place the elements of its parameter.
        largest: The elements of a bucket.
    """

    length: int
    """L."""
    segments: list[Segment]
    """One for each bucket."""

    def __init__(self, lengths: Sequence[int], largest: int) -> None:
        self.length = sum(lengths)
        self._lengths = list(lengths)
        bounds = [0, *itertools.accumulate(lengths)]
        self.segments = []
        place = 0
        for start, stop in cut(self.length, largest):
            pieces = []
            while True:
                first, last = bounds[place], bounds[place + 1]
                inner = range(max(start, first) - first, min(stop, last) - first)
                if inner:
                    pieces.append(
                        Piece(
                            place=place,
                            start=inner.start,
                            stop=inner.stop,
                            is_whole=len(inner) == last - first,
                        )
                    )
                if last > stop or place + 1 == len(lengths):
                    break
                place += 1
            sizes = [piece.stop - piece.start for piece in pieces]
            self.segments.append(Segment(start=start, stop=stop, pieces=pieces, sizes=sizes))

    def split(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """Returns for each place its elements in the vector's memory."""
        return list(vector.split_with_sizes(self._lengths))


class Vector:
    """Memory for the gradients of one node.

    Args:
        elements: All of it.
        layout: How it is shared out.
    """

    def __init__(self, elements: torch.Tensor, layout: VectorLayout) -> None:
        self.elements = elements
        self.views = layout.split(elements)


class Summand:
    """What one node of the tree adds: a slot's gradients where they are, or a vector of ours.

    Args:
        flats: For each place the slot's gradient, flat; None where it has none.
    """

    flats: Sequence[torch.Tensor | None] | None
    vector: Vector | None

    def __init__(self, flats: Sequence[torch.Tensor | None]) -> None:
        self.flats = flats
        self.vector = None

    def move_into(self, vector: Vector) -> None:
        """Copies the gradients, so that the slot's memory may be used for something else."""
        assert self.flats is not None
        present = [flat for flat in self.flats if flat is not None]
        if present and len(present) == len(self.flats):
            torch.cat(present, out=vector.elements)
        else:
            for view, flat in zip(vector.views, self.flats, strict=True):
                if flat is None:
                    view.zero_()
                else:
                    view.copy_(flat)
        self.vector, self.flats = vector, None

    def add_slot(self, flats: Sequence[torch.Tensor | None]) -> None:
        """Adds a slot's gradients to the vector."""
        assert self.vector is not None
        present = [flat for flat in flats if flat is not None]
        if present and len(present) == len(flats):
            torch._foreach_add_(self.vector.views, present)
            return
        for view, flat in zip(self.vector.views, flats, strict=True):
            # Zeros where the slot has none, as elsewhere: -0.0 + 0.0 is 0.0.
            view.add_(0.0 if flat is None else flat)

    def write(self, segment: Segment, row: torch.Tensor) -> None:
        """Writes a segment of the elements to a row as long as the segment."""
        if self.vector is not None:
            row.copy_(self.vector.elements[segment.start : segment.stop])
            return
        assert self.flats is not None
        write_flats(segment, [self.flats[piece.place] for piece in segment.pieces], row)


class LastSummand(Summand):
    """The last slot's gradients of one bucket, and what the tree adds to their left.

    Args:
        elements: A copy of the gradients, as long as the bucket's segment; None: not known yet.
        lefts: The sums over slots before it, the nearest first.
    """

    def __init__(
        self, elements: torch.Tensor | None = None, lefts: tuple[Vector, ...] = ()
    ) -> None:
        super().__init__(())
        self._elements = elements
        self._lefts = lefts

    def after(self, left: Summand) -> LastSummand:
        """Returns the sum of another node, which has a vector, and this one."""
        assert left.vector is not None
        return LastSummand(self._elements, (*self._lefts, left.vector))

    def with_elements(self, elements: torch.Tensor) -> LastSummand:
        """Returns the same for a bucket."""
        return LastSummand(elements, self._lefts)

    def write(self, segment: Segment, row: torch.Tensor) -> None:
        """Writes the sum over the node's slots to a row as long as the segment."""
        assert self._elements is not None
        row.copy_(self._elements)
        for left in self._lefts:
            row.add_(left.elements[segment.start : segment.stop])


def write_flats(segment: Segment, flats: Sequence[torch.Tensor | None], row: torch.Tensor) -> None:
    """Writes a slot's gradients to a row as long as the segment.

    Args:
        segment: Of the vector.
        flats: For each piece of it the whole parameter's gradient; None: zeros.
        row: Where they are written.
    """
    found = []
    for piece, flat in zip(segment.pieces, flats, strict=True):
        if flat is None:
            found.append(row.new_zeros(piece.stop - piece.start))
        else:
            found.append(piece.of(flat))
    if len(found) == 1:
        row.copy_(found[0])
    else:
        torch.cat(found, out=row)


def memory_order(parameter: torch.nn.Parameter) -> tuple[int, ...] | None:
    """Returns the strides that the parameter's gradient has on every slot; None: contiguous."""
    like = torch.empty_like(parameter, device="meta")
    return None if like.is_contiguous() else like.stride()


def owned_memory(
    gradients: Sequence[torch.Tensor | None],
    parameters: Sequence[torch.nn.Parameter],
    orders: Sequence[tuple[int, ...] | None],
) -> list[torch.Tensor | None]:
    """Returns gradients that lie in their parameter's order, and may be overwritten.

    They are the given ones, not copies, unless they lie otherwise, are one tensor for several
    parameters or belong to a graph.

    Args:
        gradients: One or None for each parameter.
        parameters: The parameters.
        orders: The ``memory_order`` of each.
    """
    owned: list[torch.Tensor | None] = []
    addresses: set[int] = set()
    for gradient, parameter, order in zip(gradients, parameters, orders, strict=True):
        if gradient is not None:
            lies_well = gradient.is_contiguous() if order is None else gradient.stride() == order
            address = gradient.data_ptr()
            if not lies_well or address in addresses or gradient.requires_grad:
                gradient = torch.empty_like(parameter, requires_grad=False).copy_(gradient.detach())
            elif address:  # one without elements has none
                addresses.add(address)
        owned.append(gradient)
    return owned


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the elements in the order of their memory, which has no gaps."""
    if tensor.dim() == 1:
        return tensor
    if tensor.is_contiguous():
        return tensor.view(-1)
    return tensor.as_strided((tensor.numel(),), (1,))
