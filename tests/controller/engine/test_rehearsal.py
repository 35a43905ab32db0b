from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from support import make_spec, write_trial

from trialrun import CheckpointError
from trialrun.controller.engine.parallel.collectives import SingleProcess
from trialrun.controller.engine.rehearsal import rehearse


def rehearsed(spec: Any) -> None:
    rehearse(spec, SingleProcess(), torch.device("cpu"))


@pytest.mark.parametrize("trial_file", ["conv.py", "gan.py", "reducing.py"])
@pytest.mark.parametrize("aggregation_frequency", [1, 3])
def test_a_trial_that_resumes_exactly_passes_and_leaves_nothing_behind(
    trial_file: str, aggregation_frequency: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rehearsed(make_spec(trial_file, aggregation_frequency=aggregation_frequency))
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_keeps_state_of_its_own_is_found_out(tmp_path: Path) -> None:
    path = write_trial(
        tmp_path,
        """
        from trials.linear import Linear

        class Remembering(Linear):
            def set_up(self):
                self.factor = 1.0

            def loss(self, batch):
                self.factor += 0.1
                return self.factor * super().loss(batch)
        """,
    )
    with pytest.raises(CheckpointError) as caught:
        rehearsed(make_spec(path))
    text = str(caught.value)
    assert text.startswith("The trial does not resume exactly: 2 batches give the digest ")
    assert "The first tensor that differs is model.0.bias (" in text
    assert text.endswith(
        "in the last place apart. Usual causes: the trial keeps state of its own from batch to "
        "batch, draws from a generator of its own, or reads the time."
    )
