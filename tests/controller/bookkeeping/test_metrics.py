from __future__ import annotations

import pytest

from trialrun.controller.bookkeeping import (
    AttemptRow,
    Database,
    Recorder,
    RunState,
    finish_attempt,
    get_trial,
    rewind,
    training_metrics_of_trial,
    validation_metrics_of_trial,
)

from .conftest import new_attempt, new_experiment


def report(recorder: Recorder, start: int, stop: int, loss: float) -> None:
    for batches in range(start, stop):
        recorder.training_metrics(batches=batches, epoch=batches // 4, metrics={"loss": loss})
        if batches % 5 == 0:
            recorder.validation_metrics(
                batches=batches,
                epoch=batches // 4,
                metrics={"accuracy": loss},
                num_records=None,
                duration_seconds=1.5,
            )
        recorder.progress(batches)


@pytest.fixture
def reported(database: Database, attempt: AttemptRow) -> AttemptRow:
    with Recorder(database, attempt) as recorder:
        report(recorder, 1, 21, loss=1.0)
    return attempt


def test_metrics_are_listed_in_order_and_by_half_open_range(
    database: Database, reported: AttemptRow
) -> None:
    trial_id = reported.trial_id
    rows = training_metrics_of_trial(database, trial_id)
    assert [row.batches for row in rows] == list(range(1, 21))
    assert [row.epoch for row in rows] == [batches // 4 for batches in range(1, 21)]
    part = training_metrics_of_trial(database, trial_id, start=5, stop=8)
    assert [row.batches for row in part] == [5, 6, 7]
    checked = validation_metrics_of_trial(database, trial_id, start=6)
    assert [row.batches for row in checked] == [10, 15, 20]


def test_rewind_forgets_what_will_be_reported_again(
    database: Database, reported: AttemptRow
) -> None:
    other = new_attempt(database, new_experiment(database)[1].id)
    with Recorder(database, other) as recorder:
        report(recorder, 1, 21, loss=3.0)
    assert rewind(database, reported.trial_id, 10) == 10 + 2
    rows = training_metrics_of_trial(database, reported.trial_id)
    assert [row.batches for row in rows] == list(range(1, 11))
    checked = validation_metrics_of_trial(database, reported.trial_id)
    assert [row.batches for row in checked] == [5, 10]
    assert get_trial(database, reported.trial_id).batches_completed == 10
    assert len(training_metrics_of_trial(database, other.trial_id)) == 20
    assert rewind(database, reported.trial_id, 10) == 0


def test_batches_reported_again_replace_their_rows(
    database: Database, reported: AttemptRow
) -> None:
    finish_attempt(database, reported.id, RunState.DEAD)
    second = new_attempt(database, reported.trial_id)
    with Recorder(database, second) as recorder:
        report(recorder, 15, 26, loss=2.0)
    rows = training_metrics_of_trial(database, reported.trial_id)
    assert [row.batches for row in rows] == list(range(1, 26))
    assert [row.metrics["loss"] for row in rows] == [1.0] * 14 + [2.0] * 11
    assert [row.attempt_id for row in rows] == [reported.id] * 14 + [second.id] * 11
    assert get_trial(database, reported.trial_id).batches_completed == 25
