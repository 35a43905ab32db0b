from __future__ import annotations

from pathlib import Path

import pytest
from support import write_trial

from trialrun.controller.verification.suspects import find_suspects


@pytest.mark.parametrize(
    ("source", "call", "reads"),
    [
        ("import time\nx = time.time()", "time.time", "the time"),
        ("from time import time as now\nx = now()", "time.time", "the time"),
        ("import datetime\nx = datetime.datetime.now()", "datetime.datetime.now", "the time"),
        ("from datetime import datetime\nx = datetime.now()", "datetime.datetime.now", "the time"),
        ("import os\nx = os.urandom(4)", "os.urandom", "the system's entropy"),
        ("import os\nx = os.environ.get('HOME')", "os.environ.get", "the environment"),
        ("import uuid\nx = uuid.uuid4()", "uuid.uuid4", "the system's entropy"),
        ("import secrets\nx = secrets.randbelow(3)", "secrets.randbelow", "the system's entropy"),
        (
            "import numpy as np\nx = np.random.default_rng()",
            "numpy.random.default_rng",
            "the system's entropy",
        ),
        ("import random\nx = random.Random()", "random.Random", "the system's entropy"),
        ("x = 1\ny = id('a')", "id", "an address in memory"),
        (
            "import torch.distributed as dist\nx = dist.get_rank()",
            "torch.distributed.get_rank",
            "the process's rank, which is not the slot",
        ),
    ],
)
def test_a_call_is_named_in_full_with_its_line(
    source: str, call: str, reads: str, tmp_path: Path
) -> None:
    (suspect,) = find_suspects(write_trial(tmp_path, source))
    assert str(suspect) == f"trial.py, line 2: {call}() reads {reads}"


@pytest.mark.parametrize(
    "line",
    ["x = os.environ['HOME']", "if 'HOME' in os.environ: x = 1", "x = {**os.environ}"],
)
def test_a_look_at_the_environment_is_no_call(line: str, tmp_path: Path) -> None:
    (suspect,) = find_suspects(write_trial(tmp_path, f"import os\n{line}"))
    assert suspect.cause == (
        "trial.py, line 2: os.environ reads the environment, so no seed decides it."
    )


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("open('a', 'w')", "open"),
        ("path.open(mode='ab')", "path.open"),
        ("path.write_text('a')", "path.write_text"),
        ("torch.save(x, path)", "torch.save"),
    ],
)
def test_a_file_that_is_written_is_told_after_what_is_read(
    line: str, call: str, tmp_path: Path
) -> None:
    source = f"import time, torch\n{line}\ntime.time()"
    read, written = find_suspects(write_trial(tmp_path, source))
    assert read.call == "time.time"
    assert written.cause == (
        f"trial.py, line 2: {call}() writes a file: if the trial reads it again, a stop has not "
        "taken back what it holds."
    )


def test_neighbours_below_another_folder_are_searched_too(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    write_trial(tmp_path / "src", "import time\nx = time.time()", "model.py")
    write_trial(tmp_path / "src", "import os\nx = os.getpid()", "parts.py")
    trial = write_trial(tmp_path / "src", "from src import model\nfrom . import parts")
    assert [s.call for s in find_suspects(trial)] == ["os.getpid"]
    assert {s.call for s in find_suspects(trial, tmp_path)} == {"os.getpid", "time.time"}


@pytest.mark.parametrize(
    "source",
    [
        "open('a')",
        "open('a', 'rb')",
        "import numpy as np\nx = np.random.default_rng(5)",
        "import random\nx = random.Random(3)",
        "import torch\nx = torch.rand(3)",
        "import time\ntime.sleep(1)",
        "import other\nx = other.time()",
        "def time(): pass\ntime()",
        "this is no Python",
        "x = (lambda: 3)()",
    ],
)
def test_what_a_seed_decides_is_none(source: str, tmp_path: Path) -> None:
    assert find_suspects(write_trial(tmp_path, source)) == []


def test_neighbours_that_the_file_imports_are_searched_too(tmp_path: Path) -> None:
    write_trial(tmp_path, "import time\nx = time.time()", "data.py")
    write_trial(tmp_path, "import uuid\nx = uuid.uuid1()", "unrelated.py")
    (tmp_path / "parts").mkdir()
    write_trial(tmp_path / "parts", "", "__init__.py")
    write_trial(tmp_path / "parts", "import os\nx = os.getpid()", "model.py")
    trial = write_trial(tmp_path, "import data, data\nfrom parts import model")
    assert [(s.file.name, s.call) for s in find_suspects(trial)] == [
        ("data.py", "time.time"),
        ("model.py", "os.getpid"),
    ]


def test_a_file_that_is_gone_has_none(tmp_path: Path) -> None:
    assert find_suspects(tmp_path / "trial.py") == []
