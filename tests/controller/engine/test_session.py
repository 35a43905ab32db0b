from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import (
    FolderSink,
    MemoryJournal,
    Run,
    make_spec,
    new_session,
    resume,
    run_session,
    run_with_stops,
    write_trial,
)

from trialrun import CheckpointError, InvalidTrialError
from trialrun.controller.engine import schedule
from trialrun.controller.engine.loop import Outcome
from trialrun.controller.engine.parallel.slots import SlotError
from trialrun.controller.engine.session import TrialSpec
from trialrun.controller.engine.stopping import StopRequest

HEAD = """
import math
import torch
from torch import nn
from torch.utils.data import TensorDataset
from trials.linear import Linear
from trialrun import DataLoader

"""


def spec_of(folder: Path, source: str, **config: Any) -> TrialSpec:
    return make_spec(write_trial(folder, HEAD + source), **config)


# What must not matter.


def test_validating_more_often_changes_nothing_in_training(tmp_path: Path) -> None:
    for trial_file in ("conv.py", "gan.py", "reducing.py"):
        runs = [
            run_session(make_spec(trial_file, **config), tmp_path / f"{trial_file}-{number}")
            for number, config in enumerate(
                (
                    {"validation_period": None},
                    {"validation_period": "1ba", "step_zero_validation": True},
                    {"validation_period": "3ba", "checkpoint_period": "2ba"},
                    {"checkpoint_policy": "all"},
                )
            )
        ]
        assert len({run.digest for run in runs}) == 1
        assert len({repr(run.training) for run in runs}) == 1
        assert len({len(run.validation) for run in runs}) > 2


def test_loader_workers_change_nothing(tmp_path: Path) -> None:
    path = write_trial(
        tmp_path,
        HEAD
        + """
class Noise:
    def __len__(self):
        return 9

    def __getitem__(self, index):
        return torch.tensor([index, 1.0, 2.0]).double() + torch.rand(1).double(), torch.ones(1)


class Noisy(Linear):
    def build_training_data_loader(self):
        return DataLoader(Noise(), 2, shuffle=True, num_workers=self.hparams["num_workers"])

    def loss(self, batch):
        return super().loss([part.double() for part in batch])
""",
    )
    runs = []
    for num_workers in (0, 2):
        spec = make_spec(path, hyperparameters={"num_workers": num_workers}, max_length="5ba")
        runs.append(run_session(spec, tmp_path / f"straight-{num_workers}"))
        runs.append(run_with_stops(spec, tmp_path / f"stopped-{num_workers}", [("progress", 2)]))
    assert len({run.reported for run in runs}) == 1


def test_reporting_more_often_changes_no_weight(tmp_path: Path) -> None:
    digests = {
        run_session(make_spec("reducing.py", reporting_period=period), tmp_path / period).digest
        for period in ("1ba", "5ba")
    }
    assert len(digests) == 1


# Stops.


def test_a_validation_that_a_stop_cut_off_is_owed(tmp_path: Path) -> None:
    spec = make_spec("conv.py")
    straight = run_session(spec, tmp_path / "straight")
    # Four batches are complete, and the validation of their boundary begins.
    first = run_session(spec, tmp_path / "stopped", stop_upon=("progress", 4))
    assert (first.outcome, first.batches, first.validation) == (Outcome.PAUSED, 4, [])
    assert first.checkpoints[-1].metrics is None
    second = run_session(resume(spec, first), tmp_path / "stopped")
    assert second.events[0] == ("validation", 4)
    assert first.then(second).reported == straight.reported


def test_a_last_validation_that_a_stop_cut_off_is_owed(tmp_path: Path) -> None:
    spec = make_spec("conv.py", validation_period=None, checkpoint_policy="best")
    straight = run_session(spec, tmp_path / "straight")
    first = run_session(spec, tmp_path / "stopped", stop_upon=("progress", 8))
    # Nothing is left to train, but it is not complete.
    assert (first.outcome, first.batches, first.validation) == (Outcome.PAUSED, 8, [])
    second = run_session(resume(spec, first), tmp_path / "stopped")
    assert (second.outcome, second.events) == (Outcome.COMPLETED, [("validation", 8)])
    assert first.then(second).reported == straight.reported
    assert second.checkpoints[-1].metrics == straight.validation[-1][-1]


