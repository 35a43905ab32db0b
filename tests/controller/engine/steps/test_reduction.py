from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thread_collectives import run_on_threads

from trialrun.controller.engine.parallel.collectives import Collectives, SingleProcess
from trialrun.controller.engine.steps.reduction import OrderedSum, TreeSum, waiting_nodes


def slot_vectors(num_slots: int, length: int, seed: int) -> list[torch.Tensor]:
    """Values over 12 orders of magnitude, of both signs: any other association rounds elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    mantissas = torch.randn(num_slots, length, generator=generator)
    exponents = torch.randint(-6, 7, (num_slots, length), generator=generator)
    return list(mantissas * 10.0**exponents)


def reference(vectors: list[torch.Tensor]) -> torch.Tensor:
    """The tree of the module's docstring, top down."""
    num_slots = len(vectors)

    def node(level: int, index: int) -> torch.Tensor:
        if level == 0:
            return vectors[index]
        left = node(level - 1, 2 * index)
        if (2 * index + 1) << (level - 1) >= num_slots:
            return left
        return left + node(level - 1, 2 * index + 1)

    return node((num_slots - 1).bit_length(), 0)


def ordered_sum(vectors: list[torch.Tensor], collectives: Collectives) -> torch.Tensor:
    """What one process does: deposit its own slots' vectors, and ask for the total."""
    ordered = OrderedSum(len(vectors), collectives)
    slots_each = len(vectors) // collectives.size
    for slot in range(collectives.rank * slots_each, (collectives.rank + 1) * slots_each):
        ordered.deposit(slot, vectors[slot].clone())
    return ordered.total()


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.equal(first.view(torch.int32), second.view(torch.int32))


@pytest.mark.parametrize("num_slots", range(1, 21))
@settings(deadline=None, max_examples=4, derandomize=True)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 23))
def test_every_number_of_processes_gives_the_bits_of_the_tree(
    num_slots: int, seed: int, length: int
) -> None:
    vectors = slot_vectors(num_slots, length, seed)
    expected = reference(vectors)
    assert same_bits(ordered_sum(vectors, SingleProcess()), expected)
    for size in range(2, num_slots + 1):
        if num_slots % size == 0:
            totals = run_on_threads(size, lambda process: ordered_sum(vectors, process))
            assert all(same_bits(total, expected) for total in totals), size


def test_association_matters_for_the_values_that_are_tested() -> None:
    vectors = slot_vectors(20, 200, seed=1)
    left_to_right = sum(vectors[1:], start=vectors[0])
    assert (left_to_right != reference(vectors)).float().mean() > 0.5


def test_a_minus_zero_stays_one() -> None:
    vectors = [torch.tensor([-0.0]) for _ in range(3)]
    assert str(ordered_sum(vectors, SingleProcess()).item()) == "-0.0"


def test_a_sum_can_be_used_again() -> None:
    ordered = OrderedSum(3, SingleProcess())
    for value in (1.0, 10.0):
        for slot in range(3):
            ordered.deposit(slot, torch.full((2,), value))
        assert ordered.total().tolist() == [3 * value] * 2


def test_slots_may_come_in_any_order() -> None:
    vectors = slot_vectors(7, 50, seed=2)
    tree = TreeSum(7, torch.Tensor.add_)
    for slot in (6, 1, 3, 0, 5, 2, 4):
        tree.add((0, slot), vectors[slot].clone())
    ((node, total),) = tree.take().items()
    assert node == (3, 0)
    assert same_bits(total, reference(vectors))


@pytest.mark.parametrize(
    ("num_slots", "first", "stop", "nodes"),
    [
        (20, 5, 10, [(0, 5), (1, 3), (1, 4)]),
        (6, 0, 6, [(3, 0)]),
        (6, 0, 3, [(1, 0), (0, 2)]),
        # Slots 4 and 5 are all that lies below node (2, 1).
        (6, 3, 6, [(0, 3), (2, 1)]),
        (6, 2, 4, [(1, 1)]),
        (6, 4, 6, [(2, 1)]),
        (1, 0, 1, [(0, 0)]),
        (4, 1, 2, [(0, 1)]),
    ],
)
def test_waiting_nodes_are_known_without_asking(
    num_slots: int, first: int, stop: int, nodes: list[tuple[int, int]]
) -> None:
    assert waiting_nodes(num_slots, first, stop) == nodes


@pytest.mark.parametrize("slots_each", range(1, 34))
def test_a_process_holds_few_vectors_at_a_time(slots_each: int) -> None:
    size = 6
    # floor(log2(q)) + 1, and 2 floor(log2(q)) where the first slot splits subtrees
    aligned, anywhere = slots_each.bit_length(), max(1, 2 * (slots_each.bit_length() - 1))
    for rank in range(size):
        tree = TreeSum(slots_each * size, torch.Tensor.add_)
        references: list[weakref.ref[torch.Tensor]] = []
        for slot in range(rank * slots_each, (rank + 1) * slots_each):
            vector = torch.zeros(1)
            references.append(weakref.ref(vector))
            tree.add((0, slot), vector)
            del vector
            alive = sum(reference() is not None for reference in references)
            assert 1 <= alive <= (aligned if rank == 0 else anywhere)


def test_up_to_49_slots_need_no_more_where_slots_begin_at_no_subtree() -> None:
    for num_slots in range(1, 50):
        for size in (size for size in range(1, num_slots + 1) if num_slots % size == 0):
            each = num_slots // size
            for rank in range(size):
                # While the last slot computes, the others of the process are in vectors.
                first, last = rank * each, (rank + 1) * each - 1
                for stop in range(first + 1, last + 1):
                    num_vectors = len(waiting_nodes(num_slots, first, stop))
                    assert num_vectors <= (each - 1).bit_length() + 1  # log2(q), rounded up
