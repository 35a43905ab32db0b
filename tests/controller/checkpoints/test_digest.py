from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from trialrun import CheckpointError
from trialrun.controller.checkpoints import digest as digest_module
from trialrun.controller.checkpoints.contents import CheckpointContents
from trialrun.controller.checkpoints.digest import (
    digest,
    digest_like,
    named_values,
    natural_order,
)
from trialrun.controller.checkpoints.digest_text import short, version_of, written
from trialrun.controller.checkpoints.store import CheckpointStore


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
    assert re.fullmatch("v2-[0-9a-f]{64}", first)
    models, optimizers = trained()
    reordered = [dict(reversed(model.items())) for model in models]
    assert digest(reordered, optimizers) == first


def test_every_parameter_buffer_and_optimizer_tensor_has_a_name() -> None:
    names = [name for name, _ in named_values(*trained())]
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
    tensors = list(named_values(models, optimizers))
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


# As version 1 has hashed them: what was published with it stays comparable.
OLD_MODELS = [{f"layers.{i}.weight": torch.arange(3.0) + i for i in (10, 2)}]
OLD_OPTIMIZERS = [
    {"state": {0: {"step": torch.tensor(4.0), "n": 3}}, "param_groups": [{"lr": 0.1}]}
]
OLD_DIGEST = "e7f5ec9728eb2278591acb5a8eebceaf9151686a555fc2b6d34d593ab3435115"


def test_a_digest_of_version_1_is_computed_as_it_was() -> None:
    assert digest_like(OLD_DIGEST, OLD_MODELS, OLD_OPTIMIZERS) == OLD_DIGEST
    # It knew neither of these.
    assert digest_like(OLD_DIGEST, OLD_MODELS, OLD_OPTIMIZERS, [{"extra": torch.ones(1)}]) == (
        OLD_DIGEST
    )
    assert digest(OLD_MODELS, OLD_OPTIMIZERS) != OLD_DIGEST


def test_the_digest_of_known_contents_is_pinned() -> None:
    # A change here makes every published digest wrong: it wants a new version.
    assert digest(OLD_MODELS, OLD_OPTIMIZERS, [{"extra": torch.ones(1)}]) == (
        "v2-b40c66068a3050a53ae904e2686395131287fe30dc27a93879d4a1ce3379e537"
    )


def test_buffers_outside_of_the_state_count_under_their_own_names() -> None:
    models, optimizers = trained()
    buffers = [{"mask": torch.tensor([1, 0])}, {}]
    before = digest(models, optimizers, buffers)
    assert before != digest(models, optimizers)
    assert "model.0.mask" in dict(named_values(models, optimizers, buffers))
    buffers[0]["mask"][1] = 1
    assert digest(models, optimizers, buffers) != before


def test_numbers_in_the_state_of_an_optimizer_count_and_its_settings_do_not() -> None:
    def with_state(**state: Any) -> str:
        return digest([], [{"state": {0: state}, "param_groups": [{"lr": 0.1}]}])

    found = [with_state(n=3), with_state(n=4), with_state(n=3.0), with_state(n=True), with_state()]
    assert len(set(found)) == 5
    assert with_state(n=3) == digest([], [{"state": {0: {"n": 3}}, "param_groups": [{"lr": 0.2}]}])


def test_layer_2_comes_before_layer_10_and_models_before_optimizers() -> None:
    names = [name for name, _ in named_values(OLD_MODELS * 11, OLD_OPTIMIZERS)]
    assert names[:2] == ["model.0.layers.2.weight", "model.0.layers.10.weight"]
    assert names.index("model.2.layers.2.weight") < names.index("model.10.layers.2.weight")
    assert names[-2:] == ["optimizer.0.state.0.n", "optimizer.0.state.0.step"]
    assert sorted(["a²", "a10", "a9", "a09"], key=natural_order) == ["a09", "a9", "a10", "a²"]


def test_the_text_says_its_version() -> None:
    hexadecimal = digest([], []).removeprefix("v2-")
    assert written(1, hexadecimal) == hexadecimal
    assert [version_of(written(n, hexadecimal)) for n in (1, 2, 3)] == [1, 2, 3]
    assert version_of("v2-3f2a") is None
    assert short(written(2, hexadecimal)) == f"v2-{hexadecimal[:12]}"
    assert short(hexadecimal) == hexadecimal[:12]


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        (written(3, "0" * 64), "The digest has version 3, and this trialrun computes versions 1 t"),
        ("3f2a", "'3f2a' is no digest: trialrun checkpoint list shows what one looks like"),
    ],
)
def test_a_digest_that_cannot_be_compared_is_refused(recorded: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        digest_like(recorded, [], [])


def test_bytes_are_hashed_where_they_lie_on_the_writers_thread(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, momentum = torch.arange(6.0).view(2, 3), torch.ones(4, dtype=torch.bfloat16)
    hashed: list[tuple[str, int]] = []

    class Hasher:
        def update(self, data: Any) -> None:
            if isinstance(data, memoryview):
                address = torch.frombuffer(data, dtype=torch.uint8).data_ptr()
                hashed.append((threading.current_thread().name.rpartition("_")[0], address))

        def hexdigest(self) -> str:
            return "0" * 64

    monkeypatch.setattr(digest_module, "blake3", Hasher)
    store = CheckpointStore(tmp_path, lambda stored: None)
    state = {"optimizers": [{"state": {0: {"momentum": momentum}}}]}
    store.save(CheckpointContents(models=[{"w": weight}], state=state, metadata={"batches": 1}), {})
    assert store.close() is None
    assert hashed == [("checkpoint-writer", t.data_ptr()) for t in (weight, momentum)]
