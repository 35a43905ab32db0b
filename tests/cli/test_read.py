"""Commands that read: tab-separated lines in a pipe, JSON for scripts, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from recorded_run import submit_recorded, train_recorded

from trialrun.cli import main

from .workplace import COMMAND, NUM_BATCHES, Result, Workplace


@pytest.fixture
def place(straight: tuple[Workplace, Result]) -> Workplace:
    return straight[0]


def rows(result: Result) -> list[dict[str, str]]:
    """Reads tab-separated lines as a script would do it."""
    assert result.code == 0, result.err
    header, *lines = (line.split("\t") for line in result.lines)
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_list(place: Workplace) -> None:
    (row,) = rows(place.invoke("list"))
    (data,) = place.invoke("list", "--json").json
    assert (row["id"], row["name"], row["state"]) == ("1", "trial", "COMPLETED")
    assert (row["batches"], row["of"]) == (str(NUM_BATCHES), str(NUM_BATCHES))
    assert data["batches"] == data["total_batches"] == NUM_BATCHES
    assert (data["id"], data["state"]) == (1, "COMPLETED")
    assert row["validation"] == f"loss {data['validation']['loss']:.6g}"


def test_list_in_a_real_pipe_is_plain(place: Workplace) -> None:
    result = place.run("list")
    assert result.lines == place.invoke("list").lines
    assert "\x1b" not in result.out


def test_list_of_an_empty_home(workplace: Workplace) -> None:
    result = workplace.invoke("list")
    assert result.err == (
        f"There is no database {workplace.home}/trialrun.db yet: trialrun submit makes it.\n"
    )
    assert not workplace.home.exists()
    assert result.lines == ["id\tname\tstate\tbatches\tof\tvalidation\tcreated"]
    assert workplace.invoke("list", "--json").json == []


def test_show(place: Workplace) -> None:
    fields, _, table = place.invoke("show", "1").out.partition("\n\n")
    values = dict(line.split(":", 1) for line in fields.splitlines())
    assert values["state"].strip() == "COMPLETED"
    assert values["seed"].strip() == "11"
    assert values["slots"].strip() == "4"
    assert values["trial_file"].strip() == str(place.trial_file)
    (attempt,) = rows(Result(0, table, ""))
    assert (attempt["attempt"], attempt["state"], attempt["from batch"]) == ("1", "COMPLETED", "0")

    data = place.invoke("show", "1", "--json").json
    assert data["config"]["max_length"] == "12ep"
    assert data["config"]["checkpoint_gc"]["save_trial_latest"] == 100
    assert data["attempts"][0]["plan"]["total_batches"] == NUM_BATCHES
    assert data["attempts"][0]["error"] is None


def test_metrics(place: Workplace) -> None:
    lines = rows(place.invoke("metrics", "1"))
    data = place.invoke("metrics", "1", "--json").json
    assert [(line["batches"], line["kind"]) for line in lines] == [
        (str(row["batches"]), row["kind"]) for row in data
    ]
    assert [row["batches"] for row in data] == sorted(row["batches"] for row in data)
    assert lines[0]["metrics"] == f"loss {data[0]['metrics']['loss']:.6g}"
    assert {row["num_records"] for row in data if row["kind"] == "validation"} == {11}


def test_logs(place: Workplace) -> None:
    result = place.invoke("logs", "1")
    assert result.lines[0] == "[attempt 1, process 0] training batch 0"
    # Four slots of the one process print a line for each batch.
    assert len(result.lines) == 4 * NUM_BATCHES
    data = place.invoke("logs", "1", "--json").json
    assert data[-1] == {"attempt": 1, "process": 0, "line": f"training batch {NUM_BATCHES - 1}"}
    assert place.invoke("logs", "1", "-f").lines == result.lines


def test_checkpoint_list(place: Workplace) -> None:
    lines = rows(place.invoke("checkpoint", "list", "1"))
    data = place.invoke("checkpoint", "list", "1", "--json").json
    assert [int(line["batches"]) for line in lines] == list(range(NUM_BATCHES, 0, -4))
    assert set(data[0]) >= {
        "uuid",
        "trial",
        "batches",
        "digest",
        "size_bytes",
        "path",
        "state",
        "metrics",
    }
    for line, row in zip(lines, data, strict=True):
        assert (line["uuid"], line["digest"]) == (row["uuid"], row["digest"][:15])
        files = list(Path(row["path"]).iterdir()) if row["state"] == "COMPLETED" else []
        assert sum(file.stat().st_size for file in files) in (0, row["size_bytes"])
    assert place.invoke("checkpoint", "list", "--json").json == data


def test_checkpoint_show(place: Workplace) -> None:
    row = place.checkpoints()[0]
    text = place.invoke("checkpoint", "show", row.uuid[:8]).out
    fields = dict(line.split(":", 1) for line in text.splitlines())
    assert fields["digest"].strip() == row.digest
    assert fields["short_digest"].strip() == row.digest[:15]
    assert "  dataset_length:        37\n" in text
    data = place.invoke("checkpoint", "show", row.uuid, "--json").json
    assert data["digest"] == data["metadata"]["digest"] == row.digest
    assert data["metadata"]["identity"]["num_slots"] == 4
    assert set(data["files"]) == {"model.safetensors", "state.pt", "metadata.json"}


def test_checkpoint_verify(place: Workplace) -> None:
    row = place.checkpoints()[0]
    result = place.invoke("checkpoint", "verify", row.uuid)
    assert result.code == 0
    assert result.out.startswith(f"Checkpoint {row.uuid} is whole: ")
    assert place.invoke("checkpoint", "verify", row.uuid, "--json").json == {
        "uuid": row.uuid,
        "whole": True,
        "problem": None,
    }


GROUPS = {"checkpoint": ("list", "show", "verify"), "data": ("find", "show")}
COMMANDS = [
    *([name] for name in main.list_commands(None) if name not in GROUPS),  # type: ignore[arg-type]
    *([group, name] for group, names in GROUPS.items() for name in names),
]


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_help_has_an_example(workplace: Workplace, command: list[str]) -> None:
    result = workplace.invoke(*command, "--help")
    assert result.code == 0
    after = result.out.partition("Example:\n")[2]
    assert after.strip().startswith(" ".join(["trialrun", *command]))
    # And asking for help does nothing else.
    assert not workplace.home.exists()


def test_help_tells_the_exit_codes(workplace: Workplace) -> None:
    text = workplace.invoke("--help").out
    for code in ("0", "1", "2", "3", "130"):
        assert f"\n    {code} " in text


def test_version(workplace: Workplace) -> None:
    result = workplace.invoke("--version")
    assert result.out.startswith("trialrun, version ")


def test_completion_script_is_given() -> None:
    result = subprocess.run(
        [COMMAND],
        env=os.environ | {"_TRIALRUN_COMPLETE": "bash_source"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "complete -o nosort -F _trialrun_completion trialrun" in result.stdout


def test_completion_completes_a_command() -> None:
    environment = {"_TRIALRUN_COMPLETE": "bash_complete", "COMP_WORDS": "trialrun su"}
    result = subprocess.run(
        [COMMAND],
        env=os.environ | environment | {"COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "plain,submit\n"


def test_show_names_the_checkpoint_that_a_run_began_with(workplace: Workplace) -> None:
    first = train_recorded(workplace.folder, "linear.py", max_length="2ba")
    submit_recorded(workplace.folder, "linear.py", from_checkpoint=str(first.latest.path))
    shown = workplace.invoke("show", "2")
    assert re.search(rf"^from_checkpoint: +{re.escape(first.latest.path)}$", shown.out, re.M)
    assert workplace.invoke("show", "2", "--json").json["from_checkpoint"] == first.latest.path
    assert workplace.invoke("show", "1", "--json").json["from_checkpoint"] is None
    assert "from_checkpoint" not in workplace.invoke("show", "1").out
