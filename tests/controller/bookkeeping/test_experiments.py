from __future__ import annotations

import math

import pytest

from trialrun._errors import BookkeepingError
from trialrun.controller.bookkeeping import (
    AttemptRow,
    Database,
    Recorder,
    RunState,
    get_experiment,
    get_trial,
    list_experiments,
    trials_of_experiment,
)

from .conftest import new_attempt, new_experiment


def test_experiment_comes_back_as_it_went_in(database: Database) -> None:
    created, trial = new_experiment(database)
    found = get_experiment(database, created.id)
    assert (found.name, found.description, found.git_commit) == ("digits", "", None)
    assert (found.trial_file, found.trial_class) == ("/code/trial.py", "Digits")
    assert (found.trial_source_hash, found.config) == ("ab12", {"slots": 4})
    assert found.directory == "/home/experiments/1"
    assert found.created_at == created.created_at
    assert [row.id for row in trials_of_experiment(database, created.id)] == [trial.id]
    assert (trial.hyperparameters, trial.seed) == ({"lr": 0.1}, 2**63 - 1)
    assert (trial.state, trial.batches_completed) == (RunState.PAUSED, 0)
    assert (trial.total_batches, trial.started_at, trial.ended_at) == (None, None, None)


def test_unknown_experiment_names_those_that_exist(database: Database) -> None:
    with pytest.raises(BookkeepingError) as raised:
        get_experiment(database, 7)
    assert str(raised.value) == (
        f"There is no experiment 7. The database {database.name} has none yet: "
        "`trialrun submit` makes the first."
    )
    for _ in range(3):
        new_experiment(database)
    with pytest.raises(BookkeepingError) as raised:
        get_experiment(database, 7)
    assert str(raised.value) == (
        "There is no experiment 7. These exist: 1, 2, 3. `trialrun list` shows them."
    )


def test_unknown_experiment_among_many_names_the_newest(database: Database) -> None:
    for _ in range(12):
        new_experiment(database)
    with pytest.raises(BookkeepingError, match=r"The newest of 12 are: 3, 4, .*, 11, 12\. "):
        get_experiment(database, 99)


def test_unknown_trial_is_an_error(database: Database) -> None:
    with pytest.raises(BookkeepingError, match="There is no trial 5. `trialrun list` shows"):
        get_trial(database, 5)


def test_list_shows_progress_and_each_trials_newest_validation(
    database: Database, attempt: AttemptRow
) -> None:
    second = new_attempt(database, new_experiment(database, name="second")[1].id)
    new_experiment(database, name="waiting")
    for running, losses in ((attempt, {10: 0.5, 20: math.nan, 15: 0.4}), (second, {7: 0.7})):
        with Recorder(database, running) as recorder:
            recorder.plan({}, total_batches=100, device="cpu")
            for batches, loss in losses.items():
                recorder.validation_metrics(
                    batches=batches,
                    epoch=0,
                    metrics={"loss": loss},
                    num_records=50,
                    duration_seconds=0.25,
                )
                recorder.progress(batches)
    summaries = list_experiments(database)
    assert [summary.experiment.name for summary in summaries] == ["digits", "second", "waiting"]
    trials = [summary.trials[0] for summary in summaries]
    assert [row.trial.state.name for row in trials] == ["RUNNING", "RUNNING", "PAUSED"]
    assert [row.trial.batches_completed for row in trials] == [15, 7, 0]
    assert [row.trial.total_batches for row in trials] == [100, 100, None]
    first, other, none = (row.latest_validation for row in trials)
    assert first is not None and other is not None and none is None
    assert (first.batches, first.num_records, first.duration_seconds) == (20, 50, 0.25)
    assert math.isnan(first.metrics["loss"])
    assert other.metrics == {"loss": 0.7}
