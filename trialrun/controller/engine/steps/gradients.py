"""The gradients of one optimizer's parameters: what each slot puts in, what all slots get back.

Before the sums the processes tell each other which parameters had a dense gradient on any of their
slots, and which a sparse one. A parameter without a gradient on any slot keeps ``grad`` None; one
that only some slots used has zeros on the others.

Parameters of one device and element type are summed as one vector, in buckets. One that once had a
sparse gradient is summed by itself from then on, on every process alike.

Memory, in copies of the gradients: the slot's own, which the next slot's replace; the vectors of
the tree, about log2(q) for a process's q slots; and within an aggregation window each process's
P-th of the sum over the batches so far.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from trialrun._errors import InvalidTrialError
from trialrun.controller.engine.parallel.bucket_collectives import exchange_for
from trialrun.controller.engine.parallel.buckets import Bucket
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.steps.early_sums import EarlySums, Note
from trialrun.controller.engine.steps.gradient_vectors import (
    LastSummand,
    Segment,
    Summand,
    Vector,
    VectorLayout,
    flat,
    memory_order,
    owned_memory,
)
from trialrun.controller.engine.steps.parameters import Names
from trialrun.controller.engine.steps.presence import Announced, Presence, description
from trialrun.controller.engine.steps.reduction import OrderedSum, Share, TreeSum
from trialrun.controller.engine.steps.sparse_reduction import SparseSum


class GradientSum:
    """Adds the gradients of some parameters over all slots, in the order of the tree.

    Args:
        names: What parameters are called in an error.
        num_slots: S.
        collectives: The processes that share the slots, in slot order.
        early: Begins with sums while backward computes; None: nobody does.
    """

    groups: list[GradientGroup]
    """Parameters of one device and element type each."""
    parameters: list[torch.nn.Parameter]
    """Those that are summed."""
    has_accumulated: bool
    """Whether sums of earlier batches wait for the end of an aggregation window."""

    def __init__(
        self,
        names: Names,
        *,
        num_slots: int,
        collectives: Collectives,
        early: EarlySums | None = None,
    ) -> None:
        self.groups = []
        self.parameters = []
        self.has_accumulated = False
        self._names = names
        self._collectives = collectives
        self._share = Share(num_slots, collectives.size, collectives.rank)
        self._num_slots = num_slots
        self._grouped: list[tuple[int, torch.device, torch.dtype]] = []
        # Of two slots that have put in different parameters, how many each.
        self._other_lengths: tuple[int, int] | None = None
        self._own = Presence(0)
        self._announced: Announced | None = None
        self._description = description([])
        self._in_window = Presence(0)
        self._early = early
        self._note: tuple[int, ...] = ()
        # Of this process's slots, in the sum that is under way.
        self._num_deposited = 0

    @property
    def awaits_last_slot(self) -> bool:
        """Whether all slots of this process but the last have put in dense gradients."""
        return self._num_deposited == len(self._share.slots) - 1 and not self.has_apart

    @property
    def has_apart(self) -> bool:
        """Whether a parameter once had a sparse gradient, on any process."""
        return any(group.has_apart for group in self.groups)

    def deposit(self, slot: int, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Puts in the slot's gradients, and leaves ``grad`` None.

        The tensors are this object's from then on, and may be overwritten.
        """
        is_first = slot == self._share.slots.start
        is_last = slot == self._share.slots[-1]
        grouped = [(id(p), p.device, p.dtype) for p in parameters]
        if is_last and self._early is not None:
            self._note = self._early.note(self, has_others=grouped != self._grouped)
        self._num_deposited += 1
        if is_first and grouped != self._grouped:
            self._group(parameters)
            self._grouped = grouped
        elif grouped != self._grouped:
            # Told when all slots have come here: they may not even take the same step.
            self._other_lengths = (len(self._grouped), len(grouped))
            return
        if is_first:
            self._own = Presence(len(self.parameters))
        for group in self.groups:
            group.deposit(slot, group.take_gradients(), self._own)
        if is_last:
            self._announce()

    def accumulate(self) -> None:
        """Adds up one batch of an aggregation window, for ``assign`` at its end.

        Raises:
            InvalidTrialError: As ``assign`` does.
        """
        self._sum(None)
        self.has_accumulated = True

    def assign(self, divisor: int) -> bool:
        """Gives every parameter its summed gradient over the divisor, once all slots put theirs in.

        Those of the window's earlier batches, if any, are in the sum.

        Returns:
            Whether any slot had any gradient.

        Raises:
            InvalidTrialError: A parameter's gradient was sparse on some slots and dense on others,
                or slots have put in different parameters.
        """
        self._sum(divisor)
        self.has_accumulated = False
        in_window, self._in_window = self._in_window, Presence(0)
        return any(in_window.dense) or any(in_window.sparse)

    def assign_accumulated(self) -> None:
        """Gives every parameter the sum of the batches so far, when no step was taken with it."""
        self._own = Presence(len(self.parameters))
        for slot in self._share.slots:
            for group in self.groups:
                group.deposit(slot, [None] * len(group.parameters), self._own)
        self._announce()
        self.assign(1)

    def _announce(self) -> None:
        self._num_deposited = 0
        self._announced = Announced(self._own, self._description, self._collectives, self._note)

    def _sum(self, divisor: int | None) -> None:
        if self._other_lengths is not None:
            first, other = self._other_lengths
            raise InvalidTrialError(
                f"The parameters that take gradients in one step of an optimizer are {first} for "
                f"one slot and {other}, or others, for the next. Freeze, unfreeze and add "
                "parameters in the same way on every slot."
            )
        assert self._announced is not None, "not every slot has put in its gradients"
        present = self._announced.result()
        early = None
        if self._early is not None:
            notes = [Note(*note) for note in self._announced.notes]
            is_dense = not self.has_apart and not any(present.sparse)
            early = self._early.totals(self, notes, divisor=divisor, is_dense=is_dense)
        self._announced = None
        for place, parameter in enumerate(self.parameters):
            if present.sparse[place] and present.dense[place]:
                raise InvalidTrialError(
                    f"The gradient of {self._names[parameter]} is sparse on some slots and dense "
                    "on others, so they cannot be added. Use the parameter in the same way on "
                    "every slot, or build its embedding with sparse=False."
                )
        self._in_window.extend(len(self.parameters) - len(self._in_window.dense))
        self._in_window.update(present)
        for group in self.groups:
            totals = None if early is None else early.totals_of(group)
            group.sum(divisor, present, self._in_window, totals)
        if early is not None:
            early.release()

    def _group(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Makes the groups again when the trial has added, frozen or unfrozen parameters."""
        if not self.has_accumulated:
            self.groups, self.parameters = [], []
        known = set(self.parameters)
        # In the middle of a window those that were summed before stay where they are.
        added = [parameter for parameter in parameters if parameter not in known]
        by_kind: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for place, parameter in enumerate(added, start=len(self.parameters)):
            by_kind.setdefault((parameter.device, parameter.dtype), []).append(place)
        self.parameters += added
        self._description = description(self.parameters)
        for places in by_kind.values():
            group = [self.parameters[place] for place in places]
            self.groups.append(
                GradientGroup(group, places, self._names, self._num_slots, self._collectives)
            )


@dataclasses.dataclass
class _Apart:
    """A parameter that once had a sparse gradient: what each slot has put in, summed by itself."""

    sparse_sum: SparseSum
    dense_sum: OrderedSum
    gradients: dict[int, torch.Tensor] = dataclasses.field(default_factory=dict)
    accumulated: torch.Tensor | None = None
    """The sum of the window's earlier batches, on every process."""


class GradientGroup:
    """Parameters of one device and element type.

    Args:
        parameters: The parameters.
        places: Where ``Presence`` speaks of each.
        names: What parameters are called in an error.
        num_slots: S.
        collectives: The processes.
    """

    parameters: list[torch.nn.Parameter]
    share: Share
    """Which nodes of the tree each process brings."""
    orders: list[tuple[int, ...] | None]
    """The ``memory_order`` of each parameter."""

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        places: list[int],
        names: Names,
        num_slots: int,
        collectives: Collectives,
    ) -> None:
        self.parameters = parameters
        self._places = places
        self._names = names
        self._num_slots = num_slots
        self._collectives = collectives
        self.share = Share(num_slots, collectives.size, collectives.rank)
        self._exchange = exchange_for(collectives, parameters[0].device)
        self._tree = TreeSum(num_slots, self._add)
        self.orders = [memory_order(parameter) for parameter in parameters]
        # By their index in the group.
        self._apart: dict[int, _Apart] = {}
        # The last slot's gradients, whose memory takes the sums.
        self._last: list[torch.Tensor | None] = []
        self._last_flats: list[torch.Tensor | None] = []
        # Vectors of the tree that are not in use.
        self._vectors: list[Vector] = []
        self._lay_out()

    def _lay_out(self) -> None:
        """Says which parameters are in the vector: those that are not summed apart."""
        self._in_vector = [i for i in range(len(self.parameters)) if i not in self._apart]
        like = self.parameters[0]
        largest = self._exchange.largest(max(self.share.num_rows), like.dtype)
        self._layout = VectorLayout([self.parameters[i].numel() for i in self._in_vector], largest)
        self.buckets = [_GradientBucket(segment, self.share) for segment in self._layout.segments]
        self._vectors = []

    @property
    def has_apart(self) -> bool:
        """Whether a parameter of it once had a sparse gradient."""
        return bool(self._apart)

    @property
    def segments(self) -> list[Segment]:
        """One for each bucket; where none is apart, a place is a parameter's index."""
        return self._layout.segments

    def summands_with(self, last: LastSummand) -> list[Summand]:
        """Returns what this process sends when its last slot has put in its gradients, too."""
        slot = self.share.slots[-1]

        def add(left: Summand, right: Summand) -> Summand:
            assert isinstance(right, LastSummand)  # the last slot's is right of all others
            return right.after(left)

        return self._tree.with_leaf(slot, last, add)

    def take_gradients(self) -> list[torch.Tensor | None]:
        """Returns what is in ``grad`` of each parameter, and leaves None there."""
        gradients = []
        for parameter in self.parameters:
            gradients.append(parameter.grad)
            parameter.grad = None
        return gradients

    def deposit(self, slot: int, gradients: list[torch.Tensor | None], presence: Presence) -> None:
        """Puts in one slot's gradients.

        Args:
            slot: The slot.
            gradients: One or None for each parameter.
            presence: Where it is noted which there are.
        """
        dense, places = presence.dense, self._places
        for index, gradient in enumerate(gradients):
            if gradient is None:
                continue
            if not gradient.is_sparse:
                dense[places[index]] = True
            else:
                presence.sparse[places[index]] = True
                # After ``create_graph`` it has a graph, which the step does not need.
                self._put_apart(index, slot, gradient.detach().coalesce())
                gradients[index] = None
        parameters, orders = self.parameters, self.orders
        if self._apart:
            for index in self._apart.keys() - set(self._in_vector):
                of_slot = gradients[index]
                if of_slot is not None:
                    self._put_apart(index, slot, of_slot.detach())
            gradients = [gradients[i] for i in self._in_vector]
            parameters = [parameters[i] for i in self._in_vector]
            orders = [orders[i] for i in self._in_vector]
        owned = owned_memory(gradients, parameters, orders)
        flats = [None if gradient is None else flat(gradient) for gradient in owned]
        summand = Summand(flats)
        self._tree.add((0, slot), summand)
        if slot == self.share.slots[-1]:
            self._last, self._last_flats = owned, flats
        elif summand.flats is not None:
            # It waits for its sibling, and the next slot may use the memory where it is.
            summand.move_into(self._free_vector())

    def _add(self, left: Summand, right: Summand) -> Summand:
        if right.vector is not None:
            assert left.vector is not None
            left.vector.elements.add_(right.vector.elements)
            self._vectors.append(right.vector)
        else:
            assert right.flats is not None
            left.add_slot(right.flats)
            right.flats = None
        return left

    def _free_vector(self) -> Vector:
        if self._vectors:
            return self._vectors.pop()
        return Vector(self.parameters[0].new_empty(self._layout.length), self._layout)

    def sum(
        self,
        divisor: int | None,
        present: Presence,
        in_window: Presence,
        totals: Sequence[torch.Tensor] | None,
    ) -> None:
        """Sums what all slots have put in.

        Args:
            divisor: Of the sums that parameters get; None: in the middle of an aggregation window.
            present: Which parameters have a gradient on any slot.
            in_window: Which have had one in the window.
            totals: For each bucket its averages, where they are known already.
        """
        waiting = list(self._tree.take().values())
        if any(in_window.dense[self._places[i]] for i in self._in_vector):
            self._sum_vector(waiting, divisor, in_window, totals)
        self._vectors += [s.vector for s in waiting if s.vector is not None]
        self._last, self._last_flats = [], []
        for index, place in enumerate(self._places):
            if present.sparse[place] or index in self._apart:
                self._sum_apart(index, present, divisor)
        if divisor is not None and self._apart.keys() & set(self._in_vector):
            self._lay_out()

    def _sum_vector(
        self,
        waiting: list[Summand],
        divisor: int | None,
        in_window: Presence,
        totals: Sequence[torch.Tensor] | None,
    ) -> None:
        targets: list[torch.Tensor | None] = [None] * len(self._in_vector)
        if divisor is not None:
            for position, index in enumerate(self._in_vector):
                parameter = self.parameters[index]
                if not in_window.dense[self._places[index]]:
                    continue
                memory = self._last[position]
                targets[position] = self._last_flats[position]
                if memory is None:
                    memory = torch.empty_like(parameter, requires_grad=False)
                    targets[position] = flat(memory)
                if parameter.requires_grad:  # it may have been frozen within the window
                    parameter.grad = memory
        for bucket in self.buckets:
            bucket.begin(waiting, divisor, targets)
        if totals is not None:
            for bucket, total in zip(self.buckets, totals, strict=True):
                bucket.unpack(total)
        else:
            self._exchange.run(
                self.buckets,
                num_rows=self.share.num_rows,
                like=self.parameters[0].detach(),
                unpacks=divisor is not None,
            )
        for bucket in self.buckets:
            bucket.begin([], divisor, [])

    def _put_apart(self, index: int, slot: int, gradient: torch.Tensor) -> None:
        if index not in self._apart:
            self._apart[index] = self._new_apart(index)
        self._apart[index].gradients[slot] = gradient

    def _new_apart(self, index: int) -> _Apart:
        parameter = self.parameters[index]
        return _Apart(
            SparseSum(
                parameter,
                self._names[parameter],
                num_slots=self._num_slots,
                collectives=self._collectives,
            ),
            OrderedSum(self._num_slots, self._collectives),
        )

    def _sum_apart(self, index: int, present: Presence, divisor: int | None) -> None:
        # Not known before on a process whose slots had no gradient.
        apart = self._apart.setdefault(index, self._new_apart(index))
        gradients, apart.gradients = apart.gradients, {}
        parameter, place = self.parameters[index], self._places[index]
        total = apart.accumulated
        if present.sparse[place]:
            total = _added(total, apart.sparse_sum.total(gradients))
        elif present.dense[place] and index not in self._in_vector:
            total = _added(total, self._dense_total(apart, parameter, gradients))
        apart.accumulated = total if divisor is None else None
        if divisor is not None and total is not None and parameter.requires_grad:
            parameter.grad = _added(parameter.grad, total.div_(divisor))

    def _dense_total(
        self, apart: _Apart, parameter: torch.nn.Parameter, gradients: dict[int, torch.Tensor]
    ) -> torch.Tensor:
        for slot in self.share.slots:
            vector = parameter.new_zeros(parameter.numel())
            if slot in gradients:
                vector.copy_(gradients[slot].reshape(-1))
            apart.dense_sum.deposit(slot, vector)
        return apart.dense_sum.total().view(parameter.shape)


