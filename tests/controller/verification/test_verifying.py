"""A run counts as killed where the planned kill has ended it, and nothing else has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import TRIALS

from trialrun.controller.bookkeeping import Database, RunState, finish_attempt
from trialrun.controller.config import read_config
from trialrun.controller.experiments import PreparedAttempt
from trialrun.controller.launch.failures import Failure, FailureKind
from trialrun.controller.launch.supervisor import AttemptEnd, AttemptResult
from trialrun.controller.verification import verifying
from trialrun.controller.verification.comparing import Parting
from trialrun.controller.verification.scenarios import Combination, Leg, Moment, Scenario, Stop
from trialrun.controller.verification.verifying import (
    RunFailedError,
    ScenarioResult,
    Subject,
    Verification,
)

KILL = Stop(moment=Moment.TRAINING, batch=3, is_kill=True)
KILLED = Scenario(name="killed", legs=(Leg(processes=1, stop=KILL), Leg(processes=1)))


def verification_of(folder: Path) -> Verification:
    subject = Subject(
        trial_file=TRIALS / "linear.py",
        trial_class=None,
        config=read_config({"slots": 1, "max_length": "8ba"}),
        num_batches=8,
        processes=(1,),
    )
    return Verification(subject, folder, on_kill=lambda: None)


@pytest.mark.parametrize(("kind", "attempts"), [(FailureKind.USER_CODE, 1), (FailureKind.LOST, 2)])
def test_a_failure_of_the_trial_itself_is_no_kill(
    kind: FailureKind, attempts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def run_attempt(database: Database, prepared: PreparedAttempt, **_: Any) -> AttemptResult:
        made.append(prepared.attempt.number)
        finish_attempt(database, prepared.attempt.id, RunState.ERROR, error="it broke")
        message = f"attempt {prepared.attempt.number} broke"
        failure = Failure(kind=kind, message=message, traceback=None, process=0)
        return AttemptResult(end=AttemptEnd.FAILED, failure=failure)

    monkeypatch.setattr(verifying, "run_attempt", run_attempt)
    verification = verification_of(tmp_path)
    # The second attempt is not killed: nothing excuses its failure.
    with pytest.raises(RunFailedError, match=f"^attempt {attempts} broke$"):
        verification._records_of(KILLED)
    assert len(made) == attempts


EQUAL = Parting(records=None, metrics=None, weights=None, length=None)
OTHER = Parting(records=None, metrics=None, weights="after batch 3", length=None)
PAIR = Combination(
    scenarios=(
        Scenario(name="on 2 processes", legs=(Leg(processes=2),)),
        Scenario(name="num_workers=2", legs=(Leg(processes=1),), num_workers=2),
    )
)


@pytest.mark.parametrize(
    ("differing", "expected"),
    [
        ([], [("on 2 processes", [2], True), ("num_workers=2", [2], True)]),
        (
            ["all of these at once", "num_workers=2"],
            [("on 2 processes", [2], True), ("num_workers=2", [1], False)],
        ),
        (
            ["all of these at once"],
            [
                ("on 2 processes", [2], True),
                ("num_workers=2", [1], True),
                ("all of these at once", [2], False),
            ],
        ),
    ],
)
def test_what_does_not_hold_together_is_tried_alone_and_never_forgotten(
    differing: list[str],
    expected: list[tuple[str, list[int], bool]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verification = verification_of(tmp_path)

    def result_of(scenario: Scenario, straight: Any) -> ScenarioResult:
        parting = OTHER if scenario.name in differing else EQUAL
        return ScenarioResult(scenario=scenario, parting=parting)

    monkeypatch.setattr(verification, "_result_of", result_of)
    straight: Any = None
    results = list(verification._results_of(PAIR, straight))
    assert [(r.scenario.name, r.scenario.processes, r.holds) for r in results] == expected


def test_stops_that_come_otherwise_than_planned_say_nothing_about_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verification = verification_of(tmp_path)
    failure = "it ended before the stop that was planned"

    def result_of(scenario: Scenario, straight: Any) -> ScenarioResult:
        if scenario in PAIR.scenarios:
            return ScenarioResult(scenario=scenario, parting=EQUAL)
        return ScenarioResult(scenario=scenario, parting=None, failure=failure)

    monkeypatch.setattr(verification, "_result_of", result_of)
    straight: Any = None
    results = list(verification._results_of(PAIR, straight))
    assert [(r.scenario, r.holds) for r in results] == [(s, True) for s in PAIR.scenarios]
