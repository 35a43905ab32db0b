"""The sum over slots has one order: a binary tree over slot numbers, whoever computes it.

S slots, P processes, q = S / P slots in each process. Node (level, index) of the tree is the sum
over slots [index * 2**level, (index + 1) * 2**level), cut off at S. A node is always its left child
plus its right child, or its left child alone where the right one lies beyond S:

    S = 6:   level 3           (0 1 2 3) + (4 5)
             level 2   (0 1) + (2 3)       (4 5)
             level 1    0 + 1   2 + 3      4 + 5

Which process adds two nodes differs; which two nodes are added never does. So the result has the
same bits for every P: floating-point addition is not associative, but nothing is associated anew.
Additions are element by element, so cutting vectors into chunks changes nothing either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from trialrun.controller.engine.parallel.collectives import Collectives

T = TypeVar("T")

Node = tuple[int, int]
"""(level, index) in the tree."""


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


def waiting_nodes(num_slots: int, first: int, stop: int) -> list[Node]:
    """Returns the nodes that remain when slots [first, stop) have been added up alone.

    They are what a process sends; each process knows them of every other without asking.
    S = 20, P = 4, process 1 with slots 5 to 9: slot 5, slots 6 and 7, slots 8 and 9.
    """
    tree = TreeSum[None](num_slots, lambda left, right: None)
    for slot in range(first, stop):
        tree.add((0, slot), None)
    return list(tree.take())


def waiting_nodes_of_ranks(num_slots: int, num_processes: int) -> list[list[Node]]:
    """Returns for each process the nodes that it sends."""
    each = num_slots // num_processes
    return [
        waiting_nodes(num_slots, rank * each, (rank + 1) * each) for rank in range(num_processes)
    ]


class OrderedSum:
    """Sums one vector for each slot over all processes, in the tree's order.

    Between processes: each is responsible for one P-th of the elements, gets the waiting nodes of
    that chunk from all, adds them along the tree, and the sums are gathered. With one node in
    each process that is as many bytes as a ring all-reduce sends.

    Args:
        num_slots: S.
        collectives: The processes that share the slots, in slot order.
    """

    def __init__(self, num_slots: int, collectives: Collectives) -> None:
        self._num_slots = num_slots
        self._collectives = collectives
        self._nodes_of_rank = waiting_nodes_of_ranks(num_slots, collectives.size)
        self._tree = TreeSum(num_slots, torch.Tensor.add_)

    def padded_length(self, length: int) -> int:
        """Returns the next length that can be cut into P equal chunks."""
        return -(-length // self._collectives.size) * self._collectives.size

    def deposit(self, slot: int, vector: torch.Tensor) -> None:
        """Puts in one slot's vector, of a padded length; it is overwritten."""
        self._tree.add((0, slot), vector)

    def total(self) -> torch.Tensor:
        """Returns the sum over all S slots, once every slot of every process has put in its own."""
        waiting = list(self._tree.take().values())
        if self._collectives.size == 1:
            (root,) = waiting
            return root
        return self._collectives.all_gather(self._sum_own_chunk(waiting))

    def _sum_own_chunk(self, waiting: list[torch.Tensor]) -> torch.Tensor:
        size, rank = self._collectives.size, self._collectives.rank
        chunk = waiting[0].numel() // size
        # (nodes, P, chunk) -> (P, nodes, chunk): all that one process gets stands together. With
        # one node, the usual case, the vector is in that order already.
        if len(waiting) == 1:
            chunks = waiting[0]
        else:
            chunks = torch.stack(waiting).view(-1, size, chunk).transpose(0, 1).reshape(-1)
        received = self._collectives.all_to_all(
            chunks,
            receive_sizes=[len(nodes) * chunk for nodes in self._nodes_of_rank],
            send_sizes=[len(self._nodes_of_rank[rank]) * chunk] * size,
        )
        tree = TreeSum(self._num_slots, torch.Tensor.add_)
        rows = iter(received.view(-1, chunk))
        for nodes in self._nodes_of_rank:
            for node in nodes:
                tree.add(node, next(rows))
        (total,) = tree.take().values()
        return total
