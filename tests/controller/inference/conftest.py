"""One trained experiment that many tests look at; none changes it."""

from __future__ import annotations

import pytest
from recorded_run import RecordedRun, train_recorded


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """The trial of ``trials/predicting.py`` after 8 batches on 2 slots; validated at 4 and 8."""
    return train_recorded(
        tmp_path_factory.mktemp("trained"),
        "predicting.py",
        hyperparameters={"depth": 3},
        checkpoint_policy="all",
    )
