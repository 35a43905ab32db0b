"""Sparse gradients: the order of their sum, and what the optimizer gets."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from linear_trials import refusal, run_linear
from thread_collectives import run_on_threads
from torch import nn

from trialrun import InvalidTrialError
from trialrun.controller.engine.parallel.collectives import Collectives, SingleProcess
from trialrun.controller.engine.steps.gradients import GradientSum
from trialrun.controller.engine.steps.reduction import TreeSum
from trialrun.controller.engine.steps.sparse_reduction import SparseSum

ROWS, WIDTH = 9, 3
Gradients = Mapping[int, torch.Tensor]


def slot_gradients(num_slots: int, absent: Collection[int] = ()) -> dict[int, torch.Tensor]:
    """Coalesced gradients over 12 orders of magnitude, each of other rows; slot 1's has none."""
    generator = torch.Generator().manual_seed(num_slots)
    gradients = {}
    for slot in range(num_slots):
        rows = torch.arange(slot % 4, ROWS, 1 + slot % 3) if slot != 1 else torch.arange(0)
        shape = (len(rows), WIDTH)
        values = torch.randn(shape, generator=generator)
        values *= 10.0 ** torch.randint(-6, 7, shape, generator=generator)
        gradient = torch.sparse_coo_tensor(
            rows[None], values, (ROWS, WIDTH), check_invariants=False
        ).coalesce()
        if slot not in absent:
            gradients[slot] = gradient
    return gradients


def sparse_total(process: Collectives, num_slots: int, gradients: Gradients) -> torch.Tensor:
    parameter = nn.Parameter(torch.zeros(ROWS, WIDTH))
    each = num_slots // process.size
    own = range(process.rank * each, (process.rank + 1) * each)
    total = SparseSum(parameter, "table", num_slots=num_slots, collectives=process)
    return total.total({slot: g for slot, g in gradients.items() if slot in own})


@pytest.mark.parametrize("num_slots", [2, 4, 6, 12])
@pytest.mark.parametrize("absent", [set(), {0, 2, 3}])
def test_every_number_of_processes_gives_the_bits_of_the_dense_tree(
    num_slots: int, absent: set[int]
) -> None:
    gradients = slot_gradients(num_slots, absent if num_slots > 2 else set())
    tree = TreeSum(num_slots, torch.Tensor.add_)
    for slot in range(num_slots):
        gradient = gradients.get(slot)
        tree.add((0, slot), torch.zeros(ROWS, WIDTH) if gradient is None else gradient.to_dense())
    (dense,) = tree.take().values()
    folded = sparse_total(SingleProcess(), num_slots, gradients)
    used = torch.cat([gradient.indices()[0] for gradient in gradients.values()]).unique()
    assert folded.is_coalesced()
    assert torch.equal(folded.indices()[0], used)
    assert torch.equal(folded.to_dense(), dense)
    for size in (size for size in range(2, num_slots + 1) if num_slots % size == 0):
        for total in run_on_threads(size, lambda p: sparse_total(p, num_slots, gradients)):
            assert torch.equal(total.indices(), folded.indices())
            assert torch.equal(total.values(), folded.values())


def test_gradients_without_rows_sum_to_one_without_rows() -> None:
    gradients = {slot: slot_gradients(2)[1] for slot in range(4)}
    totals = run_on_threads(2, lambda process: sparse_total(process, 4, gradients))
    for total in (*totals, sparse_total(SingleProcess(), 4, gradients)):
        assert total.shape == (ROWS, WIDTH)
        assert total.indices().shape == (1, 0)


@pytest.mark.parametrize("size", [1, 2])
def test_gradients_that_index_other_dimensions_are_refused_on_every_process(size: int) -> None:
    gradients = slot_gradients(4)
    gradients[2] = gradients[2].to_dense().to_sparse(2).coalesce()

    def refused(process: Collectives) -> str:
        with pytest.raises(InvalidTrialError) as caught:
            sparse_total(process, 4, gradients)
        return str(caught.value)

    refusals = [refused(SingleProcess())] if size == 1 else run_on_threads(size, refused)
    message = (
        "The sparse gradients of table have different numbers of sparse dimensions on different "
        "slots, so they cannot be added. Use the parameter in the same way on every slot."
    )
    assert refusals == [message] * size


