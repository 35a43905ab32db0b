"""``trialrun verify``: a good trial, one that keeps state, one that reads the clock, bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from .workplace import Workplace

SMALL = """
import time
import torch
from torch.utils.data import TensorDataset
from trialrun import DataLoader, Trial


class Good(Trial):
    def __init__(self, context):
        self.context = context
        self.model = context.wrap_model(
            torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(), torch.nn.Linear(4, 1))
        )
        self.optimizer = context.wrap_optimizer(torch.optim.Adam(self.model.parameters()))
        self.scale = 1.0

    def build_training_data_loader(self):
        return DataLoader(records(11), batch_size=2, shuffle=True)

    def build_validation_data_loader(self):
        return DataLoader(records(5), batch_size=2)

    def train_batch(self, batch, epoch_idx, batch_idx):
        loss = self.model(batch[0]).square().mean() * self.scale
        self.context.backward(loss)
        self.context.step_optimizer(self.optimizer)
        return {"loss": loss}

    def evaluate_batch(self, batch, batch_idx):
        return {"loss": self.model(batch[0]).square().mean()}


def records(count):
    return TensorDataset(torch.arange(3.0 * count).reshape(count, 3) / count)
"""

KEEPING = (
    SMALL
    + """

class Keeping(Good):
    def train_batch(self, batch, epoch_idx, batch_idx):
        self.scale *= 1.1
        return super().train_batch(batch, epoch_idx, batch_idx)
"""
)

COUNTING = (
    SMALL
    + """

class Counting(Good):
    seen = 0

    def train_batch(self, batch, epoch_idx, batch_idx):
        self.seen += 1
        return super().train_batch(batch, epoch_idx, batch_idx)

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state_dict):
        self.seen = state_dict["seen"]
"""
)

ENDING = (
    SMALL
    + """

STEPS = 0


class Ending(Good):
    def train_batch(self, batch, epoch_idx, batch_idx):
        global STEPS
        STEPS += 1
        self.context.set_stop_requested(batch_idx >= 2)
        return super().train_batch(batch, epoch_idx, batch_idx)
"""
).replace("* self.scale", "* (1 + STEPS / 10)")

TIMED = (
    SMALL
    + """

class Timed(Good):
    def train_batch(self, batch, epoch_idx, batch_idx):
        self.model[0].weight.data[0, 0] += time.time() % 1
        return super().train_batch(batch, epoch_idx, batch_idx)
