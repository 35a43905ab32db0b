from __future__ import annotations

import pytest

from trialrun.controller.bookkeeping import ExperimentRow
from trialrun.controller.going_on import how_to_go_on, how_to_train_longer, is_of_script

WITH_LATEST = 'again, with trainer.fit(..., latest_checkpoint="latest")'


@pytest.mark.parametrize(
    ("trial_file", "trial_class", "way"),
    [
        ("/work/trial.py", "", "trialrun resume 3"),
        ("/work/trial.py", "Digits", "trialrun resume 3"),
        ("/work/script.py", "__main__:Digits", f"run /work/script.py {WITH_LATEST}"),
        ("/work/digits.py", "digits:Digits", f"run the script or notebook {WITH_LATEST}"),
        ("", "__main__:Digits", f"run the script or notebook {WITH_LATEST}"),
    ],
)
def test_the_way_on_is_a_command_or_the_script(trial_file: str, trial_class: str, way: str) -> None:
    row = ExperimentRow(id=3, trial_file=trial_file, trial_class=trial_class)
    assert how_to_go_on(row) == way
    assert is_of_script(row) == (not way.startswith("trialrun"))
    if is_of_script(row):
        assert how_to_train_longer(row) == (
            f"{way.partition(' again, ')[0]} again, with trainer.fit(max_length=..., "
            'latest_checkpoint="latest") and a larger max_length'
        )
    else:
        assert how_to_train_longer(row) == "submit a new one"
