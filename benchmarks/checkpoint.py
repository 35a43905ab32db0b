"""How long a checkpoint stalls the loop: against one in-memory copy, and against writing it.

    python benchmarks/checkpoint.py [--rounds 7] [--quick]

A model and its optimizer state are captured and handed to the writer, as the loop does; the time
until the loop may go on is compared with a plain copy of the same tensors, and with writing the
same checkpoint and waiting for the disk. Budget: the loop waits for the copy, not for the disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from _measure import interleave, print_ratios
from torch import nn

from trialrun.controller import plain
from trialrun.controller.checkpoints.contents import CheckpointContents
from trialrun.controller.checkpoints.store import CheckpointStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="A small model, one round.")
    options = parser.parse_args()
    width, rounds = (256, 1) if options.quick else (2048, options.rounds)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(8)))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, width)).sum().backward()
    optimizer.step()
    size = sum(tensor.nbytes for tensor in model.state_dict().values()) * 3
    print(f"{size / 1e6:.0f} MB of weights and optimizer state")

    def capture() -> CheckpointContents:
        return CheckpointContents(
            models=[plain.snapshot(model.state_dict(), "model")],
            state={"optimizers": [plain.snapshot(optimizer.state_dict(), "optimizer")]},
            metadata={"batches": 1},
        )

    def copy_alone() -> float:
        started = time.perf_counter()
        copies = [tensor.clone() for tensor in model.state_dict().values()]
        for state in optimizer.state.values():
            copies += [value.clone() for value in state.values()]
        return time.perf_counter() - started

    with tempfile.TemporaryDirectory() as name:

        def stall() -> float:
            store = CheckpointStore(Path(name), lambda stored: None)
            started = time.perf_counter()
            store.save(capture(), None)
            seconds = time.perf_counter() - started
            store.close()
            return seconds

        def to_disk() -> float:
            store = CheckpointStore(Path(name), lambda stored: None)
            started = time.perf_counter()
            store.save(capture(), None)
            store.close()
            return time.perf_counter() - started

        times = interleave(
            {"one copy in memory": copy_alone, "the loop waits": stall, "until on disk": to_disk},
            rounds,
        )
    print_ratios(times, "one copy in memory", "ms", 1e3)


if __name__ == "__main__":
    main()
