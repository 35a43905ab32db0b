"""The package that docs/plugins.md shows: installed for real, listed, and used on four slots."""

from __future__ import annotations

import math
import os
import sys
from itertools import product
from pathlib import Path

import pytest
from plugin_packages import install_page_package, page_blocks, write_package

from .workplace import Workplace

SCORES = [round(math.sin(3.0 * i), 1) for i in range(43)]
LABELS = [int(math.cos(2.0 * i) + SCORES[i] > 0.2) for i in range(43)]

TRIAL = f"""
import torch
from torch import nn
from torch.utils.data import TensorDataset

from trialrun import DataLoader, Trial

SCORES, LABELS = torch.tensor({SCORES}), torch.tensor({LABELS})


class Scoring(Trial):
    def __init__(self, context):
        self.context = context
        self.model = context.wrap_model(nn.Linear(1, 1))
        self.optimizer = context.wrap_optimizer(torch.optim.SGD(self.model.parameters(), lr=0.1))
        {page_blocks("python")[1].strip()}

    def build_training_data_loader(self):
        return DataLoader(TensorDataset(SCORES, LABELS), batch_size=2, shuffle=True)

    def build_validation_data_loader(self):
        return DataLoader(TensorDataset(SCORES, LABELS), batch_size=3)

    def train_batch(self, batch, epoch_idx, batch_idx):
        scores, labels = batch
        loss = nn.functional.mse_loss(self.model(scores[:, None])[:, 0], labels.float())
        self.context.backward(loss)
        self.context.step_optimizer(self.optimizer)
        return {{"loss": loss}}

    def evaluate_batch(self, batch, batch_idx):
        self.auc.update(*batch)
        return {{}}
"""
CONFIG = "{slots: 4, max_length: 8ba, validation_period: 4ba, searcher: {metric: auc}}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_page_package(tmp_path_factory.mktemp("package"))


def test_the_package_of_the_page_is_exact_on_four_slots_and_any_processes(
    site: Path, tmp_path: Path
) -> None:
    found = []
    for processes in ("1", "2"):
        place = Workplace(tmp_path / processes, TRIAL, CONFIG)
        path = os.pathsep.join([place.environment.get("PYTHONPATH", ""), str(site)])
        place.environment["PYTHONPATH"] = path.strip(os.pathsep)
        result = place.run("submit", "trial.py", "--processes", processes)
        assert result.code == 0, result.err
        found.append(place.metrics())
    assert found[0] == found[1]
    areas = [metrics["auc"] for kind, _, metrics in found[0] if kind == "validation"]
    # The share of pairs in which the positive record has the greater score; equal ones count half.
    positives = [score for score, label in zip(SCORES, LABELS, strict=True) if label]
    negatives = [score for score, label in zip(SCORES, LABELS, strict=True) if not label]
    pairs = list(product(positives, negatives))
    assert 3 < len(positives) < 40
    assert any(positive == negative for positive, negative in pairs)
    wins = sum((p > n) + 0.5 * (p == n) for p, n in pairs)
    assert areas == [wins / len(pairs)] * 2


def test_reducers_lists_what_is_installed(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(site)
    place = Workplace(tmp_path)
    summary = "The area under the ROC curve, exact, over the records of all slots."
    rows = place.invoke("reducers", "--json").json
    assert [row for row in rows if row["package"] == "our-metrics"] == [
        {
            "name": "roc_auc",
            "package": "our-metrics",
            "version": "1.0",
            "reference": "our_metrics:RocAuc",
            "summary": summary,
        }
    ]
    result = place.invoke("reducers")
    assert result.lines[0] == "name\tpackage\tversion\tobject\tsummary"
    assert f"roc_auc\tour-metrics\t1.0\tour_metrics:RocAuc\t{summary}" in result.lines
    assert "our_metrics" not in sys.modules


def test_reducers_tells_of_a_name_that_two_packages_have(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path / "other", "their-metrics", "2.0", {"roc_auc": "theirs:Area"})
    monkeypatch.syspath_prepend(site)
    monkeypatch.syspath_prepend(tmp_path / "other")
    result = Workplace(tmp_path / "place").invoke("reducers")
    assert result.code == 0
    assert result.err == (
        "'roc_auc' cannot be used: it is brought by our-metrics 1.0 and their-metrics 2.0. "
        "Uninstall all but one.\n"
    )


def test_reducers_without_any_says_how_there_would_be_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialrun.cli.reducers.reducer_plugins", list)
    result = Workplace(tmp_path).invoke("reducers")
    assert (result.code, result.lines) == (0, ["name\tpackage\tversion\tobject\tsummary"])
    assert result.err == (
        "No installed package registers a reducer in its entry points of the group "
        "trialrun.reducers.\n"
    )


FAILING = """
from trialrun import MetricReducer


class Dividing(MetricReducer):
    def reset(self):
        self.count = 0

    def update(self, scores, labels):
        pass

    def per_slot_reduce(self):
        return 1 / self.count

    def cross_slot_reduce(self, per_slot_metrics):
        return sum(per_slot_metrics)

"""


def test_a_reducer_that_raises_ends_the_attempt_with_the_users_traceback(tmp_path: Path) -> None:
    source = FAILING + TRIAL.replace('wrap_reducer("roc_auc"', "wrap_reducer(Dividing()")
    place = Workplace(tmp_path, source, CONFIG)
    result = place.run("submit", "trial.py", "--processes", "1")
    assert result.code == 1
    assert "per_slot_reduce of reducer 'auc' raised ZeroDivisionError on slot 0" in result.err
    (attempt,) = place.attempts()
    assert attempt.error_traceback is not None
    assert "return 1 / self.count" in attempt.error_traceback
    assert attempt.error_traceback.endswith("ZeroDivisionError: division by zero")
