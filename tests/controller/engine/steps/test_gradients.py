"""What slots put in and get back: the same bits on any number of processes, however they do it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thread_collectives import run_on_threads
from torch import nn

from trialrun import InvalidTrialError
from trialrun.controller.engine.parallel.collectives import Collectives, SingleProcess
from trialrun.controller.engine.steps.gradients import GradientSum

Steps = list[list[list[torch.Tensor | None]]]
"""For each batch, slot and parameter a gradient."""

SHAPES = [(3,), (2, 5), (0,), (1,), (4, 1, 2), (17,)]


def gradients_of(
    dtype: torch.dtype, *, batches: int, slots: int, seed: int, hole_percent: int
) -> Steps:
    """Over 6 orders of magnitude, of both signs, with zeros of both signs and with holes."""
    generator = torch.Generator().manual_seed(seed)

    def gradient(shape: tuple[int, ...]) -> torch.Tensor | None:
        if int(torch.randint(100, (1,), generator=generator)) < hole_percent:
            return None
        values = torch.randn(shape, generator=generator)
        values *= 10.0 ** torch.randint(-3, 4, shape, generator=generator)
        values[torch.rand(shape, generator=generator) < 0.2] = -0.0
        return values.to(dtype)

    return [[[gradient(shape) for shape in SHAPES] for _ in range(slots)] for _ in range(batches)]


def expected(steps: Steps, divisor: int, dtype: torch.dtype) -> list[torch.Tensor | None]:
    """The rule, written down a second time: each batch along the tree, batches one after another.

    A slot without a gradient adds zeros where another has one.
    """
    num_slots = len(steps[0])

    def node(slots: list[list[torch.Tensor]], place: int, level: int, index: int) -> torch.Tensor:
        if level == 0:
            return slots[index][place]
        left = node(slots, place, level - 1, 2 * index)
        if (2 * index + 1) << (level - 1) >= num_slots:
            return left
        return left + node(slots, place, level - 1, 2 * index + 1)

    totals: list[torch.Tensor | None] = []
    for place, shape in enumerate(SHAPES):
        if all(slot[place] is None for batch in steps for slot in batch):
            totals.append(None)
            continue
        zeros = torch.zeros(shape, dtype=dtype)
        roots = [
            node(
                [[zeros if g is None else g for g in slot] for slot in batch],
                place,
                (num_slots - 1).bit_length(),
                0,
            )
            for batch in steps
        ]
        totals.append(sum(roots[1:], start=roots[0]) / divisor)
    return totals


def summed(process: Collectives, steps: Steps, dtype: torch.dtype) -> list[torch.Tensor | None]:
    """What one process does in a window, twice: nothing of the first may be left in the second."""
    num_slots = len(steps[0])
    parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in SHAPES]
    sums = GradientSum({}, num_slots=num_slots, collectives=process)
    each = num_slots // process.size
    for _ in range(2):
        for number, batch in enumerate(steps):
            for slot in range(process.rank * each, (process.rank + 1) * each):
                for parameter, gradient in zip(parameters, batch[slot], strict=True):
                    parameter.grad = None if gradient is None else gradient.clone()
                sums.deposit(slot, parameters)
                assert all(parameter.grad is None for parameter in parameters)
            if number < len(steps) - 1:
                sums.accumulate()
                assert all(parameter.grad is None for parameter in parameters)
            else:
                found = sums.assign(num_slots)
        assert found == any(parameter.grad is not None for parameter in parameters)
    return [parameter.grad for parameter in parameters]


def bits(gradients: list[torch.Tensor | None]) -> list[Any]:
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return [None if g is None else g.view(kinds[g.dtype.itemsize]).tolist() for g in gradients]


@pytest.mark.parametrize(
    ("dtype", "num_slots"),
    [
        *((torch.float32, number) for number in (2, 3, 4, 6)),
        *((dtype, 5) for dtype in (torch.float16, torch.bfloat16, torch.float64)),
    ],
)
@settings(deadline=None, max_examples=3, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    batches=st.integers(1, 3),
    hole_percent=st.sampled_from([0, 40, 85]),
)
def test_every_number_of_processes_and_way_of_exchange_gives_the_bits_of_the_rule(
    dtype: torch.dtype, num_slots: int, seed: int, batches: int, hole_percent: int
) -> None:
    steps = gradients_of(
        dtype, batches=batches, slots=num_slots, seed=seed, hole_percent=hole_percent
    )
    wanted = bits(expected(steps, num_slots, dtype))
    assert bits(summed(SingleProcess(), steps, dtype)) == wanted
    for size in (size for size in range(2, num_slots + 1) if num_slots % size == 0):
        for shares_memory in (False, True):
            found = run_on_threads(
                size, lambda p: summed(p, steps, dtype), shares_memory=shares_memory
            )
            assert [bits(gradients) for gradients in found] == [wanted] * size, (size, steps)


@pytest.mark.parametrize("shares_memory", [False, True])
def test_vectors_longer_than_a_bucket_are_cut_and_put_together(
    shares_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def total(process: Collectives) -> list[list[float]]:
        parameters = [nn.Parameter(torch.zeros(n)) for n in (70, 1, 0, 300, 2)]
        sums = GradientSum({}, num_slots=4, collectives=process)
        for group_step in range(3):
            each = 4 // process.size
            for slot in range(process.rank * each, (process.rank + 1) * each):
                for place, parameter in enumerate(parameters):
                    parameter.grad = torch.arange(parameter.numel()) * 4.0 + slot + place
                sums.deposit(slot, parameters)
            if group_step < 2:
                sums.accumulate()
        sums.assign(4)
        assert len(sums.groups[0].buckets) >= 4
        return [p.grad.tolist() for p in parameters if p.grad is not None]

    monkeypatch.setattr("trialrun.controller.engine.parallel.buckets._CACHED_BYTES", 256)
    monkeypatch.setattr("trialrun.controller.engine.parallel.bucket_collectives._SENT_BYTES", 256)
    monkeypatch.setattr("trialrun.controller.engine.parallel.shared_memory._BUCKET_BYTES", 256)
    wanted = [[3 * (4.0 * i + 1.5 + place) for i in range(n)]
              for place, n in enumerate((70, 1, 0, 300, 2))]  # fmt: skip
    assert total(SingleProcess()) == wanted
    assert run_on_threads(2, total, shares_memory=shares_memory) == [wanted] * 2
    assert run_on_threads(4, total, shares_memory=shares_memory) == [wanted] * 4


def test_gradients_get_the_memory_order_of_their_parameters() -> None:
    parameter = nn.Parameter(torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last))
    values = torch.arange(96.0).view(2, 3, 4, 4)

    def strides(process: Collectives) -> tuple[tuple[int, ...], bool]:
        sums = GradientSum({}, num_slots=4, collectives=process)
        own = nn.Parameter(parameter.detach().clone())
        each = 4 // process.size
        for slot in range(process.rank * each, (process.rank + 1) * each):
            # Slot 3 has none, slot 1's lies otherwise.
            own.grad = values.clone() if slot == 1 else torch.empty_like(own).copy_(values)
            if slot == 3:
                own.grad = None
            sums.deposit(slot, [own])
        sums.assign(3)
        assert own.grad is not None
        return own.grad.stride(), torch.equal(own.grad, values)

    wanted = (parameter.stride(), True)
    assert strides(SingleProcess()) == wanted
    assert run_on_threads(2, strides) == [wanted] * 2
    assert run_on_threads(4, strides, shares_memory=True) == [wanted] * 4


def test_a_tensor_that_is_the_gradient_of_two_parameters_counts_for_both() -> None:
    parameters = [nn.Parameter(torch.zeros(3)) for _ in range(2)]
    sums = GradientSum({}, num_slots=2, collectives=SingleProcess())
    for slot in range(2):
        shared = torch.full((3,), 2.0 + slot)
        for parameter in parameters:
            parameter.grad = shared
        sums.deposit(slot, parameters)
    sums.assign(1)
    for parameter in parameters:
        assert parameter.grad is not None
        assert parameter.grad.tolist() == [5.0] * 3
        parameter.grad.zero_()


def test_a_slots_memory_may_be_used_again_by_the_next() -> None:
    parameter, memory = nn.Parameter(torch.zeros(3)), torch.zeros(3)
    sums = GradientSum({}, num_slots=4, collectives=SingleProcess())
    for slot in range(4):
        parameter.grad = memory.fill_(10.0**slot)
        sums.deposit(slot, [parameter])
    sums.assign(1)
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [1111.0] * 3


def test_parameters_may_be_frozen_and_unfrozen_within_a_window() -> None:
    first, second = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    sums = GradientSum({}, num_slots=2, collectives=SingleProcess())

    def batch(parameters: list[nn.Parameter]) -> None:
        for slot in range(2):
            for parameter in parameters:
                parameter.grad = torch.full((2,), 1.0 + slot)
            sums.deposit(slot, parameters)

    batch([first])
    sums.accumulate()
    batch([first, second])
    sums.accumulate()
    first.requires_grad_(False)
    batch([second])
    assert sums.assign(1)
    assert first.grad is None
    assert second.grad is not None
    assert second.grad.tolist() == [6.0, 6.0]
    batch([second])
    sums.assign(1)
    assert second.grad.tolist() == [3.0, 3.0]


def test_slots_that_freeze_different_parameters_are_named_on_any_number_of_processes() -> None:
    rule = "Freeze, unfreeze and add parameters in the same way on every slot."

    def refusal(process: Collectives) -> str:
        parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))]
        sums = GradientSum({}, num_slots=2, collectives=process)
        with pytest.raises(InvalidTrialError) as caught:
            for slot in range(2) if process.size == 1 else [process.rank]:
                sums.deposit(slot, parameters[slot:])
            sums.assign(1)
        return str(caught.value)

    assert refusal(SingleProcess()) == (
        "The parameters that take gradients in one step of an optimizer are 2 for one slot and 1, "
        f"or others, for the next. {rule}"
    )
    assert (
        run_on_threads(2, refusal)
        == [
            "The parameters that take gradients in one step of an optimizer are not the same for "
            f"all slots: process 0 has 2 with 5 elements; process 1 has 1 with 3 elements. {rule}"
        ]
        * 2
    )


def test_a_gradient_may_be_sparse_in_one_batch_of_a_window_and_dense_in_another() -> None:
    rows = torch.sparse_coo_tensor(
        torch.tensor([[1]]), torch.tensor([[5.0, 7.0]]), (3, 2), check_invariants=True
    )

    def total(process: Collectives) -> list[list[float]]:
        table = nn.Parameter(torch.zeros(3, 2))
        sums = GradientSum({table: "table"}, num_slots=2, collectives=process)
        for kinds in ("dense", "sparse"), ("sparse", "dense", "sparse"), ("sparse", "sparse"):
            for number, kind in enumerate(kinds):
                for slot in range(2) if process.size == 1 else [process.rank]:
                    table.grad = rows.clone() if kind == "sparse" else torch.ones(3, 2)
                    sums.deposit(slot, [table])
                if number < len(kinds) - 1:
                    sums.accumulate()
                else:
                    sums.assign(2)
            assert table.grad is not None
            assert table.grad.is_sparse == ("dense" not in kinds)
            dense = table.grad.to_dense()
            times = kinds.count("sparse")
            assert torch.equal(dense, rows.to_dense() * times + kinds.count("dense"))
        return dense.tolist()  # type: ignore[no-any-return]

    assert run_on_threads(2, total) == [total(SingleProcess())] * 2


def test_many_parameters_of_which_few_are_used_are_agreed_on() -> None:
    number = 150_000  # more than one message holds
    parameters = [nn.Parameter(torch.zeros(0)) for _ in range(number - 1)]

    def used(process: Collectives) -> list[int]:
        own = [*(nn.Parameter(p.detach()) for p in parameters), nn.Parameter(torch.zeros(1))]
        sums = GradientSum({}, num_slots=2, collectives=process)
        own[70_000 * process.rank].grad = torch.zeros(0)
        if process.rank == 1:
            own[-1].grad = torch.ones(1)
        sums.deposit(process.rank, own)
        sums.assign(1)
        return [place for place, parameter in enumerate(own) if parameter.grad is not None]

    assert run_on_threads(2, used) == [[0, 70_000, number - 1]] * 2


def test_gradients_are_in_the_order_of_their_batches_within_a_window() -> None:
    values = [1e8, 3.0, -1e8]
    parameter = nn.Parameter(torch.zeros(1))
    sums = GradientSum({}, num_slots=2, collectives=SingleProcess())
    for number, value in enumerate(values):
        for slot in range(2):
            parameter.grad = torch.full((1,), value * (1 - slot))
            sums.deposit(slot, [parameter])
        sums.accumulate() if number < 2 else sums.assign(1)
    assert parameter.grad is not None
    assert parameter.grad.item() == 0.0  # (1e8 + 3) + -1e8; from the end it would be 3 or 8


@pytest.mark.parametrize("values", [[None, -0.0], [-0.0, None], [-0.0, -0.0]])
def test_a_missing_gradient_is_a_zero_and_not_a_minus_zero(values: list[float | None]) -> None:
    def sign(process: Collectives) -> str:
        parameter = nn.Parameter(torch.zeros(1))
        sums = GradientSum({}, num_slots=2, collectives=process)
        for slot in range(2) if process.size == 1 else [process.rank]:
            value = values[slot]
            parameter.grad = None if value is None else torch.tensor([value])
            sums.deposit(slot, [parameter])
        sums.assign(1)
        assert parameter.grad is not None
        return str(parameter.grad.item())

    wanted = "0.0" if None in values else "-0.0"
    assert sign(SingleProcess()) == wanted
    assert run_on_threads(2, sign, shares_memory=True) == [wanted] * 2


def test_an_error_names_the_parameter_that_is_sparse_on_one_slot_alone() -> None:
    table = nn.Parameter(torch.zeros(3, 2))
    sums = GradientSum({table: "weight of model 0"}, num_slots=2, collectives=SingleProcess())
    for slot in range(2):
        table.grad = torch.ones(3, 2) if slot else torch.ones(3, 2).to_sparse(1)
        sums.deposit(slot, [table])
    message = "The gradient of weight of model 0 is sparse on some slots and dense on others"
    with pytest.raises(InvalidTrialError, match=f"^{re.escape(message)}"):
        sums.assign(1)
