"""The gradients of one optimizer's parameters: what each slot puts in, what all slots get back.

Parameters of one device and element type travel as one vector for each slot, end to end. Behind
them stand two elements for each parameter: whether the slot had a dense gradient for it, and
whether it had a sparse one; their sums say how the parameter's gradient must be put together.

    vector:  | gradients, end to end | dense: 1 or 0 each | sparse: 1 or 0 each | padding |

A parameter without a gradient on any slot keeps ``grad`` None. One that once had a sparse gradient
is left out of the vector from then on, on every process alike, since all see the same sums.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from trialrun._errors import InvalidTrialError
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.steps.parameters import Names
from trialrun.controller.engine.steps.reduction import OrderedSum
from trialrun.controller.engine.steps.sparse_reduction import SparseSum


class GradientSum:
    """Adds the gradients of some parameters over all slots, in the order of the tree.

    Args:
        names: What parameters are called in an error.
        num_slots: S.
        collectives: The processes that share the slots, in slot order.
    """

    groups: list[_Group]
    """Parameters of one device and element type each."""

    def __init__(self, names: Names, *, num_slots: int, collectives: Collectives) -> None:
        self._names = names
        self._num_slots = num_slots
        self._collectives = collectives
        self.groups = []
        self._grouped: list[tuple[int, torch.device, torch.dtype]] = []

    def deposit(self, slot: int, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Puts in the slot's gradients, and leaves ``grad`` None."""
        for group in self._group(parameters):
            group.deposit(slot)

    def assign(self, divisor: int) -> bool:
        """Gives every parameter its summed gradient over the divisor, once all slots put theirs in.

        Returns:
            Whether any slot had any gradient.

        Raises:
            InvalidTrialError: A parameter's gradient was sparse on some slots and dense on others.
        """
        return any([group.assign(divisor) for group in self.groups])

    def _group(self, parameters: Sequence[torch.nn.Parameter]) -> list[_Group]:
        """Returns the groups, made again when the trial has added or frozen parameters."""
        grouped = [(id(p), p.device, p.dtype) for p in parameters]
        if self._grouped != grouped:
            by_kind: dict[tuple[torch.device, torch.dtype], list[torch.nn.Parameter]] = {}
            for parameter in parameters:
                by_kind.setdefault((parameter.device, parameter.dtype), []).append(parameter)
            self.groups = [
                _Group(group, self._names, self._num_slots, self._collectives)
                for group in by_kind.values()
            ]
            self._grouped = grouped
        return self.groups


@dataclasses.dataclass
class _Apart:
    """A parameter that once had a sparse gradient: what each slot has put in, summed by itself."""

    sparse_sum: SparseSum
    dense_sum: OrderedSum
    gradients: dict[int, torch.Tensor] = dataclasses.field(default_factory=dict)


class _Group:
    """Parameters of one device and element type."""

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        names: Names,
        num_slots: int,
        collectives: Collectives,
    ) -> None:
        self.parameters = parameters
        self._names = names
        self._num_slots = num_slots
        self._collectives = collectives
        self._sum = OrderedSum(num_slots, collectives)
        # In the vector, by their place in the group; the others are summed apart.
        self._lengths = [parameter.numel() for parameter in parameters]
        self._apart: dict[int, _Apart] = {}

    def deposit(self, slot: int) -> None:
        pieces: list[torch.Tensor] = []
        tail = [0.0] * (2 * len(self.parameters))
        for place, parameter in enumerate(self.parameters):
            # After ``create_graph`` a gradient has a graph, which the step does not need.
            gradient = None if parameter.grad is None else parameter.grad.detach()
            if gradient is not None and gradient.is_sparse:
                tail[len(self.parameters) + place] = 1.0
                self._put_apart(place, slot, gradient.coalesce())
                gradient = None
            elif gradient is not None:
                tail[place] = 1.0
                if self._lengths[place] == 0 and place in self._apart:
                    self._put_apart(place, slot, gradient)
                    gradient = None
            # Zeros stand for a missing gradient, on every P alike: -0.0 + 0.0 is not -0.0.
            pieces.append(
                parameter.new_zeros(self._lengths[place])
                if gradient is None
                else gradient.reshape(-1)
            )
            parameter.grad = None
        length = sum(self._lengths)
        tail += [0.0] * (self._sum.padded_length(length + len(tail)) - length - len(tail))
        first = self.parameters[0]
        pieces.append(torch.tensor(tail, dtype=first.dtype, device=first.device))
        self._sum.deposit(slot, torch.cat(pieces))

    def assign(self, divisor: int) -> bool:
        total = self._sum.total()
        length, count = sum(self._lengths), len(self.parameters)
        present = total[length : length + 2 * count].tolist()
        total[:length].div_(divisor)
        stop = 0
        for place, parameter in enumerate(self.parameters):
            start, stop = stop, stop + self._lengths[place]
            dense, sparse = present[place], present[count + place]
            if dense and sparse:
                raise InvalidTrialError(
                    f"The gradient of {self._names[parameter]} is sparse on some slots and dense "
                    "on others, so they cannot be added. Use the parameter in the same way on "
                    "every slot, or build its embedding with sparse=False."
                )
            if sparse:
                parameter.grad = self._take_sparse(place).div_(divisor)
            elif dense and place in self._apart:
                parameter.grad = self._take_dense(place).div_(divisor)
            elif dense:
                parameter.grad = total[start:stop].view(parameter.shape)
        return any(present)

    def _put_apart(self, place: int, slot: int, gradient: torch.Tensor) -> None:
        if place not in self._apart:
            self._apart[place] = self._new_apart(place)
        self._apart[place].gradients[slot] = gradient

    def _new_apart(self, place: int) -> _Apart:
        parameter = self.parameters[place]
        return _Apart(
            SparseSum(
                parameter,
                self._names[parameter],
                num_slots=self._num_slots,
                collectives=self._collectives,
            ),
            OrderedSum(self._num_slots, self._collectives),
        )

    def _take_sparse(self, place: int) -> torch.Tensor:
        # Not known before on a process whose slots had no gradient.
        apart = self._apart.setdefault(place, self._new_apart(place))
        self._lengths[place] = 0
        gradients, apart.gradients = apart.gradients, {}
        return apart.sparse_sum.total(gradients)

    def _take_dense(self, place: int) -> torch.Tensor:
        apart, parameter = self._apart[place], self.parameters[place]
        gradients, apart.gradients = apart.gradients, {}
        length = parameter.numel()
        each = self._num_slots // self._collectives.size
        first = self._collectives.rank * each
        for slot in range(first, first + each):
            vector = parameter.new_zeros(apart.dense_sum.padded_length(length))
            if slot in gradients:
                vector[:length] = gradients[slot].reshape(-1)
            apart.dense_sum.deposit(slot, vector)
        return apart.dense_sum.total()[:length].view(parameter.shape)
