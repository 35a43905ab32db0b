"""``data show`` and ``data find`` against what a trial has really seen."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .workplace import NUM_BATCHES, TRIAL, Result, Workplace

NUM_RECORDS = 37
NUM_SLOTS = 4
Share = tuple[int, int]
"""(batch, slot)"""


@pytest.fixture(scope="module")
def place(straight: tuple[Workplace, Result]) -> Workplace:
    return straight[0]


@pytest.fixture(scope="module")
def seen(place: Workplace) -> dict[Share, list[int]]:
    shares = seen_by(place)
    assert len(shares) == NUM_BATCHES * NUM_SLOTS
    return shares


def seen_by(place: Workplace) -> dict[Share, list[int]]:
    """Returns what the trial wrote down of each share of a batch."""
    text = (place.folder / "seen.txt").read_text(encoding="utf-8")
    found = re.findall(r"batch (\d+), slot (\d+): records \[(.*)\]", text)
    return {
        (int(batch), int(slot)): [int(record) for record in records.split(", ")]
        for batch, slot, records in found
    }


def test_show_names_the_records_that_each_slot_saw(
    place: Workplace, seen: dict[Share, list[int]]
) -> None:
    for batch in (0, 4, 5, 31, NUM_BATCHES - 1):
        shown = place.invoke("data", "show", "1", "--batch", str(batch), "--json").json
        assert shown["batch"] == batch
        assert [share["slot"] for share in shown["slots"]] == list(range(NUM_SLOTS))
        for share in shown["slots"]:
            assert share["records"] == seen[batch, share["slot"]]


def test_show_tells_the_end_of_one_pass_from_the_beginning_of_the_next(place: Workplace) -> None:
    # Batch 4 holds the items [32, 40) of the run: 37 belong to pass 0.
    shown = place.invoke("data", "show", "1", "--batch", "4", "--json").json
    epochs = sorted(epoch for share in shown["slots"] for epoch in share["epochs"])
    assert epochs == [0, 0, 0, 0, 0, 1, 1, 1]


def test_show_of_one_slot_in_a_pipe(place: Workplace, seen: dict[Share, list[int]]) -> None:
    result = place.invoke("data", "show", "1", "--batch", "7", "--slot", "2")
    assert result.lines == ["slot\tepoch\trecords", f"2\t1\t{' '.join(map(str, seen[7, 2]))}"]


def uses(seen: dict[Share, list[int]], record: int) -> Iterator[Share]:
    for share, records in sorted(seen.items()):
        yield from [share] * records.count(record)


@pytest.mark.parametrize("record", [0, 17, NUM_RECORDS - 1])
def test_find_names_every_use_of_a_record(
    place: Workplace, seen: dict[Share, list[int]], record: int
) -> None:
    found = place.invoke("data", "find", "1", "--record", str(record), "--json").json
    assert [(use["batch"], use["slot"]) for use in found["uses"]] == list(uses(seen, record))
    assert [use["epoch"] for use in found["uses"]] == list(range(len(found["uses"])))
    assert all(use["is_past"] for use in found["uses"])


def test_find_names_the_newest_checkpoint_that_does_not_know_the_record(
    place: Workplace, seen: dict[Share, list[int]]
) -> None:
    at_batches = sorted(row.batches for row in place.checkpoints())
    assert at_batches[:2] == [4, 8]
    firsts = {record: next(uses(seen, record))[0] for record in range(NUM_RECORDS)}
    checked = set()
    # Those just before the first checkpoint, and just behind it.
    for record in (record for record, first in firsts.items() if first in (3, 4)):
        expected = max((at for at in at_batches if at <= firsts[record]), default=None)
        result = place.invoke("data", "find", "1", "--record", str(record), "--json").json
        before = result["checkpoint_before"]
        assert (before and before["batches"]) == expected
        if expected in checked:
            continue
        text = place.invoke("data", "find", "1", "--record", str(record)).lines[-1]
        assert text == (
            "No whole checkpoint is from before its first use."
            if expected is None
            else f"The newest checkpoint from before its first use is {before['uuid']}, at batch 4."
        )
        checked.add(expected)
    assert checked == {None, 4}


def test_a_stopped_trial_knows_what_is_to_come(
    workplace: Workplace, seen: dict[Share, list[int]]
) -> None:

    workplace.hold(20)
    running = workplace.start("submit", "trial.py", "--processes", "1")
    workplace.wait_until_held(20, running)
    running.interrupt()
    workplace.release(20)
    assert running.finish().code == 3
    found = workplace.invoke("data", "find", "1", "--record", "5", "--json").json
    stopped_at = workplace.checkpoints()[0].batches
    assert [(use["batch"], use["slot"]) for use in found["uses"]] == list(uses(seen, 5))
    assert [use["is_past"] for use in found["uses"]] == [
        use["batch"] < stopped_at for use in found["uses"]
    ]
    assert {use["is_past"] for use in found["uses"]} == {True, False}
    shown = workplace.invoke("data", "show", "1", "--batch", "59", "--slot", "1", "--json").json
    assert shown["slots"][0]["records"] == seen[59, 1]
    lines = workplace.invoke("data", "find", "1", "--record", "5").lines
    assert (lines[1].split("\t")[3], lines[-2].split("\t")[3]) == ("used", "to come")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "1", "--batch", "60"], "There is no batch 60: the trial has 60, counted from 0."),
        (
            ["show", "1", "--batch", "3", "--slot", "4"],
            "There is no slot 4: the trial has 4, counted from 0.",
        ),
        (
            ["find", "1", "--record", "37"],
            "There is no record 37: the training data has 37, counted from 0.",
        ),
        (["find", "2", "--record", "1"], "There is no experiment 2."),
    ],
)
def test_what_does_not_exist_is_said(place: Workplace, arguments: list[str], message: str) -> None:
    result = place.invoke("data", *arguments)
    assert result.code == 2
    assert message in result.err


def place_with(folder: Path, arguments: str) -> Workplace:
    """Returns a place whose trial gives other arguments to its training DataLoader."""
    source = TRIAL.replace("batch_size=2, shuffle=True", arguments)
    assert source != TRIAL
    source = source.replace("from trialrun import DataLoader, Trial", "from trialrun import *")
    return Workplace(folder, source)


OWN = {
    "weights": "batch_size=2, sampler=samplers.WeightedSampler([3.0] * 12 + [0, 1] * 12, 20, 5)",
    "length groups": "batch_sampler=samplers.LengthGroupedBatchSampler(range(37), 3, 5, True)",
}


@pytest.mark.parametrize("name", OWN)
def test_a_chain_of_the_trials_own_is_known_in_both_directions(name: str, tmp_path: Path) -> None:
    place = place_with(tmp_path, OWN[name])
    assert place.run("submit", "trial.py", "--processes", "1", "--max-length", "9ba").code == 0
    seen = seen_by(place)
    assert len(seen) == 9 * NUM_SLOTS
    for batch in (0, 4, 8):
        shown = place.invoke("data", "show", "1", "--batch", str(batch), "--json").json
        assert [share["records"] for share in shown["slots"]] == [
            seen[batch, slot] for slot in range(NUM_SLOTS)
        ]
    for record in (0, 5, 12, 36):
        found = place.invoke("data", "find", "1", "--record", str(record), "--json").json
        assert sorted((use["batch"], use["slot"], use["place"]) for use in found["uses"]) == [
            (batch, slot, place)
            for (batch, slot), records in sorted(seen.items())
            for place in range(len(records))
            if records[place] == record
        ]
    assert (
        place.invoke("data", "find", "1", "--record", "12").lines[-1]
        == "Record 12 is in no batch of the trial: its samplers leave it out, or the trial ends "
        "before its turn."
    ) == (name == "weights")
    for path in (place.home / "experiments").rglob("*.npy"):
        path.unlink()
        result = place.invoke("data", "show", "1", "--batch", "0")
        assert result.code == 2 and f"{path} is missing" in result.err


def test_an_order_from_elsewhere_is_not_guessed(tmp_path: Path) -> None:
    own = "batch_size=2, sampler=torch.utils.data.WeightedRandomSampler([1.0] * 37, 37)"
    place = place_with(tmp_path, own)
    assert place.run("submit", "trial.py", "--processes", "1", "--max-length", "2ba").code == 0
    for command in (("show", "1", "--batch", "0"), ("find", "1", "--record", "0")):
        result = place.invoke("data", *command)
        assert result.code == 2
        assert re.search(
            r"Experiment 1 orders its records by WeightedRandomSampler #[0-9a-f]{8}, which cannot "
            r"be made again here\. The stage WeightedRandomSampler is none of trialrun's own, and "
            r"only its name is on record\.",
            result.err,
        )


def test_the_answer_comes_without_torch(place: Workplace) -> None:
    script = (
        "import sys; from trialrun.cli import main\n"
        "try: main(['data', 'find', '1', '--record', '3'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
