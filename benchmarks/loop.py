"""One training step of a small MLP: trialrun's loop against the plain PyTorch loop, in one process.

    python benchmarks/loop.py [--rounds 21] [--batches 1000]

Both train the same network on the same records with torch's same operations, batch 32, 1 slot, and
keep the loss of every batch as a tensor. trialrun also draws from addressed streams, reports every
100 batches into a SQLite database and keeps its clock there; once as it is configured by default,
and once with ``deterministic: off``. Lightning joins in where it is installed. Budget: per-sample
dataset at most 1.03 of the plain loop; tensor dataset at most 0.6.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _measure import interleave, print_ratios
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from trialrun.controller.bookkeeping import Database, Recorder, claim_trial, create_experiment
from trialrun.controller.config import Deterministic, read_config
from trialrun.controller.engine.determinism import kept_determinism, make_deterministic
from trialrun.controller.engine.parallel.collectives import SingleProcess
from trialrun.controller.engine.session import TrialSpec, open_session
from trialrun.controller.engine.stopping import StopRequest

NUM_RECORDS = 20_000
NUM_FEATURES = 64
NUM_CLASSES = 10
BATCH_SIZE = 32


class PerSample(Dataset):
    """Hands out one record at a time, as most datasets do."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.features = torch.randn(NUM_RECORDS, NUM_FEATURES, generator=generator)
        self.labels = torch.randint(NUM_CLASSES, (NUM_RECORDS,), generator=generator)

    def __len__(self) -> int:
        return NUM_RECORDS

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.features[index], self.labels[index]


def make_dataset(kind: str) -> Dataset:
    records = PerSample()
    if kind == "per-sample":
        return records
    return TensorDataset(records.features, records.labels)


def make_model() -> nn.Module:
    return nn.Sequential(
        nn.Linear(NUM_FEATURES, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def run_plain(kind: str, num_batches: int) -> float:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loader = DataLoader(make_dataset(kind), batch_size=BATCH_SIZE, shuffle=True)
    losses = []
    iterator = iter(loader)
    started = time.perf_counter()
    for _ in range(num_batches):
        try:
            features, labels = next(iterator)
        except StopIteration:
            iterator = iter(loader)
            features, labels = next(iterator)
        loss = nn.functional.cross_entropy(model(features), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return (time.perf_counter() - started) / num_batches


TRIAL = """
import time

import loop
import torch
from torch import nn

from trialrun import DataLoader, Trial


class Mlp(Trial):
    def __init__(self, context):
        self.context = context
        self.model = context.wrap_model(loop.make_model())
        self.optimizer = context.wrap_optimizer(
            torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        )
        self.kind = context.get_hparam("kind")

    def build_training_data_loader(self):
        return DataLoader(loop.make_dataset(self.kind), batch_size=loop.BATCH_SIZE, shuffle=True)

    def build_validation_data_loader(self):
        return DataLoader(loop.make_dataset("tensors"), batch_size=1)

    def train_batch(self, batch, epoch_idx, batch_idx):
        features, labels = batch
        loss = nn.functional.cross_entropy(self.model(features), labels)
        self.context.backward(loss)
        self.context.step_optimizer(self.optimizer)
        return {"loss": loss}

    def evaluate_batch(self, batch, batch_idx):
        return {"loss": torch.zeros(())}
"""


def run_trialrun(kind: str, num_batches: int, folder: Path, mode: Deterministic) -> float:
    """Times the session's own loop between its first and its last batch."""
    with kept_determinism():
        make_deterministic(mode)
        return run_session(kind, num_batches, folder)


def run_session(kind: str, num_batches: int, folder: Path) -> float:
    config = read_config(
        {
            "max_length": f"{num_batches}ba",
            "reporting_period": "100ba",
            "validation_period": None,
            "checkpoint_period": None,
            "checkpoint_policy": "none",
            "silence": ["data-wait"],
            "hyperparameters": {"kind": kind},
        }
    )
    trial_file = folder / "mlp.py"
    trial_file.write_text(TRIAL)
    database = Database.open(f"sqlite:///{folder / 'loop.db'}")
    _, trial = create_experiment(
        database,
        name="loop",
        trial_file=trial_file,
        trial_class="",
        trial_source_hash="",
        config={},
        hyperparameters={},
        seed=0,
        experiments_directory=folder,
    )
    attempt = claim_trial(database, trial.id, hostname="", pid=0, num_processes=1)
    with Recorder(database, attempt) as recorder:
        session = open_session(
            TrialSpec(
                trial_file=trial_file,
                trial_class=None,
                config=config,
                seed=0,
                intra_op_threads=torch.get_num_threads(),
                metadata={},
            ),
            collectives=SingleProcess(),
            device=torch.device("cpu"),
            stop_request=StopRequest(),
            journal=recorder,
            sink=None,
            max_validation_rounds=1,
        )
        started = time.perf_counter()
        session.run()
        return (time.perf_counter() - started) / num_batches


def run_lightning(kind: str, num_batches: int) -> float:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = make_model()

        def training_step(self, batch, batch_idx):  # type: ignore[no-untyped-def]
            features, labels = batch
            return nn.functional.cross_entropy(self.model(features), labels)

        def configure_optimizers(self):  # type: ignore[no-untyped-def]
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

        def on_train_start(self) -> None:
            self.started = time.perf_counter()

        def on_train_end(self) -> None:
            self.seconds = time.perf_counter() - self.started

    module = Module()
    trainer = lightning.Trainer(
        max_steps=num_batches, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    loader = DataLoader(make_dataset(kind), batch_size=BATCH_SIZE, shuffle=True)
    trainer.fit(module, loader)
    return module.seconds / num_batches


def has_lightning() -> bool:
    try:
        import lightning  # noqa: F401
    except ImportError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--batches", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind in ("per-sample", "tensors"):
        with tempfile.TemporaryDirectory() as name:
            contestants: dict[str, Callable[[], float]] = {
                "plain PyTorch loop": lambda kind=kind: run_plain(kind, options.batches),
                "trialrun": lambda kind=kind, name=name: run_trialrun(
                    kind, options.batches, Path(name), Deterministic.WARN
                ),
                "trialrun, deterministic: off": lambda kind=kind, name=name: run_trialrun(
                    kind, options.batches, Path(name), Deterministic.OFF
                ),
            }
            if has_lightning():
                contestants["Lightning"] = lambda kind=kind: run_lightning(kind, options.batches)
            print(f"\n{kind} dataset, microseconds a batch")
            times = interleave(contestants, options.rounds)
        print_ratios(times, "plain PyTorch loop", "us", 1e6)


if __name__ == "__main__":
    main()