def _added(first: torch.Tensor | None, second: torch.Tensor) -> torch.Tensor:
    """Returns the sum of two sums over slots; sparse if both are."""
    if first is None:
        return second
    if first.is_sparse and second.is_sparse:
        return (first + second).coalesce()
    return second + first if first.is_sparse else first + second


class _GradientBucket(Bucket):
    """A segment of the vector of a group."""

    def __init__(self, segment: Segment, share: Share) -> None:
        super().__init__(segment.stop - segment.start)
        self._segment = segment
        self._share = share
        self._waiting: Sequence[Summand] = []
        self._targets: Sequence[torch.Tensor | None] = []
        self._divisor: int | None = None
        # The sum of this process's chunk over the window's earlier batches, and the memory for it.
        self._has_accumulated = False
        self._memory: torch.Tensor | None = None

    def begin(
        self,
        waiting: Sequence[Summand],
        divisor: int | None,
        targets: Sequence[torch.Tensor | None],
    ) -> None:
        """Says what is summed.

        Args:
            waiting: This process's nodes.
            divisor: Of the sums; None: in the middle of an aggregation window.
            targets: For each place of the vector where its sums go, flat; None: nowhere.
        """
        self._waiting = waiting
        self._divisor = divisor
        self._targets = targets

    def pack(self, rows: Sequence[torch.Tensor]) -> None:
        """Writes this process's nodes."""
        for row, summand in zip(rows, self._waiting, strict=True):
            summand.write(self._segment, row)

    def add(self, rows: Sequence[torch.Tensor], total: torch.Tensor) -> None:
        """Adds a chunk along the tree, and to what the window's earlier batches had."""
        of_slots = self._share.add_up(rows, torch.Tensor.add_)
        if self._has_accumulated:
            assert self._memory is not None
            of_slots = self._memory.add_(of_slots)
        if self._divisor is not None:
            torch.div(of_slots, self._divisor, out=total)
            self._has_accumulated = False
            return
        if not self._has_accumulated:
            if self._memory is None:
                self._memory = torch.empty_like(of_slots)
            self._memory.copy_(of_slots)
            self._has_accumulated = True

    def unpack(self, total: torch.Tensor) -> None:
        """Writes the averages where parameters find them."""
        sources = total.split_with_sizes(self._segment.sizes)
        targets, found = [], []
        for piece, source in zip(self._segment.pieces, sources, strict=True):
            target = self._targets[piece.place]
            if target is not None:
                targets.append(target if piece.is_whole else piece.of(target))
                found.append(source)
        if found:
            torch._foreach_copy_(targets, found)
