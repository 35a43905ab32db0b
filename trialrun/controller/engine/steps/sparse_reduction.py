"""Sparse gradients are summed along the same tree as dense ones, and stay sparse.

A sparse gradient of shape (N, D...) has ``indices`` (k, n) of its n rows and ``values`` (n, D...).
Each slot's is coalesced: no index twice. So the sum of two nodes adds at most two numbers for an
index, and their order does not matter to floating point; which nodes are added, the tree says. A
row that only some slots have gets the same bits as it would in a dense sum, where the others add
zeros to it.

Between processes the waiting nodes are gathered, each padded to the longest process's length, and
every process adds them up.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from trialrun._errors import InvalidTrialError
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.steps.reduction import Share, TreeSum


class SparseSum:
    """Sums one parameter's sparse gradients over all slots.

    Args:
        parameter: The parameter.
        name: What it is called in an error.
        num_slots: S.
        collectives: The processes that share the slots, in slot order.
    """

    def __init__(
        self,
        parameter: torch.nn.Parameter,
        name: str,
        *,
        num_slots: int,
        collectives: Collectives,
    ) -> None:
        self._parameter = parameter
        self._name = name
        self._num_slots = num_slots
        self._collectives = collectives
        self._share = Share(num_slots, collectives.size, collectives.rank)

    def total(self, gradients: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """Returns the coalesced sum; every process calls it, and some slot has a gradient.

        Args:
            gradients: The coalesced gradients of this process's slots that have one.

        Raises:
            InvalidTrialError: Slots have gradients of different numbers of sparse dimensions.
        """
        own = TreeSum(self._num_slots, _add)
        dims = {gradient.sparse_dim() for gradient in gradients.values()}
        if len(dims) <= 1:
            for slot in self._share.slots:
                own.add((0, slot), _rows(gradients.get(slot)))
        # What others must know before they can receive: -1 stands for a mixture.
        nodes = list(own.take().values())
        counts = [0 if node is None else node.values().shape[0] for node in nodes]
        counts += [0] * (max(self._share.num_rows) - len(counts))
        header = [-1 if len(dims) > 1 else max(dims, default=0), *counts]
        headers = self._collectives.start_gather(header).result()
        sparse_dim = self._require_one_dim({header[0] for header in headers})
        if self._collectives.size > 1:
            nodes = self._gather(nodes, [header[1:] for header in headers], sparse_dim)
        total = self._share.add_up(nodes, _add)
        return (
            self._sparse(
                self._parameter.new_zeros((sparse_dim, 0), dtype=torch.int64),
                self._parameter.new_zeros((0, *self._parameter.shape[sparse_dim:])),
            )
            if total is None
            else total
        )

    def _gather(
        self, own: list[torch.Tensor | None], counts: list[list[int]], sparse_dim: int
    ) -> list[torch.Tensor | None]:
        """Returns the waiting nodes of all processes, in rank and slot order.

        Args:
            own: This process's nodes.
            counts: For each process the rows of each of its nodes.
            sparse_dim: Dimensions that ``indices`` speaks of.
        """
        longest = max(map(sum, counts))
        if longest == 0:
            return [None for nodes in self._share.nodes_of_rank for _ in nodes]
        row_shape = self._parameter.shape[sparse_dim:]
        indices = self._parameter.new_zeros((longest, sparse_dim), dtype=torch.int64)
        values = self._parameter.new_zeros((longest, *row_shape))
        present = [summand for summand in own if summand is not None]
        if present:
            number = sum(counts[self._collectives.rank])
            torch.cat([s.indices().T for s in present], out=indices[:number])
            torch.cat([s.values() for s in present], out=values[:number])
        # Values as bytes: backends do not know every type.
        all_indices = self._collectives.all_gather(indices.view(-1)).view(-1, longest, sparse_dim)
        all_values = (
            self._collectives.all_gather(values.view(-1).view(torch.uint8))
            .view(values.dtype)
            .view(-1, longest, *row_shape)
        )
        nodes: list[torch.Tensor | None] = []
        for rank, places in enumerate(self._share.nodes_of_rank):
            stop = 0
            for count, _ in zip(counts[rank], places, strict=False):
                start, stop = stop, stop + count
                rows = slice(start, stop)
                node = self._sparse(all_indices[rank, rows].T, all_values[rank, rows])
                nodes.append(_rows(node))
        return nodes

    def _sparse(self, indices: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return torch.sparse_coo_tensor(
            indices, values, self._parameter.shape, is_coalesced=True, check_invariants=False
        )

    def _require_one_dim(self, dims: set[int]) -> int:
        """Returns the number of dimensions that all slots with a gradient have."""
        dims = dims - {0}
        if len(dims) != 1 or dims == {-1}:
            raise InvalidTrialError(
                f"The sparse gradients of {self._name} have different numbers of sparse dimensions "
                "on different slots, so they cannot be added. Use the parameter in the same way "
                "on every slot."
            )
        (sparse_dim,) = dims
        return sparse_dim


def _rows(gradient: torch.Tensor | None) -> torch.Tensor | None:
    """Returns None for a gradient without rows: both say that the slot adds nothing."""
    return None if gradient is None or gradient.values().shape[0] == 0 else gradient


def _add(left: torch.Tensor | None, right: torch.Tensor | None) -> torch.Tensor | None:
    if left is None or right is None:
        return right if left is None else left
    return (left + right).coalesce()
