"""Which failures are worth another attempt, how many, and after which wait."""

from __future__ import annotations

import pytest

from trialrun.controller.launch.failures import Failure, FailureKind
from trialrun.controller.restarts import Refusal, Restart, RestartPolicy


def failure(kind: FailureKind, batches: int | None = 7, error: str | None = None) -> Failure:
    return Failure(
        kind=kind, message="It broke.", traceback=None, process=1, batches=batches, error=error
    )


def restart(number: int, most: int, delay_seconds: float = 0.0) -> Restart:
    return Restart(number=number, most=most, delay_seconds=delay_seconds)


@pytest.mark.parametrize("kind", [FailureKind.LOST, FailureKind.HUNG, FailureKind.PEER_LOST])
def test_a_fault_is_worth_every_restart_also_at_the_same_batch(kind: FailureKind) -> None:
    policy = RestartPolicy(2)
    assert policy.decide(failure(kind), made_progress=True) == restart(1, 2)
    assert policy.decide(failure(kind), made_progress=True) == restart(2, 2)
    assert policy.decide(failure(kind), made_progress=True) == Refusal(
        remark="The trial was restarted 2 times (max_restarts), and is not again."
    )


def test_no_restart_is_allowed() -> None:
    assert RestartPolicy(0).decide(failure(FailureKind.LOST), made_progress=True) == Refusal()


def test_a_broken_rule_is_for_the_author() -> None:
    policy = RestartPolicy(5)
    assert policy.decide(failure(FailureKind.RULE), made_progress=True) == Refusal()


@pytest.mark.parametrize("batches", [None, 0])
def test_an_exception_before_the_first_batch_is_complete_is_for_the_author(
    batches: int | None,
) -> None:
    raised = failure(FailureKind.USER_CODE, batches, "NameError")
    assert RestartPolicy(5).decide(raised, made_progress=False) == Refusal()


def test_an_exception_is_tried_again_until_it_comes_at_the_same_batch() -> None:
    policy = RestartPolicy(5)
    number = 0
    for batches, error in ((7, "OSError"), (8, "OSError"), (8, "ValueError")):
        number += 1
        raised = failure(FailureKind.USER_CODE, batches, error)
        assert policy.decide(raised, made_progress=True) == restart(number, 5)
    again = policy.decide(failure(FailureKind.USER_CODE, 8, "ValueError"), made_progress=True)
    assert again == Refusal(
        remark="It came again at the same batch, and would come every time: a run is exact. The "
        "trial is not restarted."
    )


def test_a_fault_between_two_equal_exceptions_leaves_the_second_one_its_restart() -> None:
    policy = RestartPolicy(5)
    raised = failure(FailureKind.USER_CODE, 8, "ValueError")
    for number, broken in enumerate((raised, failure(FailureKind.LOST), raised), 1):
        assert policy.decide(broken, made_progress=True) == restart(number, 5)


def test_attempts_without_progress_wait_longer_and_longer_until_one_makes_some() -> None:
    policy = RestartPolicy(100)
    delays = []
    for made_progress in [False] * 7 + [True, False]:
        decision = policy.decide(failure(FailureKind.LOST), made_progress=made_progress)
        assert isinstance(decision, Restart)
        delays.append(decision.delay_seconds)
    assert delays == [1, 2, 4, 8, 16, 30, 30, 0, 1]