def test_a_stop_before_the_first_batch_leaves_a_checkpoint_at_zero(tmp_path: Path) -> None:
    spec = make_spec("conv.py", step_zero_validation=True)
    straight = run_session(spec, tmp_path / "straight")
    stop_request = StopRequest()
    stop_request.set()
    sink = FolderSink(tmp_path / "stopped")
    session = new_session(
        spec, stop_request=stop_request, journal=MemoryJournal(stop_request), sink=sink
    )
    assert session.run() is Outcome.PAUSED
    (saved,) = sink.saved
    assert saved.batches == 0
    first = Run(Outcome.PAUSED, [], [], [], sink.saved, 0)
    second = run_session(resume(spec, first), tmp_path / "stopped")
    assert first.then(second).reported == straight.reported


@pytest.mark.parametrize("stopped_at", [None, 2, 3, 4])
def test_a_trial_that_asks_to_end_is_complete_wherever_it_was_stopped_before(
    stopped_at: int | None, tmp_path: Path
) -> None:
    spec = spec_of(
        tmp_path,
        """
class Ending(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        if self.context.slot == 1 and batch_idx == 2:
            self.context.set_stop_requested(True)
            assert self.context.get_stop_requested()
        return super().train_batch(batch, epoch_idx, batch_idx)
""",
    )
    straight = run_session(spec, tmp_path / "straight")
    # As on several processes, where the wish has left at the next batch's beginning.
    assert (straight.outcome, straight.batches) == (Outcome.COMPLETED, 4)
    assert [batches for batches, *_ in straight.training][-1] == 4
    assert [batches for batches, *_ in straight.validation][-1] == 4
    stops = [] if stopped_at is None else [("progress", stopped_at)]
    run = run_with_stops(spec, tmp_path / "stopped", stops)
    assert (run.outcome, run.batches) == (Outcome.COMPLETED, 4)
    assert run.reported == straight.reported


def test_a_stop_waits_for_the_end_of_an_aggregation_window(tmp_path: Path) -> None:
    spec = make_spec("conv.py", aggregation_frequency=4)
    for event, stopped_at in ((("progress", 1), 4), (("progress", 3), 4), (("progress", 4), 4)):
        run = run_session(spec, tmp_path / f"{event[1]}", stop_upon=event)
        assert (run.outcome, run.batches) == (Outcome.PAUSED, stopped_at)
        assert [saved.batches for saved in run.checkpoints] == [stopped_at]


def test_a_request_that_is_taken_back_stops_nothing(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path,
        """
class Undecided(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        self.context.set_stop_requested(True)
        self.context.set_stop_requested(False)
        return super().train_batch(batch, epoch_idx, batch_idx)
""",
    )
    assert run_session(spec, tmp_path / "checkpoints").outcome is Outcome.COMPLETED


def test_a_slot_takes_back_nobody_elses_request(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path,
        """
class Divided(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        self.context.set_stop_requested(self.context.slot == 0)
        return super().train_batch(batch, epoch_idx, batch_idx)
""",
    )
    run = run_session(spec, tmp_path / "checkpoints")
    assert (run.outcome, run.batches) == (Outcome.COMPLETED, 2)
    outside = run_session(spec, tmp_path / "outside", stop_upon=("progress", 1))
    assert outside.outcome is Outcome.PAUSED


