from __future__ import annotations

from pathlib import Path

import pytest
from support import make_spec, run_session, write_trial

SOURCE = """
import torch
from trials.linear import Linear, records
from trialrun import DataLoader


class Untouched(Linear):
    def set_up(self):
        if self.hparams["switched_off"]:
            self.context.experimental.disable_auto_to_device()
        self.seen = set()

    def build_training_data_loader(self):
        return DataLoader(records(12), batch_size=2, collate_fn=as_arrays)

    def build_validation_data_loader(self):
        return DataLoader(records(7), batch_size=2, collate_fn=as_arrays)

    def loss(self, batch):
        kind = "ndarray" if self.hparams["switched_off"] else "Tensor"
        assert [type(part).__name__ for part in batch] == [kind, kind]
        return super().loss(self.context.to_device(batch))


def as_arrays(samples):
    return [torch.stack(column).numpy() for column in zip(*samples)]
"""


@pytest.mark.parametrize("switched_off", [False, True])
def test_batches_stay_as_the_loader_made_them_when_moving_is_switched_off(
    switched_off: bool, tmp_path: Path
) -> None:
    path = write_trial(tmp_path, SOURCE)
    run = run_session(
        make_spec(path, hyperparameters={"switched_off": switched_off}), tmp_path / "run"
    )
    assert (run.batches, len(run.validation)) == (8, 2)
