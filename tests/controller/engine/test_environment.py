from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import make_spec, resume, run_session

from trialrun.controller.checkpoints.contents import METADATA_FILE
from trialrun.controller.engine.determinism import kept_determinism
from trialrun.controller.engine.environment import Environment

CPU = torch.device("cpu")
OTHERS: dict[str, tuple[Any, str]] = {
    "python": ("3.9", "the version of Python was '3.9'"),
    "numpy": ("1.0.0", "the version of numpy was '1.0.0'"),
    "cpu": ("Z80", "the processor was 'Z80'"),
    "cpu_capability": ("MMX", "the processor's vector instructions was 'MMX'"),
    "onednn": (None, "the use of oneDNN was None"),
    "cuda": ("9.1", "the version of CUDA was '9.1' and is now None"),
    "cudnn": (7, "the version of cuDNN was 7 and is now None"),
    "float32_matmul_precision": ("low", "the precision of float32 products was 'low'"),
    "cudnn_tf32": (True, "the use of TF32 by cuDNN was True and is now None"),
    "deterministic": ("maybe", "the deterministic mode was 'maybe'"),
    "variables": ({"MKL_CBWR": "AVX"}, "what environment variables choose kernels was {'MKL_CBWR'"),
}


def test_it_is_what_this_process_computes_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    with kept_determinism():
        torch.use_deterministic_algorithms(True, warn_only=True)
        here = Environment.here(CPU)
    assert (here.numpy, here.deterministic) == (np.__version__, "warn")
    assert here.variables == {"MKL_CBWR": "COMPATIBLE"}
    assert here.cpu and (here.cuda, here.cudnn) == (None, None)
    assert Environment(**json.loads(json.dumps(here.to_json()))) == here


def test_the_same_environment_has_no_differences() -> None:
    here = Environment.here(CPU)
    assert here.differences(json.loads(json.dumps(here.to_json()))) == []


def test_every_fact_is_compared() -> None:
    assert set(OTHERS) == {field.name for field in dataclasses.fields(Environment)}


@pytest.mark.parametrize("name", OTHERS)
def test_each_difference_is_one_sentence_with_both_values(name: str) -> None:
    here, (value, beginning) = Environment.here(CPU), OTHERS[name]
    (sentence,) = here.differences({**here.to_json(), name: value})
    assert sentence.startswith(beginning)
    assert sentence.endswith(
        f" and is now {getattr(here, name)!r}: the last digits may differ from a run without this "
        "change."
    )


def test_what_an_older_version_did_not_record_is_no_difference() -> None:
    here = Environment.here(CPU)
    assert here.differences(None) == here.differences({}) == []
    older = here.to_json()
    del older["cpu"]
    assert here.differences(older) == []


def test_a_resume_elsewhere_says_one_line_for_each_difference(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec("linear.py")
    run = run_session(spec, tmp_path, stop_upon=("progress", 4))
    file = run.checkpoints[-1].path / METADATA_FILE
    metadata = json.loads(file.read_text())
    assert metadata["environment"] == Environment.here(CPU).to_json()
    metadata["environment"] |= {"cpu": "Z80", "numpy": "1.0.0"}
    metadata["identity"] |= {"intra_op_threads": 3}
    file.write_text(json.dumps(metadata))
    caplog.set_level(logging.WARNING)
    run_session(resume(spec, run), tmp_path)
    said = [record.getMessage() for record in caplog.records if "last digits" in record.message]
    assert [sentence.partition(" was ")[0] for sentence in said] == [
        "the number of threads of a slot",
        "the version of numpy",
        "the processor",
    ]
