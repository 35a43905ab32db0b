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
from trialrun.controller.verification.scenarios import Leg, Moment, Scenario, Stop
from trialrun.controller.verification.verifying import RunFailedError, Subject, Verification

KILL = Stop(moment=Moment.TRAINING, batch=3, is_kill=True)
KILLED = Scenario(name="killed", legs=(Leg(processes=1, stop=KILL), Leg(processes=1)))


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
    subject = Subject(
        trial_file=TRIALS / "linear.py",
        trial_class=None,
        config=read_config({"slots": 1, "max_length": "8ba"}),
        num_batches=8,
        processes=(1,),
    )
    verification = Verification(subject, tmp_path, on_kill=lambda: None)
    # The second attempt is not killed: nothing excuses its failure.
    with pytest.raises(RunFailedError, match=f"^attempt {attempts} broke$"):
        verification._records_of(KILLED)
    assert len(made) == attempts
