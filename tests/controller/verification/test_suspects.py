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
        ("x = 1\ny = hash('a')", "hash", "a number that is another one in each process, for text"),
    ],
)
def test_a_call_is_named_in_full_with_its_line(
    source: str, call: str, reads: str, tmp_path: Path
) -> None:
    (suspect,) = find_suspects(write_trial(tmp_path, source))
    assert str(suspect) == f"trial.py, line 2: {call}() reads {reads}"


@pytest.mark.parametrize(
    "source",
    [
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
