from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from trialrun.controller.verification.causes import NOTHING_FOUND, likely_causes
from trialrun.controller.verification.comparing import Parting
from trialrun.controller.verification.kept_state import Change, Keeper
from trialrun.controller.verification.scenarios import STRAIGHT, Leg, Moment, Scenario, Stop
from trialrun.controller.verification.suspects import Suspect

CLOCK = Suspect(file=Path("trial.py"), line=7, call="time.time", reads="the time")
STOPPED = Scenario(
    name="stopped",
    legs=(Leg(processes=1, stop=Stop(moment=Moment.TRAINING, batch=3)), Leg(processes=2)),
)
WEIGHTS = Parting(records=None, metrics=None, weights="after batch 3", length=None)
RECORDS = Parting(records="slot 1", metrics=None, weights=None, length=None)
EMA = Change(name="self.ema", keeper="TRIAL", is_saved=False)
UNSAVED = (
    "self.ema is changed while it trains, and no checkpoint holds it: return it from state_dict() "
    "of the trial and take it back in load_state_dict()."
)
TIMED = "trial.py, line 7: time.time() reads the time, so no seed decides it."


def test_what_only_a_stop_changes_is_likely_unsaved_state() -> None:
    causes = likely_causes(
        [(STOPPED, WEIGHTS)], changed=[EMA], suspects=[CLOCK], nondeterministic=None
    )
    assert causes == [UNSAVED, TIMED]


def test_what_is_other_each_time_is_likely_outside_of_the_seed() -> None:
    causes = likely_causes(
        [(STRAIGHT, WEIGHTS)], changed=[EMA], suspects=[CLOCK], nondeterministic=None
    )
    assert causes == [TIMED, UNSAVED]


def test_an_operation_that_torch_names_comes_first() -> None:
    causes = likely_causes(
        [(STRAIGHT, WEIGHTS)], changed=[], suspects=[CLOCK], nondeterministic="put_ in line 3."
    )
    assert causes == ["A nondeterministic operation: put_ in line 3.", TIMED]


def test_other_records_point_to_the_dataset() -> None:
    causes = likely_causes(
        [(STOPPED, RECORDS)], changed=[], suspects=[CLOCK], nondeterministic=None
    )
    assert causes[0] == TIMED
    assert "look at the dataset, its collate_fn and its transforms first" in causes[1]


def test_where_nothing_is_found_it_says_where_to_look() -> None:
    causes = likely_causes([(STOPPED, WEIGHTS)], changed=[], suspects=[], nondeterministic=None)
    assert causes == [NOTHING_FOUND]


def test_what_another_number_of_processes_alone_changes_is_shared_by_slots() -> None:
    saved = dataclasses.replace(EMA, is_saved=True)
    folded = Scenario(name="on 2 processes", legs=(Leg(processes=2),))
    (cause,) = likely_causes(
        [(folded, WEIGHTS)], changed=[saved], suspects=[], nondeterministic=None
    )
    assert "Slots that share a process share self.ema" in cause
    assert "Make it a function of batch_idx" in cause


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_workers": 2}, "Only the number of loader workers changes the result"),
        ({"validation_period": 3}, "Only how often it validates changes the result"),
    ],
)
def test_a_setting_that_alone_changes_the_result_is_said(
    settings: dict[str, int], words: str
) -> None:
    other = Scenario(name="other", legs=STRAIGHT.legs, **settings)  # type: ignore[arg-type]  # all of them numbers
    found = [(other, WEIGHTS)]
    causes = likely_causes(found, changed=[], suspects=[], nondeterministic=None)
    assert words in causes[-1]
    found.append((STOPPED, WEIGHTS))
    causes = likely_causes(found, changed=[], suspects=[], nondeterministic=None)
    assert causes == [NOTHING_FOUND]


def test_what_keeps_something_decides_what_to_do_about_it() -> None:
    changed = [Change(name=keeper.name, keeper=keeper.name, is_saved=False) for keeper in Keeper]
    causes = likely_causes(
        [(STOPPED, WEIGHTS)], changed=changed, suspects=[], nondeterministic=None
    )
    assert len(set(causes)) == len(Keeper)
    assert "by register_buffer" in causes[[*Keeper].index(Keeper.MODEL)]
    assert "of the callback" in causes[[*Keeper].index(Keeper.CALLBACK)]
