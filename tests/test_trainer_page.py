"""The page on scripts and notebooks: its script runs, and its tables name every argument."""

from __future__ import annotations

import inspect
import re
import sys
import types
from pathlib import Path

import pytest

import trialrun

PAGE = (Path(__file__).parent.parent / "docs" / "trainer.md").read_text(encoding="utf-8")


def test_the_script_of_the_page_runs_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIALRUN_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    (source,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    exec(source, {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines()[-1] == "1 20 True"
    exec(source.replace("Epoch(4)", "Epoch(5)"), {"__name__": "__main__"})
    out = capsys.readouterr().out
    assert "Goes on: at batch 20, checkpoint " in out
    assert out.splitlines()[-1] == "1 25 True"


@pytest.mark.parametrize(
    ("name", "function"), [("init", trialrun.init), ("fit", trialrun.Trainer.fit)]
)
def test_the_tables_name_every_argument_in_order(name: str, function: object) -> None:
    (table,) = re.findall(rf"^\| argument of `{name}`.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    parameters = [p for p in inspect.signature(function).parameters if p != "self"]  # type: ignore[arg-type]
    assert documented == parameters
