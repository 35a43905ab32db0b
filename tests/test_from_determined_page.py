"""``docs/from-determined.md`` says of each Determined key what the code does with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

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
