"""What tests of the engine share: real processes, started from a server that has torch loaded."""

from __future__ import annotations

import pytest
from process_launch import Launcher


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    return Launcher(tmp_path_factory.mktemp("launches"))
