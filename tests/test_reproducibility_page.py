"""``docs/reproducibility.md``: its lines are those of the code; it names all that is recorded."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from trialrun.controller.config import Deterministic
from trialrun.controller.engine.determinism import CUBLAS_WORKSPACE, kept_determinism
from trialrun.controller.engine.determinism import make_deterministic as make
from trialrun.controller.engine.environment import Environment

PAGE = (Path(__file__).parent.parent / "docs" / "reproducibility.md").read_text(encoding="utf-8")


def test_the_lines_of_a_resume_elsewhere_are_those_of_the_code() -> None:
    here = Environment.here(torch.device("cpu"))
    (said,) = here.differences({**here.to_json(), "cpu": "Z80"})
    (block,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("WARNING: ") for line in block.splitlines()]
    assert said == re.sub(r"now '.*?'", lambda _: f"now {here.cpu!r}", lines[1])


def test_every_mode_is_explained() -> None:
    section = PAGE.partition("## Deterministic operations")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == [m.value for m in Deterministic]
    with kept_determinism():
        make(Deterministic.STRICT)
        assert f"`{CUBLAS_WORKSPACE}=:4096:8`" in section
        assert torch.are_deterministic_algorithms_enabled()


def test_what_is_recorded_is_listed() -> None:
    section = PAGE.partition("## What a run records")[2].partition("\n## ")[0]
    for word in (
        *("seed", "dataset length", "global batch size", "slots", "aggregation", "order of the"),
        *("version of the shuffle", "type and name of the device", "intra-op threads", "torch"),
        *("Python", "numpy", "CUDA", "cuDNN", "processor", "oneDNN", "float32", "TF32", "variabl"),
        "deterministic mode",
    ):
        assert word in section, word
