"""How many copies of the gradients a process holds: every tensor that lives is counted."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from support import make_spec, new_session, write_trial
from thread_collectives import run_on_threads
from torch import nn

from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.steps.gradients import GradientSum

LENGTHS = (60_000, 30_000, 10_000)
COPY = 4 * sum(LENGTHS)
"""Bytes of all gradients once."""


def live_copies() -> float:
    """Returns the bytes of all tensors of 1,500 bytes or more that live, in copies."""
    storages = {}
    for found in gc.get_objects():
        if type(found) in (torch.Tensor, nn.Parameter) and found.layout is torch.strided:
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(size for size in storages.values() if size >= 1_500) / COPY


def copies_that_stay() -> float:
    """Returns them without what an earlier test has left for the collector to find meanwhile."""
    gc.collect()
    return live_copies()


def test_the_count_sees_what_is_held_and_what_is_let_go() -> None:
    before = copies_that_stay()
    held = [torch.zeros(length) for length in LENGTHS for _ in range(2)]
    views = [tensor[5:] for tensor in held]
    assert live_copies() == pytest.approx(before + 2, abs=0.01)
    del held, views
    assert live_copies() == pytest.approx(before, abs=0.01)


TRIAL = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from trialrun import DataLoader, Trial


class Wide(Trial):
    def __init__(self, context):
        self.context = context
        self.model = context.wrap_model(nn.ParameterList(
            [nn.Parameter(torch.ones(n)) for n in LENGTHS]
        ))
        self.optimizer = context.wrap_optimizer(torch.optim.SGD(self.model.parameters(), lr=0.1))

    def build_training_data_loader(self):
        return DataLoader(TensorDataset(torch.arange(64.0)), batch_size=1)

    def build_validation_data_loader(self):
        return DataLoader(TensorDataset(torch.arange(1.0)), batch_size=1)

    def train_batch(self, batch, epoch_idx, batch_idx):
        self.context.backward(sum(torch.dot(p, p.detach()) for p in self.model))
        self.look(self.model)
        self.context.step_optimizer(self.optimizer, clip_grads=self.look)
        return {"loss": 0.0}

    def look(self, parameters):
        gradients = [parameter.grad for parameter in parameters]  # so that Python knows of them
        self.counts.append(self.live_copies())
        del gradients

    def evaluate_batch(self, batch, batch_idx):
        return {"loss": 0.0}
"""


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not grow with the model shall not be seen."""
    parallel = "trialrun.controller.engine.parallel"
    monkeypatch.setattr(f"{parallel}.buckets._CACHED_BYTES", 4096)
    monkeypatch.setattr(f"{parallel}.bucket_collectives._SENT_BYTES", 4096)
    monkeypatch.setattr(f"{parallel}.shared_memory._BUCKET_BYTES", 4096)


@pytest.mark.parametrize(
    ("slots", "aggregation", "extra"),
    # log2(q), and within windows one more: the sum of the batches so far.
    [(2, 1, 1), (8, 1, 3), (4, 2, 3)],
)
def test_folded_slots_hold_few_copies_of_the_gradients(
    slots: int, aggregation: int, extra: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(
        write_trial(tmp_path, TRIAL.replace("LENGTHS", str(LENGTHS))),
        slots=slots,
        aggregation_frequency=aggregation,
        max_length="2ba",
        validation_period=None,
    )
    session = new_session(spec)
    trial: Any = session._execution._trial
    trial.counts, trial.live_copies = [], live_copies
    before = copies_that_stay()
    session.run()
    # One copy is the slot's own, as in any loop.
    assert max(trial.counts) - before == pytest.approx(1 + extra, abs=0.15)


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize(("size", "slots_each"), [(2, 1), (2, 4)])
@pytest.mark.parametrize("shares_memory", [False, True])
def test_processes_hold_as_few(size: int, slots_each: int, shares_memory: bool) -> None:
    num_slots = size * slots_each
    counts: list[float] = []

    def window(process: Collectives) -> None:
        parameters = [nn.Parameter(torch.zeros(length)) for length in LENGTHS]
        sums = GradientSum({}, num_slots=num_slots, collectives=process)
        first = process.rank * slots_each
        for batch in range(2):
            for slot in range(first, first + slots_each):
                for parameter in parameters:
                    parameter.grad = torch.ones_like(parameter)
                # All are here: each with a slot's gradients, and with what it holds besides.
                process.gather(slot, "slot")
                if process.is_chief:
                    counts.append(live_copies())
                process.broadcast(slot, "slot")
                sums.deposit(slot, parameters)
            sums.accumulate() if batch < 1 else sums.assign(num_slots)

    before = copies_that_stay()
    run_on_threads(size, window, shares_memory=shares_memory)
    # The parameters, the slot's gradients, log2(q) vectors, and a share of the window's sum.
    depth = slots_each.bit_length() - 1
    assert (max(counts) - before) / size == pytest.approx(2 + depth + 1 / size, abs=0.15)