def test_a_length_in_time_ends_at_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(schedule, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Hourly(MemoryJournal):
        def progress(self, batches_completed: int) -> None:
            super().progress(batches_completed)
            now[0] += 3600

    def run(spec: TrialSpec, stop_upon: Any = None) -> tuple[Run, MemoryJournal]:
        stop_request = StopRequest()
        journal, sink = Hourly(stop_request, stop_upon), FolderSink(tmp_path / "checkpoints")
        session = new_session(spec, stop_request=stop_request, journal=journal, sink=sink)
        outcome = session.run()
        batches = session.batches_completed
        return Run(outcome, [], [], journal.events, sink.saved, batches), journal

    spec = make_spec(
        "conv.py",
        max_length="5h",
        reporting_period="2h",
        validation_period="3h",
        checkpoint_period="4h",
    )
    # At the end of batch k, k - 1 hours have gone by; what happens then, an hour later.
    whole, journal = run(spec)
    assert (whole.outcome, whole.batches) == (Outcome.COMPLETED, 6)
    assert [batches for batches, *_ in journal.training] == [3, 6]
    assert [batches for batches, *_ in journal.validation] == [4, 6]
    assert [saved.batches for saved in whole.checkpoints] == [5, 6]
    # The hours of an earlier attempt count.
    first, _ = run(spec, ("progress", 2))
    assert (first.outcome, first.batches) == (Outcome.PAUSED, 3)
    second, _ = run(resume(spec, first))
    assert (second.outcome, second.batches) == (Outcome.COMPLETED, 6)


# Checkpoints and the best metric.

SCRIPTED = """
class Scripted(Linear):
    def evaluate_batch(self, batch, batch_idx):
        return {"loss": float(self.hparams["losses"][self.context.current_train_batch() - 1])}
"""


def scripted(folder: Path, losses: list[float], **config: Any) -> TrialSpec:
    return spec_of(
        folder,
        SCRIPTED,
        hyperparameters={"losses": [repr(loss) for loss in losses]},
        max_length=f"{len(losses)}ba",
        validation_period="1ba",
        **config,
    )


@pytest.mark.parametrize(
    ("smaller_is_better", "losses", "best"),
    [
        # Ties are no improvement, NaN never is, and an infinity can be one.
        (True, [3.0, math.nan, 3.0, 2.0, 2.0, 5.0], [1, 4]),
        (False, [3.0, math.nan, 3.0, 4.0, 2.0, 4.0], [1, 4]),
        (True, [math.nan, math.inf, 1.0, -math.inf, 0.0, 9.0], [2, 3, 4]),
    ],
)
def test_the_best_policy_keeps_improvements_and_the_end(
    tmp_path: Path, smaller_is_better: bool, losses: list[float], best: list[int]
) -> None:
    spec = scripted(
        tmp_path,
        losses,
        checkpoint_policy="best",
        searcher={"smaller_is_better": smaller_is_better},
    )
    run = run_session(spec, tmp_path / "straight")
    assert [saved.batches for saved in run.checkpoints] == [*best, 6]
    assert [repr(saved.metrics["loss"]) for saved in run.checkpoints if saved.metrics] == [
        repr(losses[batches - 1]) for batches in [*best, 6]
    ]
    # What was the best before a stop is still to be beaten after it.
    stopped = run_with_stops(spec, tmp_path / "stopped", [("validation", 2), ("validation", 4)])
    assert stopped.reported == run.reported
    progress = stopped.checkpoints[-1].contents.state["progress"]
    assert progress["best_batches"] == best[-1]


@pytest.mark.parametrize(
    ("config", "batches"),
    [
        ({"checkpoint_policy": "none"}, [8]),
        ({"checkpoint_policy": "all"}, [4, 8]),
        ({"checkpoint_policy": "none", "checkpoint_period": "3ba"}, [3, 6, 8]),
        ({"checkpoint_policy": "all", "checkpoint_period": "3ba"}, [3, 4, 6, 8]),
        ({"checkpoint_policy": "none", "checkpoint_period": "1ep"}, [4, 8]),
        (
            {
                "checkpoint_policy": "none",
                "checkpoint_period": "1ba",
                "aggregation_frequency": 3,
            },
            [3, 6, 9],
        ),
    ],
)
def test_checkpoints_come_when_they_are_due_and_once_a_batch(
    tmp_path: Path, config: dict[str, Any], batches: list[int]
) -> None:
    run = run_session(make_spec("conv.py", **config), tmp_path)
    assert [saved.batches for saved in run.checkpoints] == batches


def test_a_checkpoint_has_the_metrics_of_its_own_batch_alone(tmp_path: Path) -> None:
    run = run_session(make_spec("conv.py", checkpoint_period="2ba"), tmp_path)
    found = {saved.batches: saved.metrics for saved in run.checkpoints}
    metrics = {batches: values for batches, _, _, values in run.validation}
    assert found == {2: None, 4: metrics[4], 6: None, 8: metrics[8]}


def test_a_metric_that_is_searched_but_missing_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec("conv.py", searcher={"metric": "accuracy"}, checkpoint_policy="best")
    run = run_session(spec, tmp_path)
    assert len(run.validation) == 2
    assert [saved.batches for saved in run.checkpoints] == [8]
    assert [record.message for record in caplog.records] == [
        "The validation metrics ['loss'] have no 'accuracy', so no checkpoint can be the best one. "
        "Set searcher.metric to one of them."
    ]


# The identity of a run.


def small_run(tmp_path: Path) -> tuple[Path, Run]:
    path = write_trial(tmp_path, HEAD + "class Small(Linear):\n    pass\n")
    return path, run_session(make_spec(path, max_length="2ba"), tmp_path / "checkpoints")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": 8}, "the seed was 7 and is now 8"),
        (
            {"hyperparameters": {"num_records": 13}},
            "the length of the training data was 12 and is now 13; the length of a pass over the "
            "training data was 12 and is now 13",
        ),
        (
            {"hyperparameters": {"batch_size": 3}},
            "the global batch size was 4 and is now 6",
        ),
        (
            {"slots": 4, "hyperparameters": {"batch_size": 1}},
            "the number of slots was 2 and is now 4",
        ),
        ({"aggregation_frequency": 2}, "the aggregation frequency was 1 and is now 2"),
        (
            {"seed": 1, "slots": 1},
            "the seed was 7 and is now 1; the global batch size was 4 and is now 2; the number of "
            "slots was 2 and is now 1",
        ),
    ],
)
def test_another_run_is_refused_with_both_values(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    path, run = small_run(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        new_session(resume(make_spec(path, **changes), run))
    assert str(caught.value) == (
        f"The checkpoint belongs to another run: {expected}. Restore what has changed, or submit a "
        "new experiment."
    )


def test_what_may_change_the_last_digits_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, run = small_run(tmp_path)
    spec = dataclasses.replace(resume(make_spec(path), run), intra_op_threads=2)
    assert run_session(spec, tmp_path / "checkpoints").outcome is Outcome.COMPLETED
    assert [record.message for record in caplog.records] == [
        "the number of threads of a slot was 1 and is now 2: the last digits may differ from a run "
        "without this change."
    ]


# Mistakes of the trial.


def message(folder: Path, source: str, **config: Any) -> str:
    with pytest.raises(InvalidTrialError) as caught:
        run_session(spec_of(folder, source, **config), folder / "checkpoints")
    return str(caught.value)


@pytest.mark.parametrize(
    "method",
    [
        "train_batch(self, batch, epoch_idx, batch_idx)",
        "build_training_data_loader(self)",
        "build_callbacks(self)",
    ],
)
@pytest.mark.parametrize("slots", [1, 2])
def test_nothing_is_wrapped_after_the_constructor(tmp_path: Path, method: str, slots: int) -> None:
    source = f"""
class Late(Linear):
    def {method}:
        self.context.wrap_model(nn.Linear(1, 1))
"""
    assert message(tmp_path, source, slots=slots) == (
        "wrap_model was called after the trial's __init__ had ended. Wrap everything in __init__."
    )


def test_a_step_on_some_slots_only_names_them(tmp_path: Path) -> None:
    source = """
class Some(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        self.context.backward(self.loss(batch))
        if batch_idx < 2 or self.context.slot != 1:
            self.context.step_optimizer(self.optimizer)
        return {"loss": 0.0}
"""
    assert message(tmp_path, source, slots=4) == (
        "The slots of one batch took different steps: slots 0, 2, 3 called step_optimizer on "
        "optimizer 0 (SGD); slot 1 finished the batch. Every slot must call step_optimizer equally "
        "often and in the same order; do not make it depend on a slot's own records."
    )


def test_optimizers_are_stepped_in_the_same_order(tmp_path: Path) -> None:
    source = """
class Swapped(Linear):
    def set_up(self):
        other = self.context.wrap_model(nn.Linear(1, 1))
        self.other = self.context.wrap_optimizer(torch.optim.Adam(other.parameters()))

    def train_batch(self, batch, epoch_idx, batch_idx):
        both = [self.optimizer, self.other]
        for optimizer in both if self.context.slot == 0 else reversed(both):
            self.context.step_optimizer(optimizer)
"""
    assert message(tmp_path, source).startswith(
        "The slots of one batch took different steps: slot 0 called step_optimizer on optimizer 0 "
        "(SGD); slot 1 called step_optimizer on optimizer 1 (Adam). "
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "class Bare(Linear):\n    def __init__(self, context): ...\n"
            "    def build_training_data_loader(self):\n"
            "        return DataLoader([1, 2])\n"
            "    build_validation_data_loader = build_training_data_loader\n",
            "The trial wrapped no model. Call self.model = context.wrap_model(...) in __init__.",
        ),
        (
            "class Bare(Linear):\n    def __init__(self, context):\n"
            "        context.wrap_model(nn.Linear(1, 1))\n"
            "    def build_training_data_loader(self):\n"
            "        return DataLoader([1, 2])\n"
            "    build_validation_data_loader = build_training_data_loader\n",
            "The trial wrapped no optimizer. Call self.optimizer = context.wrap_optimizer(...) in "
            "__init__.",
        ),
        (
            "class Foreign(Linear):\n    def make_optimizer(self):\n"
            "        other = nn.Linear(4, 2)\n"
            "        parameters = [*self.model.parameters(), *other.parameters()]\n"
            "        return torch.optim.SGD(parameters, 0.1)\n",
            "Optimizer 0 (SGD) has a parameter of shape (2, 4) that belongs to no wrapped model, "
            "so no checkpoint would hold it. Call context.wrap_model on its model before the "
            "optimizer is made.",
        ),
        (
            "class Listed(Linear):\n    def build_training_data_loader(self):\n"
            "        return [1, 2]\n",
            "build_training_data_loader returned a list. Return a trialrun.DataLoader, which takes "
            "torch's arguments: trialrun itself then decides which records make a batch, so that "
            "it can resume at any of them. For data that can only be streamed, call "
            "context.experimental.disable_dataset_reproducibility_checks() in __init__.",
        ),
        (
            "class Torch(Linear):\n    def build_validation_data_loader(self):\n"
            "        return torch.utils.data.DataLoader([1, 2])\n",
            "build_validation_data_loader returned a DataLoader. Return a trialrun.DataLoader, "
            "which takes torch's arguments: trialrun itself then decides which records make a "
            "batch, so that it can resume at any of them. For data that can only be streamed, call "
            "context.experimental.disable_dataset_reproducibility_checks() in __init__.",
        ),
    ],
)
def test_a_trial_that_lacks_a_part_is_told_which(
    tmp_path: Path, source: str, expected: str
) -> None:
    assert message(tmp_path, source) == expected


