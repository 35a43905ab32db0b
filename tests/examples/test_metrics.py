"""The area that the example reports, against scikit-learn's over all records at once."""

from __future__ import annotations

import pytest
import torch
from example_module import import_example
from sklearn.metrics import roc_auc_score


@pytest.mark.parametrize("num_slots", [1, 3])
def test_the_area_is_exact_also_where_scores_are_equal(num_slots: int) -> None:
    labels = (torch.arange(61) * 7 % 5 < 2).long()
    scores = ((torch.arange(61.0) * 0.9).sin() + labels).round(decimals=1)
    assert len(scores.unique()) < 40
    reducer = import_example("metrics").RocAuc()
    results: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = []
    for share in torch.arange(61).chunk(num_slots):
        reducer.reset()
        for piece in share.split(8):
            reducer.update(scores[piece], labels[piece])
        results.append(reducer.per_slot_reduce())
    results.append(([], []))  # a slot without a batch
    expected = roc_auc_score(labels.numpy(), scores.numpy())
    assert reducer.cross_slot_reduce(results) == pytest.approx(expected, rel=1e-14)
