"""How fast a checkpoint's digest is computed on one core, and what a running thread feels of it.

    python benchmarks/digest.py [--rounds 7] [--quick]

The digest of a model with its optimizer state is timed beside other hashes over the same bytes, in
turn, by the processor time of the thread that hashes: one core, however busy the machine is.
Then a thread counts in Python meanwhile, as the loop would run: a hash that held the
interpreter's lock would stop it. Budget: 1 GB/s on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from _measure import interleave, print_ratios
from torch import nn

from trialrun.controller import plain
from trialrun.controller.checkpoints.digest import digest, named_values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="A small model, one round.")
    options = parser.parse_args()
    width, rounds = (256, 1) if options.quick else (2048, options.rounds)
    torch.set_num_threads(1)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(8)))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, width)).sum().backward()
    optimizer.step()
    models = [plain.snapshot(model.state_dict(), "model")]
    optimizers = [plain.snapshot(optimizer.state_dict(), "optimizer")]
    tensors = [value for _, value in named_values(models, optimizers)]
    size = sum(tensor.nbytes for tensor in tensors)

    def over_bytes(make: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            started = time.thread_time()
            hasher = make()
            for tensor in tensors:
                hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
            hasher.hexdigest()
            return time.thread_time() - started

        return run

    def whole_digest() -> float:
        started = time.thread_time()
        digest(models, optimizers)
        return time.thread_time() - started

    contestants = {
        "digest (BLAKE3)": whole_digest,
        "SHA-256": over_bytes(hashlib.sha256),
        "BLAKE2b": over_bytes(hashlib.blake2b),
    }
    if importlib.util.find_spec("xxhash") is not None:
        import xxhash

        contestants["XXH3-128, not collision-resistant"] = over_bytes(xxhash.xxh3_128)
    times = interleave(contestants, rounds)
    print_ratios(times, "digest (BLAKE3)", "ms", 1e3)
    for name, values in times.items():
        rates = sorted(size / seconds / 1e9 for seconds in values)
        print(f"{name}: {rates[len(rates) // 2]:.2f} GB/s, at best {rates[-1]:.2f}")
    print(f"a thread counts at {_rate_beside(whole_digest):.2f} of its speed alone")
    print(f"{size / 1e6:.0f} MB in {len(tensors)} tensors, one core")


def _rate_beside(work: Callable[[], float]) -> float:
    """Returns how fast another thread counts while this one works, to how fast it counts alone."""
    counted, is_over = [0], threading.Event()

    def count() -> None:
        while not is_over.is_set():
            counted[0] += 1

    def rate(wait: Callable[[], Any]) -> float:
        before, started = counted[0], time.perf_counter()
        wait()
        return (counted[0] - before) / (time.perf_counter() - started)

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    alone = rate(lambda: time.sleep(0.5))
    beside = rate(lambda: [work() for _ in range(3)])
    is_over.set()
    thread.join()
    return beside / alone


if __name__ == "__main__":
    main()
