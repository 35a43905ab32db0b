"""Aggregation windows whose steps are not taken in every batch."""

from __future__ import annotations

from pathlib import Path

from support import make_spec, run_session, run_with_stops, write_trial

SOURCE = """
import torch
from trials.linear import Linear


class Seldom(Linear):
    seen = []

    def train_batch(self, batch, epoch_idx, batch_idx):
        if batch_idx in (0, 5):
            self.context.backward(self.model.bias.sum() * 10.0**self.context.slot * (1 + batch_idx))
            self.context.step_optimizer(self.optimizer, clip_grads=self.look)
        return {"loss": 0.0}

    def look(self, parameters):
        self.seen.append([None if p.grad is None else p.grad.tolist() for p in parameters])
        with open("FILE", "a") as file:
            file.write(repr(self.model.bias.grad.tolist()) + "\\n")
"""


def test_sums_that_no_step_has_used_wait_for_the_next_one_and_are_in_checkpoints(
    tmp_path: Path,
) -> None:
    seen = tmp_path / "seen"
    spec = make_spec(
        write_trial(tmp_path, SOURCE.replace("FILE", str(seen))),
        slots=2,
        aggregation_frequency=2,
        max_length="8ba",
    )
    straight = run_session(spec, tmp_path / "straight")
    stopped = run_with_stops(spec, tmp_path / "stopped", [("progress", 2), ("progress", 4)])
    assert stopped.reported == straight.reported
    # One step, in batch 5, with what slots 0 and 1 had in batches 0 and 5: (11 + 66) / (2 * 2).
    assert seen.read_text() == "[19.25]\n" * 2
