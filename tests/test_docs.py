from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pydantic
import pytest
import torch
import yaml
from plugin_packages import write_package
from support import make_spec, run_session

from trialrun.cli import main
from trialrun.controller.bookkeeping import Database, RunState, get_trial
from trialrun.controller.config import ExperimentConfig
from trialrun.controller.engine.parallel.collectives import SingleProcess
from trialrun.controller.engine.rehearsal import rehearse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _commands() -> list[list[str]]:
    lines = [line for block in _blocks("console") for line in block.splitlines()]
    parts = [part for line in lines for part in line.split("&&")]
    return [shlex.split(part) for part in parts if part.strip().startswith("trialrun ")]


def test_readme_has_the_two_install_commands_that_ci_runs() -> None:
    lines = [line for block in _blocks("console") for line in block.splitlines()]
    assert [line for line in lines if line.startswith("pip install")] == [
        "pip install -c constraints.txt '.[examples]' && "
        "trialrun submit examples/digits/trial.py --slots 4",
        "pip install -c constraints.txt -e '.[examples,test]' && pytest",
    ]


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_readme_commands_parse(command: list[str]) -> None:
    group: click.Command = main
    arguments = command[1:]
    context = click.Context(group)
    while isinstance(group, click.Group):
        found = group.get_command(context, arguments[0])
        assert found is not None, f"{arguments[0]} is no command"
        group, arguments = found, arguments[1:]
    # make_context parses, and runs nothing.
    group.make_context(command[1], arguments)


def test_readme_trial_passes_its_rehearsal(tmp_path: Path) -> None:
    source = _blocks("python")[0]
    (configuration,) = _blocks("yaml")
    trial_file = tmp_path / "regression.py"
    trial_file.write_text(source, encoding="utf-8")
    spec = make_spec(trial_file, **yaml.safe_load(configuration))
    rehearse(spec, SingleProcess(), torch.device("cpu"))


def test_readme_script_trains_the_readme_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIALRUN_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    source, script = _blocks("python")
    monkeypatch.delitem(sys.modules, "regression", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "regression.py").write_text(source, encoding="utf-8")
    exec(script.replace("30ep", "2ep"), {"__name__": "__main__"})
    row = get_trial(Database.open(f"sqlite:///{tmp_path / 'trialrun.db'}", create=False), 1)
    assert (row.state, row.batches_completed) == (RunState.COMPLETED, 10)


def _keys(model: type[pydantic.BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
            yield from _keys(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda p: p.name
)
def test_pages_have_no_marks_of_a_merge(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith(("<<<<<<<", ">>>>>>>"))] == []


def test_configuration_page_has_every_key_with_its_default() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", page, re.MULTILINE))
    keys = dict(_keys(ExperimentConfig))
    assert list(table) == list(keys)
    defaults = ExperimentConfig(max_length="1ep").to_json()  # type: ignore[arg-type]
    for key, text in table.items():
        value: Any = defaults
        for part in key.split("."):
            value = value[part]
        if text.startswith("`"):
            expected = yaml.safe_load(text.strip("`"))
            assert value == expected, f"{key}: the page says {text}, the code {value!r}"
        else:
            # Said in words: nothing that could be written down as a value.
            assert value in (None, "", {}, []) or keys[key].is_required(), key


@pytest.mark.parametrize(
    "arguments",
    [
        ["loop.py", "--rounds", "1", "--batches", "20"],
        ["checkpoint.py", "--quick"],
        ["digest.py", "--quick"],
        ["samplers.py", "--quick"],
    ],
    ids=["loop", "checkpoint", "digest", "samplers"],
)
def test_benchmarks_run_and_print_ratios(arguments: list[str]) -> None:
    script, *options = arguments
    result = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "ratio" in result.stdout


def test_the_reducers_that_the_page_about_trials_wraps(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "trial.md").read_text(encoding="utf-8")
    section = page.partition("## A metric over all slots")[2].partition("\n## ")[0]
    calls, classes = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    site = tmp_path / "site"
    (site / "area").mkdir(parents=True)
    write_package(site, "area", "1.0", {"roc_auc": "area:LargestError"})
    (site / "area" / "__init__.py").write_text(f"import torch, trialrun\n{classes}")
    source = f"""
import sys
import torch
import torchmetrics
import trialrun
from trials.linear import Linear

sys.path.append({str(site)!r})

{classes}

class Measuring(Linear):
    def set_up(self):
        context = self.context
{textwrap.indent(calls, " " * 8)}

    def train_batch(self, batch, epoch_idx, batch_idx):
        self.norms.update(batch_idx)
        self.accuracy.update(torch.tensor([1, 2]), torch.tensor([1, 3]))
        return super().train_batch(batch, epoch_idx, batch_idx)

    def evaluate_batch(self, batch, batch_idx):
        self.accuracy.update(torch.tensor([batch_idx]), torch.tensor([0]))
        for error in (self.error, self.auc):
            error.update(batch[1] * 0 - batch_idx, batch[1] * 0)
        return super().evaluate_batch(batch, batch_idx)
"""
    trial_file = tmp_path / "trial.py"
    trial_file.write_text(source, encoding="utf-8")
    run = run_session(make_spec(trial_file, max_length="3ba"), tmp_path / "checkpoints")
    ((*_, training),) = run.training
    ((*_, validation),) = run.validation
    del training["loss"], validation["loss"]
    assert training == {"accuracy": 0.5, "largest_norm": 2.0}
    # 4 batches, numbered from 0; the first is right.
    assert validation == {"accuracy": 0.25, "largest_error": 3.0, "auc": 3.0}
