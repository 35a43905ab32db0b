from __future__ import annotations

from pathlib import Path

from trialrun.controller.verification.causes import NOTHING_FOUND, likely_causes
from trialrun.controller.verification.comparing import Parting
from trialrun.controller.verification.scenarios import STRAIGHT, Leg, Moment, Scenario, Stop
from trialrun.controller.verification.suspects import Suspect

CLOCK = Suspect(file=Path("trial.py"), line=7, call="time.time", reads="the time")
STOPPED = Scenario(
    name="stopped",
    legs=(Leg(processes=1, stop=Stop(moment=Moment.TRAINING, batch=3)), Leg(processes=2)),
)
WEIGHTS = Parting(records=None, metrics=None, weights="after batch 3", length=None)
RECORDS = Parting(records="slot 1", metrics=None, weights=None, length=None)
UNSAVED = (
    "self.ema is changed while it trains, and no checkpoint holds it: return it from state_dict() "
    "of the trial and take it back in load_state_dict()."
)
TIMED = "trial.py, line 7: time.time() reads the time, so no seed decides it."


def test_what_only_a_stop_changes_is_likely_unsaved_state() -> None:
    causes = likely_causes(
        [(STOPPED, WEIGHTS)], changed=["ema"], suspects=[CLOCK], nondeterministic=None
    )
    assert causes == [UNSAVED, TIMED]


def test_what_is_other_each_time_is_likely_outside_of_the_seed() -> None:
    causes = likely_causes(
        [(STRAIGHT, WEIGHTS)], changed=["ema"], suspects=[CLOCK], nondeterministic=None
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