def test_a_parameter_may_be_sparse_in_one_step_and_dense_in_the_next() -> None:
    sparse = slot_gradients(4)

    def step(process: Collectives) -> list[torch.Tensor]:
        table, other = nn.Parameter(torch.zeros(ROWS, WIDTH)), nn.Parameter(torch.zeros(2))
        sums = GradientSum({table: "table"}, num_slots=4, collectives=process)
        each = 4 // process.size
        found = []
        for kind in ("sparse", "dense", "none", "sparse", "dense"):
            for slot in range(process.rank * each, (process.rank + 1) * each):
                table.grad = sparse[slot] if kind == "sparse" else sparse[slot].to_dense()
                if kind == "none" or slot == 3:
                    table.grad = None
                other.grad = torch.full((2,), float(slot))
                sums.deposit(slot, [table, other])
            assert sums.assign(4)
            assert (table.grad is None) == (kind == "none")
            if table.grad is not None:
                assert table.grad.is_sparse == (kind == "sparse")
                found.append(table.grad.to_dense())
            assert other.grad is not None
            assert other.grad.tolist() == [1.5, 1.5]
        return found

    folded = step(SingleProcess())
    assert len(folded) == 4
    for gradients in (folded, *run_on_threads(2, step), *run_on_threads(4, step)):
        assert all(torch.equal(gradient, folded[0]) for gradient in gradients)


def test_parameters_of_one_optimizer_are_grouped_by_device_and_type() -> None:
    kinds: list[dict[str, Any]] = [
        {"dtype": torch.float32},
        {"dtype": torch.float32, "device": "meta"},
        {"dtype": torch.float64},
        {"dtype": torch.float32},
    ]
    parameters = [nn.Parameter(torch.zeros(2, **kind)) for kind in kinds]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    sums = GradientSum({}, num_slots=2, collectives=SingleProcess())
    sums.deposit(0, parameters)
    grouped = [group.parameters for group in sums.groups]
    assert [len(group) for group in grouped] == [2, 1, 1]
    assert grouped[0] == [parameters[0], parameters[3]]
    assert all(parameter.grad is None for parameter in parameters)


SPARSE = """
class Sparse(Linear):
    seen = []

    def make_model(self):
        return nn.Embedding(7, 2, sparse=IS_SPARSE).double()

    def train_batch(self, batch, epoch_idx, batch_idx):
        words = (batch[0][:, 0] * 1000).long() % 7
        self.context.backward(self.model(words).square().sum() + self.model(words[:1]).sum())
        self.context.step_optimizer(self.optimizer, clip_grads=self.look)
        return {"loss": 0.0}

    def look(self, parameters):
        (parameter,) = parameters
        self.seen.append(parameter.grad)

    def evaluate_batch(self, batch, batch_idx):
        return {"loss": 0.0}
"""


@pytest.mark.parametrize("slots, aggregation", [(1, 1), (1, 2), (4, 1), (3, 2)])
def test_a_sparse_gradient_stays_sparse_and_moves_the_weights_as_a_dense_one(
    tmp_path: Path, slots: int, aggregation: int
) -> None:
    weights = []
    for name in ("True", "False"):
        folder = tmp_path / name
        folder.mkdir()
        run, trial = run_linear(
            folder,
            SPARSE.replace("IS_SPARSE", name),
            slots=slots,
            aggregation_frequency=aggregation,
        )
        assert [gradient.is_sparse for gradient in trial.seen] == [name == "True"] * (
            8 // aggregation
        )
        weights.append(run.checkpoints[-1].contents.models[0]["weight"])
    # One slot's own duplicates are added by the optimizer, in another order.
    torch.testing.assert_close(*weights, rtol=1e-13, atol=1e-15)


def test_a_gradient_that_is_sparse_on_some_slots_alone_is_refused(tmp_path: Path) -> None:
    source = SPARSE.replace("IS_SPARSE", "True").replace(
        "        words =",
        "        self.model.sparse = self.context.slot == 0\n        words =",
    )
    message = (
        "The gradient of weight of model 0 is sparse on some slots and dense on others, so they "
        "cannot be added. Use the parameter in the same way on every slot, or build its embedding "
        "with sparse=False."
    )
    assert re.fullmatch(re.escape(message), refusal(tmp_path, source, slots=2))
