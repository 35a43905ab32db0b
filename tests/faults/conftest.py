"""One process that has torch loaded serves all commands; one run without a fault is compared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .commands import Shell, open_shell
from .place import Outcome, Place


@pytest.fixture(scope="package")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with open_shell(tmp_path_factory.mktemp("commands")) as opened:
        yield opened


@pytest.fixture(scope="package")
def straight(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The run without a fault, with a checkpoint at every window."""
    place = Place(shell, tmp_path_factory.mktemp("straight") / "place", "2ba")
    command = place.start(1)
    assert shell.finish(command) == 0, command.text
    return place.outcome()