"""
)


def place_of(folder: Path, source: str) -> Workplace:
    place = Workplace(folder / "work")
    (place.folder / "trial.py").write_text(source, encoding="utf-8")
    (place.folder / "trial.yaml").unlink()
    temporary = folder / "temporary"
    temporary.mkdir()
    place.environment["TMPDIR"] = str(temporary)
    return place


def leftovers(place: Workplace) -> list[Path]:
    temporary = Path(place.environment["TMPDIR"])
    return [*temporary.glob("trialrun-*"), *place.home.rglob("*")]


def test_a_good_trial_is_equal_in_every_way_and_leaves_nothing(tmp_path: Path) -> None:
    place = place_of(tmp_path, SMALL)
    result = place.run("verify", "trial.py", "--slots", "2", "--batches", "8", "--json")
    assert result.code == 0, result.err
    report = result.json
    assert (report["holds"], report["slots"], report["batches"]) == (True, 2, 8)
    assert report["causes"] == []
    assert [(s["name"], s["processes"]) for s in report["scenarios"]] == [
        ("once more", [1]),
        ("on 2 processes", [2]),
        ("num_workers=2", [2]),
        ("other validation and checkpoint periods", [1]),
        ("paused in an epoch, batch 0", [2, 1]),
        ("paused at an epoch's end, batch 2", [1, 2]),
        ("killed during a validation, batch 4", [2, 1]),
        ("killed while a checkpoint is written, batch 5", [1, 2]),
        ("killed in an epoch, batch 4", [2, 1]),
        ("paused during a validation, batch 6", [1, 2]),
        ("paused in an epoch, batch 6", [1, 2]),
    ]
    assert all(s["holds"] and s["failure"] is None for s in report["scenarios"])
    assert leftovers(place) == []


def test_state_that_the_trial_does_not_save_is_found_and_named(tmp_path: Path) -> None:
    place = place_of(tmp_path, KEEPING)
    result = place.run("verify", "trial.py:Keeping", "--slots", "1", "--batches", "8")
    assert result.code == 1, result.err
    assert result.lines[0] == (
        "trial.py: 1 slot, runs of 8 batches, compared with a straight run on 1 process:"
    )
    assert result.lines[1] == "  equal   once more"
    assert "  DIFFERS paused in an epoch, batch 6 (processes: 1, then 1)" in result.lines
    assert "after batch 8 the first tensor that differs is model.0.0.bias" in result.out
    at = result.lines.index("Likely causes:")
    assert result.lines[at + 1] == (
        "  - self.scale is changed while it trains, and no checkpoint holds it: return it from "
        "state_dict() of the trial and take it back in load_state_dict()."
    )
    assert leftovers(place) == []


def test_a_trial_that_reads_the_clock_is_found_and_the_line_is_named(tmp_path: Path) -> None:
    place = place_of(tmp_path, TIMED)
    result = place.run("verify", "trial.py:Timed", "--slots", "1", "--batches", "4", "--json")
    assert result.code == 1, result.err
    # What differs from itself tells nothing in any other way.
    assert not result.json["is_repeatable"]
    (first,) = result.json["scenarios"]
    assert (first["name"], first["holds"]) == ("once more", False)
    assert first["parting"]["records"] is None
    assert "after batch 1 the first tensor that differs is" in first["parting"]["weights"]
    line = 1 + TIMED.splitlines().index(
        "        self.model[0].weight.data[0, 0] += time.time() % 1"
    )
    cause = f"trial.py, line {line}: time.time() reads the time, so no seed decides it."
    assert result.json["causes"][0] == cause


def test_state_of_the_trial_that_changes_no_weight_is_compared_and_named(tmp_path: Path) -> None:
    place = place_of(tmp_path, COUNTING)
    result = place.run("verify", "trial.py:Counting", "--slots", "2", "--batches", "4")
    assert result.code == 1, result.err
    at = result.lines.index("  DIFFERS on 2 processes")
    assert result.lines[at + 1].strip() == (
        "after batch 1 the checkpoint's trial.seen is 1, straight 2"
    )
    assert "Slots that share a process share self.seen" in result.out
    assert "no checkpoint holds it" not in result.out


def test_a_global_that_training_changes_is_named_in_a_trial_that_ends_itself(
    tmp_path: Path,
) -> None:
    place = place_of(tmp_path, ENDING)
    result = place.run("verify", "trial.py:Ending", "--slots", "1", "--batches", "8", "--json")
    assert result.code == 1, result.err
    assert result.json["batches"] == 4
    assert [s["failure"] for s in result.json["scenarios"]] == [None] * len(
        result.json["scenarios"]
    )
    assert result.json["causes"] == [
        "STEPS in trial.py is changed while it trains, and no checkpoint holds it: keep it on "
        "self, and return it from state_dict() of the trial."
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.py"], 2, "There is no file nowhere.py."),
        (["trial.py", "--batches", "3"], 2, "3 is too few for stops in between. Give 4 or more."),
        (["trial.py", "--slots", "0"], 2, "slots"),
        (["trial.py:Bad"], 2, "Bad"),
    ],
)
def test_bad_input_is_refused(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    place = place_of(tmp_path, SMALL)
    result = place.run("verify", *arguments)
    assert result.code == code
    assert message in result.err
    assert leftovers(place) == []


def test_a_trial_that_fails_by_itself_is_shown_its_error(tmp_path: Path) -> None:
    place = place_of(tmp_path, SMALL.replace('return {"loss": loss}', "return undefined"))
    result = place.run("verify", "trial.py", "--batches", "4")
    assert result.code == 2
    assert "The straight run failed: NameError in slot 0 at batch 0" in result.err
    assert leftovers(place) == []
