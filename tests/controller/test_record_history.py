from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trialrun import BookkeepingError
from trialrun.controller.bookkeeping import Database, Recorder, claim_trial, create_experiment
from trialrun.controller.record_history import RecordHistory
from trialrun.samplers.record_order import DealtRecords
from trialrun.samplers.sequences import Count, Shuffled

# A trial whose length is a time: 10 records, 3 batches an epoch, 4 batches so far.
TIMED = RecordHistory(
    order=DealtRecords(source=Shuffled(Count(10), 1), num_slots=2, batch_size=2),
    num_records=10,
    epoch_length=3,
    batches_completed=4,
    total_batches=None,
    checkpoints=[],
)


def test_a_trial_without_a_known_end_knows_one_epoch_more() -> None:
    uses = TIMED.uses(6)
    assert [use.epoch for use in uses] == list(range(len(uses)))
    assert 2 <= len(uses) <= 3
    assert max(use.batch for use in uses) < 4 + 3
    assert {TIMED.is_past(use) for use in uses} == {True, False}
    assert TIMED.checkpoint_before(uses[0]) is None


def test_any_batch_that_can_be_counted_is_known() -> None:
    assert set(TIMED.batch(10**12)) == {0, 1}
    with pytest.raises(BookkeepingError) as caught:
        TIMED.batch(10**30)
    assert str(caught.value).startswith(f"There is no batch {10**30}: ")


def recorded(folder: Path, plan: dict[str, Any] | None) -> tuple[Database, int]:
    """Returns a database with an experiment of 2 slots and seed 5 that has begun with a plan."""
    database = Database.open(f"sqlite:///{folder / 'trialrun.db'}")
    experiment, trial = create_experiment(
        database,
        name="older",
        trial_file=folder / "trial.py",
        trial_class="",
        trial_source_hash="",
        config={"slots": 2},
        hyperparameters={},
        seed=5,
        experiments_directory=folder,
    )
    attempt = claim_trial(database, trial.id, hostname="", pid=0, num_processes=1)
    assert attempt is not None
    if plan is not None:
        with Recorder(database, attempt) as recorder:
            recorder.plan(plan, total_batches=9, device="cpu")
    return database, experiment.id


def message(folder: Path, plan: dict[str, Any] | None) -> str:
    with pytest.raises(BookkeepingError) as caught:
        RecordHistory.of_experiment(*recorded(folder, plan))
    return str(caught.value)


@pytest.mark.parametrize("plan", [None, {"epoch_length": 3}])
def test_an_order_that_was_not_written_down_is_not_guessed(
    plan: dict[str, Any] | None, tmp_path: Path
) -> None:
    assert message(tmp_path, plan) == (
        "The order of the records of experiment 1 is not on record: it has not begun to train, or "
        "only with a version that did not write it down. Resume it first."
    )


def older_plan(is_shuffled: bool | None, shuffle_version: int = 1) -> dict[str, Any]:
    return {
        "epoch_length": 3,
        "data": {
            "record_order": "Sequential -> Shuffle",
            "is_shuffled": is_shuffled,
            "dataset_length": 10,
            "pass_length": 10,
            "batch_size": 2,
            "epoch_length": 3,
            "shuffle_version": shuffle_version,
        },
    }


@pytest.mark.parametrize("is_shuffled", [True, False])
def test_a_plan_of_the_older_form_is_read(is_shuffled: bool, tmp_path: Path) -> None:
    history = RecordHistory.of_experiment(*recorded(tmp_path, older_plan(is_shuffled)))
    source = Shuffled(Count(10), 5) if is_shuffled else Count(10)
    order = DealtRecords(source=source, num_slots=2, batch_size=2)
    for slot, shares in history.batch(7).items():
        assert shares.records.tolist() == order.records(7, slot).records.tolist()
    assert history.uses(3) == list(order.uses(3, start_batch=0, stop_batch=9))
    assert (history.num_records, history.epoch_length, history.total_batches) == (10, 3, 9)


def test_a_plan_of_the_older_form_with_another_shuffle_or_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert message(tmp_path / "a", older_plan(True, shuffle_version=0)) == (
        "Experiment 1 orders its records by Sequential -> Shuffle, which cannot be made again "
        "here. The stage Shuffle was described by version 0 of its algorithm; this trialrun has "
        "version 1. Use the version that wrote the description."
    )
    (tmp_path / "b").mkdir()
    assert message(tmp_path / "b", older_plan(None)) == (
        "Experiment 1 orders its records by Sequential -> Shuffle, which cannot be made again "
        "here. An older version of trialrun wrote only the name down. Resume the experiment, which "
        "puts the whole chain on record, or ask the sampler itself: sampler.take(start, stop)."
    )
