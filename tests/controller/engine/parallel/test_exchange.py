"""Values that slots hand to each other: in slot order, on any number of processes, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from process_launch import Job, Launcher
from support import Run, make_spec, new_session, run_session, run_with_stops, write_trial
from thread_collectives import run_on_threads

from trialrun import InvalidTrialError, TrialrunError
from trialrun.controller.engine.parallel.collectives import Collectives, SingleProcess
from trialrun.controller.engine.runtime import Runtime
from trialrun.controller.engine.session import TrialSpec
from trialrun.controller.engine.stopping import StopRequest

GATHER = "context.distributed.gather"
APART = "in code that slots do not execute together, such as evaluate_batch, a reducer or a dataset"


def refused(where: str) -> str:
    return (
        f"{GATHER} was called {where}, where it would wait for ever. Call it in __init__, in "
        "train_batch or in a callback of every process, and keep what it returns."
    )


def spec_of(way: str = "all", slots: int = 4, **config: Any) -> TrialSpec:
    return make_spec("exchanging.py", slots=slots, hyperparameters={"way": way}, **config)


def unequal(stretch: str, places: str, calls: str) -> str:
    return (
        f"The slots of one {stretch} took different steps: {places}. Every slot must call {calls} "
        "equally often and in the same order; do not make it depend on the slot."
    )


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    return Launcher(tmp_path_factory.mktemp("launches"))


class OneAttempt:
    """A run that may fail."""

    def __init__(self, spec: TrialSpec, folder: Path) -> None:
        self._spec = spec
        self._folder = folder

    def __call__(self, collectives: Collectives) -> Run:
        return run_session(self._spec, self._folder, collectives=collectives)


def test_the_number_of_processes_does_not_matter(launcher: Launcher, tmp_path: Path) -> None:
    spec = spec_of()
    folded = run_session(spec, tmp_path / "folded")
    stops = (("progress", 2), ("progress", 5))
    assert run_with_stops(spec, tmp_path / "stopped", stops).reported == folded.reported
    for size in (2, 4):
        jobs = [Job(spec, tmp_path / f"on {size}"), Job(spec, tmp_path / f"{size}, stopped", stops)]
        for run in launcher.launch(size, jobs)[0]:
            assert isinstance(run, Run), run
            assert run.reported == folded.reported


@pytest.mark.parametrize("slots", [1, 3])
def test_any_number_of_slots_may_exchange_values(slots: int, tmp_path: Path) -> None:
    assert run_session(spec_of(slots=slots), tmp_path).batches == 8


@pytest.mark.parametrize(
    "way, stretch, places, calls",
    [
        (
            "some",
            "batch",
            "slot 0 called context.distributed.allgather; slot 1 called step_optimizer on "
            "optimizer 0 (SGD)",
            "context.distributed.allgather and step_optimizer",
        ),
        (
            "set-up",
            "set-up",
            "slot 0 finished the set-up; slot 1 called context.distributed.broadcast_local",
            "context.distributed.broadcast_local",
        ),
    ],
)
def test_slots_of_two_processes_that_call_unequally_are_named(
    way: str, stretch: str, places: str, calls: str, launcher: Launcher, tmp_path: Path
) -> None:
    results = launcher.launch(2, [OneAttempt(spec_of(way, slots=2), tmp_path)])
    assert results == [[f"InvalidTrialError: {unequal(stretch, places, calls)}"]] * 2


def test_folded_slots_that_call_unequally_are_named(tmp_path: Path) -> None:
    places = (
        "slot 0 called context.distributed.allgather; slot 1 called step_optimizer on optimizer 0 "
        "(SGD)"
    )
    with pytest.raises(InvalidTrialError) as caught:
        run_session(spec_of("some", slots=2), tmp_path)
    assert str(caught.value) == unequal(
        "batch", places, "context.distributed.allgather and step_optimizer"
    )


def test_what_is_not_plain_data_is_named_by_its_type(tmp_path: Path) -> None:
    with pytest.raises(TrialrunError) as caught:
        run_session(spec_of("not plain"), tmp_path)
    assert str(caught.value) == (
        "The value given to context.distributed.allgather['made'] is the class DataLoader, "
        "which is not plain data, so it can be neither kept in a checkpoint nor sent to another "
        "process. Use numbers, strings, tensors, numpy arrays, and lists, tuples and "
        "dictionaries of them."
    )


def test_a_call_in_evaluate_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidTrialError) as caught:
        run_session(spec_of("evaluation"), tmp_path)
    assert str(caught.value) == refused(APART)


HEAD = """
import torch
from torch.utils.data import IterableDataset
from trials.linear import Linear, records
from trialrun import DataLoader, MetricReducer
"""


@pytest.mark.parametrize(
    "source, where",
    [
        (
            """
class Asking:
    def __init__(self, context):
        self.context = context
        self.records = records(12)

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if self.context.get_initial_batch() == 0:
            self.context.distributed.gather(1)
        return self.records[index]


class InDataset(Linear):
    def build_training_data_loader(self):
        return DataLoader(Asking(self.context), batch_size=2)
""",
            APART,
        ),
        (
            """
class InLoaders(Linear):
    def set_up(self):
        self.context.experimental.disable_dataset_reproducibility_checks()

    def build_training_data_loader(self):
        self.context.distributed.gather(self.context.slot)
        return torch.utils.data.DataLoader(records(12), batch_size=2)
""",
            "while the loader of slot 1 was built, after that of another",
        ),
        (
            """
class Sum(MetricReducer):
    def __init__(self, distributed):
        self.distributed = distributed

    def reset(self):
        pass

    def per_slot_reduce(self):
        return self.distributed.gather(1)

    def cross_slot_reduce(self, values):
        return 0.0


