from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from support import (
    Run,
    make_spec,
    new_session,
    resume,
    run_session,
    run_with_stops,
    write_trial,
)

from trialrun import CheckpointError, TrialrunError
from trialrun.controller.checkpoints.contents import METADATA_FILE, STATE_FILE
from trialrun.controller.engine.session import TrialSpec

OR_ELSE = "The trial's code has changed since; restore it, or submit a new experiment."


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialSpec, Run]:
    spec = make_spec("variants.py", max_length="3ba")
    return spec, run_session(spec, tmp_path_factory.mktemp("original"))


def restored_as(original: tuple[TrialSpec, Run], variant: str) -> None:
    spec, run = original
    other = make_spec("variants.py", max_length="6ba", hyperparameters={"variant": variant})
    new_session(resume(dataclasses.replace(other, seed=spec.seed), run))


def test_the_same_trial_fits(original: tuple[TrialSpec, Run]) -> None:
    restored_as(original, "the same")


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (
            "wider",
            "The checkpoint does not fit model 0: first.bias is (5,) torch.float64 in the trial "
            "and (4,) torch.float64 in the checkpoint; first.weight is (5, 3) torch.float64 in the "
            "trial and (4, 3) torch.float64 in the checkpoint; last.weight is (1, 5) torch.float64 "
            f"in the trial and (1, 4) torch.float64 in the checkpoint. {OR_ELSE}",
        ),
        (
            "renamed",
            "The checkpoint does not fit model 0: final.bias is missing in the checkpoint; "
            "final.weight is missing in the checkpoint; last.bias is unknown to the trial; and 1 "
            f"more. {OR_ELSE}",
        ),
        (
            "many renamed",
            "The checkpoint does not fit model 0: first.bias is unknown to the trial; first.weight "
            f"is unknown to the trial; last.bias is unknown to the trial; and 5 more. {OR_ELSE}",
        ),
        (
            "two models",
            "The trial has 2 models, but the checkpoint has 1. Restore the trial's code, or submit "
            "a new experiment.",
        ),
        (
            "no scheduler",
            "The trial has 0 LR schedulers, but the checkpoint has 1. Restore the trial's code, or "
            "submit a new experiment.",
        ),
        (
            "adam",
            "Optimizer 0 was SGD and is now Adam. Restore the trial's code, or submit a new "
            "experiment.",
        ),
        (
            "groups",
            "The checkpoint does not fit optimizer 0 (SGD): loaded state dict has a different "
            f"number of parameter groups. {OR_ELSE}",
        ),
        (
            "reducer",
            "The trial has the training reducers ['0: other'], but the checkpoint has ['0: "
            "nothing']. Restore the trial's code, or submit a new experiment.",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    original: tuple[TrialSpec, Run], variant: str, expected: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        restored_as(original, variant)
    assert str(caught.value) == expected


def test_a_refused_checkpoint_leaves_no_thread_behind(original: tuple[TrialSpec, Run]) -> None:
    before = threading.active_count()
    with pytest.raises(CheckpointError):
        restored_as(original, "wider")
    assert threading.active_count() == before


def test_another_type_of_weights_is_refused(original: tuple[TrialSpec, Run]) -> None:
    with pytest.raises(CheckpointError, match=r"first\.bias is \(4,\) torch\.float32 in the trial"):
        restored_as(original, "single")


def test_the_number_of_optimizers_is_compared(tmp_path: Path) -> None:
    spec = make_spec("variants.py", hyperparameters={"variant": "two models"}, max_length="1ba")
    run = run_session(spec, tmp_path)
    other = make_spec("variants.py", hyperparameters={"variant": "two optimizers"})
    with pytest.raises(CheckpointError) as caught:
        new_session(resume(other, run))
    assert str(caught.value) == (
        "The trial has 2 optimizers, but the checkpoint has 1. Restore the trial's code, or submit "
        "a new experiment."
    )


@pytest.mark.parametrize("named", ["parameters", "named_parameters"])
def test_a_group_that_was_added_in_training_is_added_again(tmp_path: Path, named: str) -> None:
    source = f"""
        import torch
        from torch import nn
        from trialrun import Callback
        from trials.linear import Linear

        class Unfreezing(Callback):
            def __init__(self, trial):
                self.trial = trial

            def on_training_epoch_start(self, epoch_idx):
                if epoch_idx:
                    first = self.trial.model[epoch_idx - 1].requires_grad_(True)
                    group = {{"params": list(first.{named}()), "lr": 0.01 * epoch_idx}}
                    self.trial.optimizer.add_param_group(group)

        class Gradual(Linear):
            def make_model(self):
                layers = [nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)]
                layers[0].requires_grad_(False), layers[1].requires_grad_(False)
                return nn.Sequential(*layers).double()

            def make_optimizer(self):
                return torch.optim.Adam(self.model[2].{named}(), lr=0.1)

            def build_callbacks(self):
                return {{"unfreezing": Unfreezing(self)}}
    """
    # 12 records in global batches of 4: 3 batches an epoch.
    file = write_trial(tmp_path, source)
    spec = make_spec(file, slots=2, max_length="9ba")
    straight = run_session(spec, tmp_path / "straight")
    stops = [("progress", batches) for batches in (1, 4, 5, 8)]
    stopped = run_with_stops(spec, tmp_path / "stopped", stops)
    assert stopped.reported == straight.reported
    groups = stopped.checkpoints[-1].contents.state["optimizers"][0]["param_groups"]
    assert [group["lr"] for group in groups] == [0.1, 0.01, 0.02]
    # With other code it still does not fit.
    write_trial(tmp_path, source.replace("self.model[2].", "self.model."), "other.py")
    other = resume(make_spec(tmp_path / "other.py", slots=2, max_length="12ba"), stopped)
    with pytest.raises(CheckpointError, match="was model 0 2.weight and is now model 0 0.weight"):
        new_session(other)


def test_a_checkpoint_says_what_a_person_wants_to_know(original: tuple[TrialSpec, Run]) -> None:
    spec, run = original
    metadata = json.loads((run.checkpoints[-1].path / METADATA_FILE).read_text())
    assert (metadata["batches"], metadata["epoch"]) == (3, 1)
    assert metadata["validation_metrics"] == run.validation[-1][-1]
    assert metadata["training_metrics"] == run.training[-1][-1]
    assert metadata["identity"]["torch_version"] == torch.__version__
    assert metadata["identity"]["seed"] == spec.seed


def test_a_snapshot_is_not_changed_by_what_follows(tmp_path: Path) -> None:
    spec = make_spec("conv.py", checkpoint_period="1ba", max_length="4ba", checkpoint_policy="none")
    run = run_session(spec, tmp_path)
    assert [saved.batches for saved in run.checkpoints] == [1, 2, 3, 4]
    assert len({saved.digest for saved in run.checkpoints}) == 4

    # A sink that reads only after training has gone on, as the writing thread may.
    class Late:
        def __init__(self) -> None:
            self.contents: list[Any] = []

        def save(self, contents: Any, metrics: Any) -> None:
            self.contents.append(contents)

    late = Late()
    new_session(spec, sink=late).run()  # type: ignore[arg-type]
    for kept, saved in zip(late.contents, run.checkpoints, strict=True):
        expected = saved.contents
        assert kept.state["batches"] == expected.state["batches"]
        for name, tensor in expected.models[0].items():
            assert torch.equal(kept.models[0][name], tensor)
        for index, state in expected.state["optimizers"][0]["state"].items():
            for name, tensor in state.items():
                assert torch.equal(kept.state["optimizers"][0]["state"][index][name], tensor)


def test_state_that_is_not_plain_is_named_when_it_is_to_be_kept(tmp_path: Path) -> None:
    path = write_trial(
        tmp_path,
        """
        from trials.linear import Linear
        from trialrun import MetricReducer

        class Sets(MetricReducer):
            def __init__(self):
                self.reset()

            def reset(self):
                self.seen = set()

            def per_slot_reduce(self):
                return len(self.seen)

            def cross_slot_reduce(self, per_slot_metrics):
                return sum(per_slot_metrics)

        class Collecting(Linear):
            def set_up(self):
                self.context.wrap_reducer(Sets(), "seen")
        """,
    )
    with pytest.raises(
        TrialrunError, match=r"^slot states\[0\]\['reducers'\]\['0: seen'\]\['seen'"
    ):
        run_session(make_spec(path, max_length="2ba"), tmp_path / "checkpoints")


def test_a_module_keeps_extra_state_of_its_own(tmp_path: Path) -> None:
    path = write_trial(
        tmp_path,
        """
        import numpy as np
        import torch
        from torch import nn
        from trials.linear import Linear

        class Counting(nn.Linear):
            calls = 0

            def forward(self, inputs):
                if self.training:
                    self.calls += 1
                return super().forward(inputs)

            def get_extra_state(self):
                return {"calls": self.calls, "array": np.arange(self.calls)}

            def set_extra_state(self, state):
                assert isinstance(state["array"], np.ndarray)
                self.calls = state["calls"]

        class Extra(Linear):
            def make_model(self):
                return Counting(3, 1, dtype=torch.float64)

            def train_batch(self, batch, epoch_idx, batch_idx):
                super().train_batch(batch, epoch_idx, batch_idx)
                return {"calls": self.model.calls}
        """,
    )
    spec = make_spec(path, slots=1, max_length="4ba", reporting_period="1ba")
    straight = run_session(spec, tmp_path / "straight")
    first = run_session(spec, tmp_path / "stopped", stop_upon=("progress", 1))
    second = run_session(resume(spec, first), tmp_path / "stopped")
    assert [metrics["calls"] for *_, metrics in straight.training] == [1, 2, 3, 4]
    assert first.then(second).reported == straight.reported


def test_a_checkpoint_whose_state_is_unreadable_names_it(
    original: tuple[TrialSpec, Run], tmp_path: Path
) -> None:
    spec, run = original
    source = run.checkpoints[-1].path
    folder = tmp_path / "0a1b"
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / STATE_FILE).write_bytes(b"nothing")
    with pytest.raises(CheckpointError) as caught:
        new_session(dataclasses.replace(spec, resume_from=folder))
    assert str(caught.value).startswith(f"Checkpoint 0a1b in {tmp_path} cannot be read: ")
