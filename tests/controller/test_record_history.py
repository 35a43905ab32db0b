from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trialrun import BookkeepingError
from trialrun.controller.bookkeeping import Database, Recorder, claim_trial, create_experiment
from trialrun.controller.record_history import RecordHistory
from trialrun.samplers.record_order import RecordOrder

# A trial whose length is a time: 10 records, 3 batches an epoch, 4 batches so far.
TIMED = RecordHistory(
    order=RecordOrder(num_records=10, seed=1, num_slots=2, batch_size=2, is_shuffled=True),
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


@pytest.mark.parametrize("plan", [None, {"epoch_length": 3}])
def test_an_order_that_was_not_written_down_is_not_guessed(
    plan: dict[str, Any] | None, tmp_path: Path
) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'trialrun.db'}")
    experiment, trial = create_experiment(
        database,
        name="older",
        trial_file=tmp_path / "trial.py",
        trial_class="",
        trial_source_hash="",
        config={"slots": 2},
        hyperparameters={},
        seed=0,
        experiments_directory=tmp_path,
    )
    attempt = claim_trial(database, trial.id, hostname="", pid=0, num_processes=1)
    assert attempt is not None
    if plan is not None:
        with Recorder(database, attempt) as recorder:
            recorder.plan(plan, total_batches=9, device="cpu")
    with pytest.raises(BookkeepingError) as caught:
        RecordHistory.of_experiment(database, experiment.id)
    assert str(caught.value) == (
        "The order of the records of experiment 1 is not on record: it has not begun to train, or "
        "only with a version that did not write it down. Resume it first."
    )