class InReducer(Linear):
    def set_up(self):
        self.context.wrap_reducer(Sum(self.context.distributed), "sum")
""",
            APART,
        ),
    ],
    ids=["dataset", "loaders", "reducer"],
)
def test_a_call_where_slots_do_not_come_together_is_refused(
    source: str, where: str, tmp_path: Path
) -> None:
    path = write_trial(tmp_path, HEAD + source)
    with pytest.raises(Exception) as caught:
        run_session(make_spec(path), tmp_path / "run")
    error = caught.value.__cause__ or caught.value
    assert str(error) == refused(where)


# Code that runs once in each process after training began, such as a callback.


def runtime_of(process: Collectives, slots: int = 4) -> Runtime:
    return Runtime(
        spec_of(slots=slots).settings(),
        collectives=process,
        device=torch.device("cpu"),
        stop_request=StopRequest(),
    )


def test_each_process_speaks_for_its_slots_in_a_callback() -> None:
    def speak(process: Collectives) -> Any:
        runtime = runtime_of(process)
        distributed = runtime.context.distributed
        with runtime.execution.once_in_each_process("on_training_start"):
            values = distributed.allgather([process.rank])
            values[0].append("mine")
            assert distributed.broadcast(process.rank + 5) == 5
            gathered = distributed.gather(distributed.rank)
        runtime.execution.meet()
        return values, gathered

    first = ([[0, "mine"], [0], [1], [1]], [0, 0, 2, 2])
    assert run_on_threads(2, speak) == [first, (first[0], None)]
    assert speak(SingleProcess()) == ([[0, "mine"], [0], [0], [0]], [0, 0, 0, 0])


def test_processes_that_call_unequally_in_a_callback_are_named() -> None:
    def speak(process: Collectives) -> str:
        runtime = runtime_of(process)
        with (
            pytest.raises(InvalidTrialError) as caught,
            runtime.execution.once_in_each_process("on_training_start"),
        ):
            if runtime.context.distributed.rank == 0:
                runtime.context.distributed.gather(1)
            runtime.execution.meet()
        return str(caught.value)

    places = f"slots 0, 1 called {GATHER}; slots 2, 3 finished the on_training_start"
    expected = unequal("on_training_start", places, GATHER)
    assert run_on_threads(2, speak) == [expected, expected]


def test_after_a_batch_the_process_speaks_as_its_first_slot(tmp_path: Path) -> None:
    session = new_session(spec_of())
    session.run()
    execution = session._execution
    assert execution.slot == 0
    with execution.once_in_each_process("on_trial_shutdown"):
        assert execution.exchange(3, GATHER, to_all=False) == [3] * 4
    with pytest.raises(InvalidTrialError, match=f"^{GATHER} was called in code that slots do not"):
        execution.exchange(3, GATHER, to_all=False)


CALLBACKS = (
    HEAD
    + """
from trialrun import Callback


class Speaking(Callback):
    def __init__(self, context):
        self.distributed = context.distributed
        self.way = context.get_hparam("way")
        self.heard = []

    def hear(self, event):
        distributed = self.distributed
        assert distributed.rank % 2 == 0  # on 4 slots of 1 or 2 processes
        values = distributed.allgather([event, len(self.heard)])
        assert values == [[event, len(self.heard)]] * distributed.size
        self.heard.append(event)

    def on_trial_startup(self, first_batch_idx, checkpoint_uuid):
        self.hear("startup")

    def on_training_start(self):
        self.hear("start")

    def on_training_batch_end(self, batch_idx):
        if self.way != "batch end" or batch_idx != 2 or self.distributed.rank == 0:
            self.hear("batch end")

    def on_training_workload_end(self, avg_metrics, batch_metrics):
        self.hear("workload end")

    def on_validation_epoch_end(self, outputs):
        self.hear("epoch end")

    def on_validation_end(self, metrics):
        if self.way != "validation end" or self.distributed.rank == 0:
            self.hear("validation end")

    def on_checkpoint_save_start(self, checkpoint):
        assert self.distributed.rank == 0
        if self.way == "save start":
            self.hear("save start")


class WithCallbacks(Linear):
    def build_callbacks(self):
        return {"speaking": Speaking(self.context)}
"""
)


def callbacks_spec(folder: Path, way: str) -> TrialSpec:
    return make_spec(write_trial(folder, CALLBACKS), slots=4, hyperparameters={"way": way})


def test_slots_exchange_values_in_the_callbacks_of_every_process(
    launcher: Launcher, tmp_path: Path
) -> None:
    spec = callbacks_spec(tmp_path, "all")
    folded = run_session(spec, tmp_path / "folded")
    (run, _) = launcher.launch(2, [OneAttempt(spec, tmp_path / "two")])
    assert isinstance(run[0], Run), run
    assert run[0].reported == folded.reported


@pytest.mark.parametrize("way", ["batch end", "validation end"])
def test_processes_that_call_unequally_in_their_callbacks_are_named(
    way: str, launcher: Launcher, tmp_path: Path
) -> None:
    spec = callbacks_spec(tmp_path, way)
    results = launcher.launch(2, [OneAttempt(spec, tmp_path / "two")])
    call = "context.distributed.allgather"
    for (result,) in results:
        assert result.startswith("InvalidTrialError: The slots of one ")
        assert f"slots 0, 1 called {call}; slots 2, 3 finished the " in result
        assert f"Every slot must call {call} equally often" in result


def test_a_callback_of_the_chief_alone_may_exchange_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidTrialError) as caught:
        run_session(callbacks_spec(tmp_path, "save start"), tmp_path / "run")
    assert str(caught.value) == refused(APART).replace(GATHER, "context.distributed.allgather")
