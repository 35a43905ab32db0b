"""``docs/from-determined.md`` says of each Determined key what the code does with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import trialrun
import trialrun.compat.determined as det
from trialrun.compat.determined import pytorch
from trialrun.compat.determined.tensorboard.metric_writers import pytorch as metric_writers
from trialrun.controller.config import ExperimentConfig
from trialrun.controller.determined_config.keys import BY_NAME, KEYS

PAGE = (Path(__file__).parent.parent / "docs" / "from-determined.md").read_text(encoding="utf-8")


def rows() -> Iterator[tuple[list[str], str, str]]:
    """Gives the keys of each row, what they become, and the remark."""
    table = PAGE.partition("<!-- keys -->\n")[2].partition("<!-- end of keys -->")[0]
    lines = table.splitlines()
    assert lines[:2] == ["| Determined's key | trialrun's | remark |", "|---|---|---|"]
    for line in lines[2:]:
        match = re.fullmatch(r"\| (`[^|]+`) \| ([^|]+) \| ([^|]*)\|", line)
        assert match, line
        keys = match[1].split(", ")
        assert all(re.fullmatch(r"`[\w.]+`", key) for key in keys), line
        yield [key.strip("`") for key in keys], match[2], match[3].strip()


def test_the_table_has_every_key_and_no_other() -> None:
    assert [key for keys, _, _ in rows() for key in keys] == [key.name for key in KEYS]
    assert len(BY_NAME) == len(KEYS), "no key is there twice"


def test_the_table_says_what_each_key_becomes() -> None:
    for keys, becomes, remark in rows():
        for key in (BY_NAME[name] for name in keys):
            if key.becomes:
                assert becomes == f"`{key.becomes}`", key.name
                field = key.becomes.partition(".")[0]
                assert field in ExperimentConfig.model_fields, key.name
            elif key.name == "entrypoint":
                assert becomes == "`FILE.py:CLASS`"
            else:
                assert becomes == "–", key.name
            if key.instead:
                assert remark == key.instead, key.name
            elif not key.becomes and key.name != "entrypoint":
                assert remark.startswith("refused"), key.name


# The names of the API.


def names() -> dict[str, list[str]]:
    """Returns the first two columns: Determined's names, and trialrun's."""
    section = PAGE.split("<!-- names -->")[1].split("<!-- end of")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    return {
        theirs: re.findall(r"`trialrun\.([\w.]+)`", ours)
        for names, ours in rows
        for theirs in re.findall(r"`([\w.]+)`", names)
    }


def test_every_name_of_determined_is_in_the_table_and_in_the_package() -> None:
    given = {f"pytorch.{name}" for name in pytorch.__all__}
    given |= {f"det.{name}" for name in det.__all__ if name != "pytorch"}
    given.add(f"{metric_writers.__name__.replace(det.__name__, 'det')}.TorchWriter")
    assert metric_writers.__all__ == ["TorchWriter"]
    assert set(names()) == given


@pytest.mark.parametrize("name", [name for ours in names().values() for name in ours])
def test_every_name_of_trialrun_in_the_table_is_there(name: str) -> None:
    first, *rest = name.split(".")
    found = getattr(trialrun, first)
    if rest:
        assert rest[0] in dir(found) or rest[0] in found.__annotations__
