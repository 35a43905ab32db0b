"""The distance that the GAN reports, on data whose distance is known."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from example_module import import_example


@pytest.fixture
def gan() -> ModuleType:
    return import_example("gan")


def distance(gan: ModuleType, *shares: tuple[torch.Tensor, torch.Tensor]) -> float:
    per_slot: list[Any] = []
    for real, generated in shares:
        reducer = gan.FrechetDistance()
        reducer.update(real, generated)
        per_slot.append(reducer.per_slot_reduce())
    return float(gan.FrechetDistance().cross_slot_reduce(per_slot))


def test_distance_of_images_to_themselves_is_zero(gan: ModuleType) -> None:
    images, _ = gan.load_images()
    assert distance(gan, (images, images.flip(0))) == pytest.approx(0, abs=1e-4)


def test_distance_is_that_of_normal_distributions(gan: ModuleType) -> None:
    # Of one variance: the squares of the shifts. Twice as wide: the variances too, since then
    # the trace of C + 4 C - 2 (4 C C)^(1/2) is that of C.
    images = torch.randn(500, 64, dtype=torch.float64)
    assert distance(gan, (images, images + 0.5)) == pytest.approx(64 * 0.25)
    centred = images - images.mean(dim=0)
    variances = centred.var(dim=0, unbiased=False).sum().item()
    assert distance(gan, (centred, 2 * centred)) == pytest.approx(variances)


def test_distance_does_not_depend_on_how_slots_share_the_images(gan: ModuleType) -> None:
    training, validation = gan.load_images()
    real, others = training[:359], validation
    shared = distance(gan, (real[:100], others[:100]), (real[100:], others[100:]))
    assert shared == pytest.approx(distance(gan, (real, others)))
    assert 0.1 < shared < 5
