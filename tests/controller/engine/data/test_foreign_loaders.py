from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from support import Run, make_spec, resume, run_session, run_with_stops

from trialrun import CheckpointError, InvalidTrialError
from trialrun.controller.engine.loop import Outcome
from trialrun.controller.engine.session import TrialSpec

# Torchdata's own: it uses what torch has renamed, and skips records by reading them again.
pytestmark = pytest.mark.filterwarnings(
    "ignore:'set_vital' is deprecated", "ignore:Length of IterableDataset"
)


def spec(
    loader: str, *, num_workers: int = 0, hyperparameters: Any = None, **config: Any
) -> TrialSpec:
    parameters = {"loader": loader, "num_workers": num_workers, **(hyperparameters or {})}
    return make_spec("streaming.py", hyperparameters=parameters, **config)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """8 batches over 2 slots: each slot's shard of 7 records is 4 batches, the last one short."""
    return {
        loader: run_session(spec(loader), tmp_path_factory.mktemp(loader))
        for loader in ("stateful", "shuffled", "dataset")
    }


@pytest.mark.parametrize("loader", ["stateful", "shuffled", "dataset"])
@pytest.mark.parametrize("stop", range(1, 7))
def test_a_loader_with_state_goes_on_where_it_was(
    loader: str, stop: int, straight: dict[str, Run], tmp_path: Path
) -> None:
    stopped = run_with_stops(spec(loader), tmp_path, [("progress", stop)])
    assert stopped.reported == straight[loader].reported
    assert len(stopped.checkpoints) == 2


def test_the_loaders_differ(straight: dict[str, Run]) -> None:
    # The same records in the same order and with the same draws, but for the shuffled ones.
    assert straight["stateful"].digest == straight["dataset"].digest
    assert straight["stateful"].digest != straight["shuffled"].digest


def test_a_run_stopped_at_every_batch_goes_through_every_pass(
    straight: dict[str, Run], tmp_path: Path
) -> None:
    stops = [("progress", batch) for batch in range(1, 7)]
    stopped = run_with_stops(spec("shuffled"), tmp_path, stops)
    assert stopped.reported == straight["shuffled"].reported


def test_the_records_of_loader_workers_go_on_too(tmp_path: Path) -> None:
    # What workers draw is not promised, so the noise is the only thing that may differ.
    whole = run_session(spec("stateful", num_workers=1), tmp_path / "whole")
    stopped = run_with_stops(
        spec("stateful", num_workers=1), tmp_path / "stopped", [("progress", 3)]
    )
    assert [report[:2] for report in stopped.training] == [report[:2] for report in whole.training]
    for (_, _, one), (_, _, other) in zip(stopped.training, whole.training, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.2)


WORD = (
    "The DataLoader that build_training_data_loader returned keeps no state: a resumed run begins "
    "its records anew, sees some of them twice, and is not equal to a run that was never stopped. "
    "Return a trialrun.DataLoader, or a loader with state_dict and load_state_dict, such as "
    "torchdata's StatefulDataLoader."
)


def test_a_loader_without_state_is_allowed_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_with_stops(spec("stateless"), tmp_path, [("progress", 3)])
    assert run.outcome is Outcome.COMPLETED
    assert caplog.messages.count(WORD) == 2  # once in each attempt


def test_a_loader_with_state_needs_no_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_session(spec("dataset"), tmp_path)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_loader_without_end_is_one_long_epoch(tmp_path: Path) -> None:
    run = run_session(spec("endless"), tmp_path)
    assert [(batches, epoch) for batches, epoch, _ in run.training] == [(3, 0), (6, 0), (8, 0)]


@pytest.mark.parametrize("validation", ["described", "own"])
def test_validation_records_are_counted_once(validation: str, tmp_path: Path) -> None:
    run = run_session(
        spec("stateful", slots=4, hyperparameters={"validation": validation}), tmp_path
    )
    assert [num_records for _, _, num_records, _ in run.validation] == [7, 7]


# What does not fit.


def refused(loader: str, tmp_path: Path, **config: Any) -> str:
    with pytest.raises(InvalidTrialError) as caught:
        run_session(spec(loader, **config), tmp_path)
    return str(caught.value)


def test_it_must_be_allowed(tmp_path: Path) -> None:
    message = refused("stateful", tmp_path, hyperparameters={"allowed": False})
    assert message.startswith("build_training_data_loader returned a StatefulDataLoader. ")
    assert "context.experimental.disable_dataset_reproducibility_checks()" in message


def test_epochs_need_a_length(tmp_path: Path) -> None:
    assert refused("stateless", tmp_path, validation_period="1ep") == (
        "validation_period is 1ep, but the DataLoader of the training data has no length, so "
        "nobody knows how long an epoch is. Give validation_period in batches or as a time, such "
        "as 500ba."
    )


@pytest.mark.parametrize(
    ("loader", "kind", "batch"), [("empty", "list", 0), ("once", "list_iterator", 1)]
)
def test_a_loader_that_gives_nothing_is_refused(
    loader: str, kind: str, batch: int, tmp_path: Path
) -> None:
    assert refused(loader, tmp_path, validation_period=None) == (
        f"The {kind} of slot 0 gave no batch in a whole pass, at batch {batch}. Check what it "
        "loads; an iterator, which can be gone through once only, is no loader."
    )


def test_one_loader_for_several_slots_is_refused(tmp_path: Path) -> None:
    assert refused("shared", tmp_path) == (
        "build_training_data_loader returned the same DataLoader for the slots 0 and 1, which "
        "would take each other's batches. Make a new loader in every call."
    )


def test_slots_with_loaders_of_different_kinds_are_refused(tmp_path: Path) -> None:
    assert refused("mixed", tmp_path) == (
        "build_training_data_loader returned a trialrun.DataLoader for slot 1, and another loader "
        "for slot 0. Return the same kind for every slot."
    )


def test_what_cannot_be_iterated_over_is_refused(tmp_path: Path) -> None:
    assert refused("number", tmp_path, slots=1) == (
        "build_training_data_loader returned an object of type int, which cannot be iterated over. "
        "Return a trialrun.DataLoader, or a loader."
    )


def test_another_kind_of_loader_is_another_run(tmp_path: Path) -> None:
    run = run_session(spec("stateful"), tmp_path, stop_upon=("progress", 3))
    with pytest.raises(CheckpointError) as caught:
        run_session(resume(spec("stateless"), run), tmp_path)
    assert "the order of the training data was 'StatefulDataLoader' and is now 'DataLoader'" in str(
        caught.value
    )


def test_a_loader_that_lost_its_state_is_refused(tmp_path: Path) -> None:
    run = run_session(spec("dataset"), tmp_path, stop_upon=("progress", 3))
    with pytest.raises(CheckpointError) as caught:
        run_session(resume(spec("stateless"), run), tmp_path)
    assert str(caught.value) == (
        "The training loader kept state when the checkpoint was taken, and keeps no state: it is a "
        "DataLoader. Restore the trial's code, or submit a new experiment."
    )
