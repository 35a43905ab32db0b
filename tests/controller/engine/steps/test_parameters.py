"""What must hold of parameters before training begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from linear_trials import refusal, run_linear
from torch import nn

from trialrun.controller.engine.steps.parameters import parameter_names

SHARING = """
class Sharing(Linear):
    def make_model(self):
        return nn.ModuleDict({name: nn.Linear(3, 1).double() for name in "abc"})

    def make_optimizer(self):
        return torch.optim.SGD([*self.of("a"), *self.of("b")], lr=0.1)

    def of(self, name):
        return self.model[name].parameters()

    def set_up(self):
        self.other = self.context.wrap_optimizer(torch.optim.Adam(self.of("c")))
        self.context.wrap_optimizer(torch.optim.AdamW([*self.of("b"), *self.of("a")])ALLOWED)

    def loss(self, batch):
        inputs, targets = batch
        outputs = sum(layer(inputs) for layer in self.model.values())
        return nn.functional.mse_loss(outputs, targets)
"""


def test_optimizers_that_share_parameters_are_named_with_them(tmp_path: Path) -> None:
    assert refusal(tmp_path, SHARING.replace("ALLOWED", "")) == (
        "Optimizers 0 (SGD) and 2 (AdamW) share the parameters a.weight of model 0, a.bias of "
        "model 0, b.weight of model 0 and 1 more: the step of either would move them, and clear "
        "the gradients that the other needs. Give each optimizer its own parameters, or say "
        "wrap_optimizer(..., allow_shared_parameters=True)."
    )


@pytest.mark.parametrize("slots", [1, 3])
def test_shared_parameters_may_be_allowed(tmp_path: Path, slots: int) -> None:
    allowed = ", allow_shared_parameters=True"
    run, _ = run_linear(tmp_path, SHARING.replace("ALLOWED", allowed), slots=slots)
    assert run.batches == 8


@pytest.mark.parametrize("slots", [1, 2])
def test_a_lazy_module_that_saw_no_batch_is_named_with_the_way_out(
    tmp_path: Path, slots: int
) -> None:
    source = """
class Lazy(Linear):
    def make_model(self):
        model = nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(1)).double()
        WAY_OUT
        return model
"""
    assert refusal(tmp_path, source.replace("WAY_OUT", ""), slots=slots) == (
        "Parameter 0.weight of model 0 has no shape yet: its lazy module has seen no batch. Call "
        "the model once in the trial's __init__, on an example of the right shape, before the "
        "optimizer is made."
    )
    (tmp_path / "out").mkdir()
    way_out = "model(torch.zeros(1, 3, dtype=torch.float64))"
    run, _ = run_linear(tmp_path / "out", source.replace("WAY_OUT", way_out), slots=slots)
    assert run.batches == 8


def test_a_sparse_buffer_is_named_with_the_way_out(tmp_path: Path) -> None:
    source = """
class Graph(Linear):
    def make_model(self):
        model = super().make_model()
        edges = torch.tensor([[0, 1, 2], [1, 2, 0]])
        model.register_buffer("edges", torch.sparse_coo_tensor(edges, torch.ones(3)))
        return model
"""
    assert refusal(tmp_path, source, slots=2) == (
        "Buffer edges of model 0 is a sparse tensor (torch.sparse_coo), which is neither shared "
        "between processes nor kept in checkpoints. Register its indices and its values, and make "
        "the sparse tensor of them in forward."
    )


def test_every_parameter_has_a_name() -> None:
    first, second = nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1, bias=False))
    second.append(first)
    names = parameter_names([first, second])
    assert names == {
        second[0].weight: "0.weight of model 1",
        first.weight: "1.weight of model 1",
        first.bias: "1.bias of model 1",
    }