def test_an_error_of_the_trial_names_slot_and_batch(tmp_path: Path) -> None:
    source = """
class Failing(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        if batch_idx == 3 and self.context.slot == 1:
            raise ZeroDivisionError("mine")
        return super().train_batch(batch, epoch_idx, batch_idx)
"""
    session = new_session(spec_of(tmp_path, source, slots=3))
    with pytest.raises(SlotError, match="^slot 1$") as caught:
        session.run()
    assert str(caught.value.__cause__) == "mine"
    assert (caught.value.slot, session.batches_completed) == (1, 3)


def test_the_context_knows_where_it_is(tmp_path: Path) -> None:
    source = """
class Placed(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        context = self.context
        assert context.current_train_batch() == batch_idx
        assert context.current_train_epoch() == epoch_idx == batch_idx // 3
        assert context.is_epoch_start() == (batch_idx in (0, 3, 6))
        assert context.is_epoch_end() == (batch_idx in (2, 5))
        super().train_batch(batch, epoch_idx, batch_idx)
        return {"slot": 10.0 ** context.slot, "initial": context.get_initial_batch()}
"""
    spec = spec_of(tmp_path, source, reporting_period="1ba")
    run = run_with_stops(spec, tmp_path / "checkpoints", [("progress", 4)])
    assert [metrics["slot"] for *_, metrics in run.training] == [5.5] * 8
    # The validation of batch 4 was cut off: the second attempt begins there.
    assert [metrics["initial"] for *_, metrics in run.training] == [0.0] * 4 + [4.0] * 4
