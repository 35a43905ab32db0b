"""From the command to the first batch on 4 processes, against torchrun of an empty script.

    python benchmarks/startup.py [--rounds 5]

torchrun starts a script that only joins a process group. trialrun submits a trial whose own set-up
is next to nothing; its first train_batch writes the time. Budget: at most 0.7 of torchrun.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _measure import interleave, print_ratios

NUM_PROCESSES = 4

EMPTY_SCRIPT = """
import torch.distributed as dist

dist.init_process_group("gloo")
dist.barrier()
dist.destroy_process_group()
"""

TRIAL = """
import os
import time

import torch
from torch.utils.data import TensorDataset

from trialrun import DataLoader, Trial


class Tiny(Trial):
    def __init__(self, context):
        self.context = context
        self.model = context.wrap_model(torch.nn.Linear(4, 1))
        self.optimizer = context.wrap_optimizer(torch.optim.SGD(self.model.parameters(), lr=0.1))
        self.data = TensorDataset(torch.arange(256.0).reshape(64, 4))

    def build_training_data_loader(self):
        return DataLoader(self.data, batch_size=2)

    def build_validation_data_loader(self):
        return DataLoader(self.data, batch_size=64)

    def train_batch(self, batch, epoch_idx, batch_idx):
        if batch_idx == 0 and self.context.slot == 0:
            with open(os.environ["FIRST_BATCH_FILE"], "w") as file:
                file.write(repr(time.time()))
        loss = self.model(batch[0]).mean()
        self.context.backward(loss)
        self.context.step_optimizer(self.optimizer)
        return loss

    def evaluate_batch(self, batch, batch_idx):
        return {"loss": self.model(batch[0]).mean()}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    scripts = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "empty.py").write_text(EMPTY_SCRIPT)
        (folder / "tiny.py").write_text(TRIAL)
        first_batch = folder / "first_batch"
        environment = {
            **os.environ,
            "TRIALRUN_HOME": str(folder / "home"),
            "FIRST_BATCH_FILE": str(first_batch),
            "OMP_NUM_THREADS": "1",
        }

        def run_torchrun() -> float:
            started = time.time()
            command = [scripts / "torchrun", "--standalone", f"--nproc_per_node={NUM_PROCESSES}"]
            subprocess.run(
                [*command, folder / "empty.py"], check=True, capture_output=True, env=environment
            )
            return time.time() - started

        def run_trialrun() -> float:
            started = time.time()
            command = [scripts / "trialrun", "submit", folder / "tiny.py", "--max-length", "1ba"]
            counts = ["--slots", str(NUM_PROCESSES), "--processes", str(NUM_PROCESSES)]
            subprocess.run([*command, *counts], check=True, capture_output=True, env=environment)
            return float(first_batch.read_text()) - started

        times = interleave(
            {
                "torchrun, empty script, to its end": run_torchrun,
                "trialrun submit, to the first batch": run_trialrun,
            },
            rounds,
        )
    print_ratios(times, "torchrun, empty script, to its end", "s", 1.0)


if __name__ == "__main__":
    main()
