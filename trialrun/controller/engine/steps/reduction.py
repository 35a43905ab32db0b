"""The sum over slots has one order: a binary tree over slot numbers, whoever computes it.

S slots, P processes, q = S / P slots in each process. Node (level, index) of the tree is the sum
over slots [index * 2**level, (index + 1) * 2**level), cut off at S. A node is always its left child
plus its right child, or its left child alone where the right one lies beyond S:

    S = 6:   level 3           (0 1 2 3) + (4 5)
             level 2   (0 1) + (2 3)       (4 5)
             level 1    0 + 1   2 + 3      4 + 5

So the sum of six numbers is ((a0 + a1) + (a2 + a3)) + (a4 + a5), and that of five is
((a0 + a1) + (a2 + a3)) + a4. It is this formula, and no other, on every number of processes:

    P = 1   the process adds all of it.
    P = 2   process 0 has slots 0, 1, 2 and adds a0 + a1. Then it can go no further: node (1, 0)
            waits for (1, 1), and slot 2, half of that, for slot 3. These two are what it sends.
            Process 1 has slots 3, 4, 5, adds a4 + a5, and sends slot 3 and node (2, 1).
            Whoever has all four nodes adds a2 + a3, then (a0 + a1) to that, then the rest.
    P = 3   process 0 sends a0 + a1, process 1 a2 + a3, process 2 a4 + a5.
    P = 6   every process sends its slot.

A process may add two nodes only where they are siblings, and which are siblings depends on S alone.
So *who* adds two nodes differs with P, *which* two are added never does, and the result has the
same bits for every P: floating-point addition is not associative, but nothing is associated anew.
In float32 (1e8 + 3) + (-1e8 + 5) is 8.0, and ((1e8 + 3) + -1e8) + 5 is 5.0.

Additions are element by element: cutting vectors into chunks, each added elsewhere, changes no bit.
That is how processes share the work (``engine/parallel/buckets.py``).

The rule holds for one batch. In an aggregation window the sums of its batches are added afterwards,
the first to the second, these to the third: an order without slots in it, so without processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import torch

from trialrun.controller.engine.parallel.bucket_collectives import exchange_for
from trialrun.controller.engine.parallel.buckets import Bucket, cut
from trialrun.controller.engine.parallel.collectives import Collectives

T = TypeVar("T")

Node = tuple[int, int]
"""(level, index) in the tree."""


def sum_version(aggregation_frequency: int) -> int:
    """Returns the version of the order, which is part of a run's identity.

    In version 1 each slot added up the batches of a window before the tree; without windows that is
    the same order.
    """
    return 1 if aggregation_frequency == 1 else 2


class TreeSum(Generic[T]):
    """Adds one summand for each slot along the tree, holding no more of them than needed.

    Slots that come in order need at most log2(q) + 1 summands at a time, as the digits of a binary
    counter. Where the first slot is no multiple of a power of two, it can be 2 log2(q).

    Args:
        num_slots: S.
        add: Returns left plus right; it may overwrite either.
    """

    def __init__(self, num_slots: int, add: Callable[[T, T], T]) -> None:
        self._num_slots = num_slots
        self._add = add
        self._depth = (num_slots - 1).bit_length()
        self._nodes: dict[Node, T] = {}

    def add(self, node: Node, summand: T) -> None:
        """Puts in the sum at a node, and adds up as far as both children of a parent are there.

        Args:
            node: A slot's leaf is (0, slot).
            summand: The sum over the node's slots. It may be overwritten.
        """
        level, index = node
        while level < self._depth:
            sibling = (level, index ^ 1)
            if index % 2 == 0 and (index + 1) << level >= self._num_slots:
                pass  # The right child lies beyond S: the parent is the left child alone.
            elif sibling in self._nodes:
                other = self._nodes.pop(sibling)
                left, right = (other, summand) if index % 2 else (summand, other)
                summand = self._add(left, right)
            else:
                break
            level, index = level + 1, index // 2
        self._nodes[level, index] = summand

    def take(self) -> dict[Node, T]:
        """Hands out the nodes that wait for siblings, in slot order, and forgets them."""
        nodes = dict(sorted(self._nodes.items(), key=lambda item: item[0][1] << item[0][0]))
        self._nodes = {}
        return nodes

    def with_leaf(self, slot: int, summand: T, add: Callable[[T, T], T]) -> list[T]:
        """Returns what ``take`` would after one more slot, and changes nothing.

        Args:
            slot: The slot.
            summand: Its summand.
            add: Returns left plus right; it overwrites neither.
        """
        tree = TreeSum(self._num_slots, add)
        tree._nodes = dict(self._nodes)
        tree.add((0, slot), summand)
        return list(tree.take().values())


def waiting_nodes(num_slots: int, first: int, stop: int) -> list[Node]:
    """Returns the nodes that remain when slots [first, stop) have been added up alone.

    They are what a process sends; each process knows them of every other without asking.
    S = 20, P = 4, process 1 with slots 5 to 9: slot 5, slots 6 and 7, slots 8 and 9.
    """
    tree = TreeSum[None](num_slots, lambda left, right: None)
    for slot in range(first, stop):
        tree.add((0, slot), None)
    return list(tree.take())


class Share:
    """Which nodes each process brings, and how those of all processes are added up.

    Args:
        num_slots: S.
        num_processes: P.
        rank: This process.
    """

    slots: range
    """Those of this process."""
    nodes_of_rank: list[list[Node]]
    """For each process the nodes that it brings, in slot order."""
    num_rows: list[int]
    """For each process how many these are."""

    def __init__(self, num_slots: int, num_processes: int, rank: int) -> None:
        each = num_slots // num_processes
        ranges = [range(r * each, (r + 1) * each) for r in range(num_processes)]
        self.slots = ranges[rank]
        self.nodes_of_rank = [waiting_nodes(num_slots, s.start, s.stop) for s in ranges]
        self.num_rows = [len(nodes) for nodes in self.nodes_of_rank]
        self._num_slots = num_slots

    def add_up(self, summands: Iterable[T], add: Callable[[T, T], T]) -> T:
        """Returns the sum over all slots.

        Args:
            summands: Those of the nodes that all processes bring, in order of rank.
            add: Returns left plus right; it may overwrite either.
        """
        tree = TreeSum(self._num_slots, add)
        nodes = (node for nodes in self.nodes_of_rank for node in nodes)
        for node, summand in zip(nodes, summands, strict=True):
            tree.add(node, summand)
        (total,) = tree.take().values()
        return total


class OrderedSum:
    """Sums one vector for each slot over all processes, in the tree's order.

    Args:
        num_slots: S.
        collectives: The processes that share the slots, in slot order.
    """

    def __init__(self, num_slots: int, collectives: Collectives) -> None:
        self._collectives = collectives
        self._share = Share(num_slots, collectives.size, collectives.rank)
        self._tree = TreeSum(num_slots, torch.Tensor.add_)

    def deposit(self, slot: int, vector: torch.Tensor) -> None:
        """Puts in one slot's vector, of as many elements as all others; it is overwritten."""
        self._tree.add((0, slot), vector)

    def total(self) -> torch.Tensor:
        """Returns the sum over all S slots, once every slot of every process has put in its own."""
        waiting = list(self._tree.take().values())
        if self._collectives.size == 1:
            (root,) = waiting
            return root
        first = waiting[0]
        total = torch.empty_like(first)
        exchange = exchange_for(self._collectives, first.device)
        largest = exchange.largest(max(self._share.num_rows), first.dtype)
        exchange.run(
            [
                _VectorBucket(
                    self._share, [vector[start:stop] for vector in waiting], total[start:stop]
                )
                for start, stop in cut(first.numel(), largest)
            ],
            num_rows=self._share.num_rows,
            like=first,
        )
        return total


class _VectorBucket(Bucket):
    """A stretch of an ``OrderedSum``'s vectors."""

    def __init__(self, share: Share, waiting: list[torch.Tensor], total: torch.Tensor) -> None:
        super().__init__(total.numel())
        self._share = share
        self._waiting = waiting
        self._total = total

    def pack(self, rows: Sequence[torch.Tensor]) -> None:
        for row, vector in zip(rows, self._waiting, strict=True):
            row.copy_(vector)

    def add(self, rows: Sequence[torch.Tensor], total: torch.Tensor) -> None:
        total.copy_(self._share.add_up(rows, torch.Tensor.add_))

    def unpack(self, total: torch.Tensor) -> None:
        self._total.copy_(total)
