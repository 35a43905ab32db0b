from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import make_spec, run_session, write_trial
from torch.utils.data import TensorDataset

from trialrun import DataLoader
from trialrun.controller.engine.data.data_wait import DataWait
from trialrun.controller.engine.data.loaders import TrainingData


class Clock:
    """A clock that goes on by what the loader and the trial take."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def train(
    *,
    loading: float,
    computing: float,
    batches: int = 160,
    first: float = 0.0,
    slots_each: int = 1,
    num_workers: int = 0,
    gathers_batches: bool = False,
    num_cores: int = 8,
    is_silent: bool = False,
) -> DataWait:
    """Trains with a loader that lets the loop wait ``loading`` seconds for each share."""
    clock = Clock()
    wait = DataWait(
        num_workers=num_workers,
        gathers_batches=gathers_batches,
        num_cores=num_cores,
        slots_each=slots_each,
        is_silent=is_silent,
        clock=clock,
    )

    def shares() -> Iterator[int]:
        for number in itertools.count():
            clock.now += loading + (first if number < slots_each else 0.0)
            yield number

    seen = []
    for share in itertools.islice(wait.measured(shares()), batches * slots_each):
        seen.append(share)
        clock.now += computing
    assert seen == list(range(batches * slots_each))
    return wait


def advice(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_waiting_for_more_than_a_tenth_is_worth_one_advice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wait = train(loading=0.6, computing=0.25)
    assert wait.fraction == pytest.approx(0.6 / 0.85)
    assert advice(caplog) == [
        "Training waits for data 71 % of the time (of the last 50 batches). Set num_workers=3 in "
        "the DataLoader; it is 0. To silence this advice: silence: [data-wait] in trial.yaml."
    ]


@pytest.mark.parametrize(
    ("loading", "computing", "first"),
    [(0.1, 1.0, 0.0), (0.0, 1.0, 0.0), (0.05, 1.0, 60.0), (0.0004, 0.0004, 0.0)],
)
def test_waiting_for_less_is_not(
    loading: float, computing: float, first: float, caplog: pytest.LogCaptureFixture
) -> None:
    wait = train(loading=loading, computing=computing, first=first)
    assert wait.fraction == pytest.approx(loading / (loading + computing))
    assert advice(caplog) == []


def test_fifty_batches_of_all_slots_are_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    train(loading=0.5, computing=0.5, slots_each=4, batches=50)
    assert advice(caplog) == []
    # 1 batch that does not count, 50 that do, and the one at which it is looked back.
    train(loading=0.5, computing=0.5, slots_each=4, batches=52)
    assert len(advice(caplog)) == 1


@pytest.mark.parametrize(
    ("num_workers", "num_cores", "remedy"),
    [
        (1, 8, "Set num_workers=2 in the DataLoader; it is 1."),
        (3, 8, "Set num_workers=6 in the DataLoader; it is 3."),
        (3, 4, "Set num_workers=4 in the DataLoader; it is 3."),
        (
            4,
            4,
            "num_workers=4 keeps all 4 cores of the process busy: make a record cheaper to load, "
            "or store it as it is used.",
        ),
    ],
)
def test_the_advice_names_the_workers_that_would_keep_up(
    num_workers: int, num_cores: int, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    train(loading=0.5, computing=0.5, num_workers=num_workers, num_cores=num_cores)
    (found,) = advice(caplog)
    assert remedy in found


@pytest.mark.parametrize(
    ("num_workers", "remedy"),
    [
        (
            2,
            "Set num_workers=0 in the DataLoader; it is 2. Its dataset gives a whole batch at "
            "once, sooner than a worker hands it over.",
        ),
        (0, "Set num_workers=1 in the DataLoader; it is 0."),
    ],
)
def test_workers_that_only_hand_batches_over_are_advised_against(
    num_workers: int, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    train(loading=0.5, computing=0.5, num_workers=num_workers, gathers_batches=True)
    (found,) = advice(caplog)
    assert remedy in found


def test_a_dataset_of_tensors_gathers_batches_unless_the_trial_collates() -> None:
    dataset = TensorDataset(torch.arange(8))
    for loader, gathers in (
        (DataLoader(dataset, batch_size=2), True),
        (DataLoader(dataset, batch_size=2, collate_fn=list), False),
        (DataLoader(list(range(8)), batch_size=2), False),
    ):
        data = TrainingData(loader, seed=3, num_slots=1, slots=range(1))
        assert data.gathers_batches is gathers


def test_advice_can_be_silenced(caplog: pytest.LogCaptureFixture) -> None:
    wait = train(loading=0.5, computing=0.5, is_silent=True)
    assert wait.fraction == pytest.approx(0.5)
    assert advice(caplog) == []


SLOW = """
import time
import torch
from trials.linear import Linear
from trialrun import DataLoader

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        time.sleep(0.003)
        return torch.tensor([float(index)])


class SlowTrial(Linear):
    def build_training_data_loader(self):
        return DataLoader(Slow(), batch_size=1)

    def train_batch(self, batch, epoch_idx, batch_idx):
        return {"loss": 0.0}
"""


@pytest.mark.parametrize("silence", [[], ["data-wait"]])
def test_a_trial_that_waits_for_data_hears_of_it(
    silence: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial_file = write_trial(tmp_path, SLOW)
    run_session(make_spec(trial_file, max_length="60ba", silence=silence), tmp_path)
    found = [text for text in advice(caplog) if "waits for data" in text]
    assert len(found) == (0 if silence else 1)
