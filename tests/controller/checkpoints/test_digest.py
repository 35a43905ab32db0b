from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from trialrun.controller.checkpoints.digest import digest, named_tensors


def trained() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Two models with buffers, and two optimizers with state."""
    torch.manual_seed(3)
    models = [nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), nn.Linear(2, 1)]
    optimizers = [
        torch.optim.AdamW(models[0].parameters()),
        torch.optim.SGD(models[1].parameters(), lr=0.1, momentum=0.9),
    ]
    models[1](models[0](torch.randn(4, 3))).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    return (
        [copy.deepcopy(model.state_dict()) for model in models],
        [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers],
    )


def test_the_digest_is_a_function_of_the_contents() -> None:
    first, second = digest(*trained()), digest(*trained())
    assert first == second
    assert len(first) == 64
    models, optimizers = trained()
    reordered = [dict(reversed(model.items())) for model in models]
    assert digest(reordered, optimizers) == first


def test_every_parameter_buffer_and_optimizer_tensor_has_a_name() -> None:
    names = [name for name, _ in named_tensors(*trained())]
    assert len(names) == len(set(names))
    assert {
        "model.0.0.weight",
        "model.0.1.running_mean",
        "model.0.1.num_batches_tracked",
        "model.1.bias",
        "optimizer.0.state.0.exp_avg",
        "optimizer.0.state.3.step",
        "optimizer.1.state.1.momentum_buffer",
    } <= set(names)
    assert len(names) == (2 + 5) + 2 + 4 * 3 + 2


@pytest.mark.parametrize("position", range(23))
def test_one_changed_bit_of_any_tensor_changes_it(position: int) -> None:
    models, optimizers = trained()
    before = digest(models, optimizers)
    tensors = list(named_tensors(models, optimizers))
    assert len(tensors) == 23
    data = tensors[position][1].view(-1).view(torch.uint8)
    data[-1] ^= 1
    assert digest(models, optimizers) != before
    data[-1] ^= 1
    assert digest(models, optimizers) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.view(torch.int32),
        lambda t: t.view(-1),
        lambda t: t.t().contiguous(),
        lambda t: t.to(torch.float64),
        lambda t: torch.cat([t, t[:0]]).view(3, 2),
    ],
)
def test_type_and_shape_count_like_the_bytes(change: Callable[..., torch.Tensor]) -> None:
    tensor = torch.arange(6.0).view(2, 3)
    assert digest([{"w": change(tensor)}], []) != digest([{"w": tensor}], [])


def test_names_and_places_count() -> None:
    tensor = torch.ones(2)
    found = {
        digest([{"a": tensor}], []),
        digest([{"b": tensor}], []),
        digest([{}, {"a": tensor}], []),
        digest([], [{"a": tensor}]),
        digest([], [{"a": [tensor]}]),
        digest([], [{"a": {1: tensor}}]),
        digest([{"a": tensor, "b": torch.zeros(0)}], []),
    }
    assert len(found) == 7


def test_memory_layout_does_not_count() -> None:
    tensor = torch.arange(24.0).view(1, 2, 3, 4)
    strided = tensor.to(memory_format=torch.channels_last)
    assert strided.stride() != tensor.stride()
    assert digest([{"w": strided}], []) == digest([{"w": tensor}], [])


def test_a_minus_zero_and_a_nan_have_bits_of_their_own() -> None:
    values = [0.0, -0.0, float("nan"), float("inf")]
    assert len({digest([{"w": torch.tensor([value])}], []) for value in values}) == 4


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3),
        torch.zeros(0, 4),
        torch.tensor([True, False]),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(2, dtype=torch.complex64),
    ],
)
def test_tensors_of_every_kind_are_hashed(tensor: torch.Tensor) -> None:
    assert digest([{"w": tensor}], []) == digest([{"w": tensor.clone()}], [])
    assert digest([{"w": tensor}], []) != digest([{}], [])
