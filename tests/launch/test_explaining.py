"""A file of the user's that has the name of another module is named, where it is the cause."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from trialrun.controller.launch.explaining import explain


def told(error: BaseException, folder: Path) -> str:
    return explain(error, batches=None, process=0, user_folder=folder).message


def import_error(statement: str) -> ImportError | AttributeError:
    with pytest.raises((ImportError, AttributeError)) as caught:
        exec(statement, {})
    return caught.value


@pytest.mark.parametrize(
    ("statement", "file"),
    [
        ("import queue; queue.mine", "queue.py"),
        ("from queue import mine", "queue.py"),
        ("import queue.mine", "queue.py"),
        ("from torch import mine", "torch/__init__.py"),
    ],
)
def test_a_file_with_the_name_of_another_module_is_named(
    tmp_path: Path, statement: str, file: str
) -> None:
    error = import_error(statement)
    assert told(error, tmp_path) == f"{type(error).__name__} while the trial was set up: {error}"
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert told(error, tmp_path) == (
        f"{type(error).__name__} while the trial was set up: {error}. {path} has the name of "
        "another module, and one is taken for the other: rename the file."
    )


def test_a_file_of_the_users_own_name_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "our_helpers.py").write_text("right = 1\n", encoding="utf-8")
    (tmp_path / "queue.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    for error in (
        import_error("from our_helpers import wrong"),
        import_error("import no_such_module"),
        import_error("'text'.wrong"),
    ):
        assert told(error, tmp_path).endswith(str(error))
    sys.modules.pop("our_helpers")
