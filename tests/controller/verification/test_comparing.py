"""A difference between what two runs left behind is found, and none is where there is none."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trialrun.controller.checkpoints.contents import CheckpointContents
from trialrun.controller.verification import comparing
from trialrun.controller.verification.comparing import RunRecords, find_parting, read_records
from trialrun.controller.verification.diary import Diaries

STRAIGHT = RunRecords(
    batches=4,
    digests={2: "a", 4: "b"},
    checkpoints={},
    metrics={
        ("training", 2): "[('loss', 0.5)]",
        ("validation", 2): "[('error', 0.75)]",
        ("training", 4): "[('loss', nan)]",
        ("validation", 4): "[('error', 0.25)]",
    },
    diaries=Diaries(
        records={(0, 0): {"v"}, (0, 1): {"w"}, (3, 0): {"x"}, (3, 1): {"y"}},
        changed=[],
        num_workers=0,
        num_validation_batches=2,
        learns_from_validations=False,
    ),
)


def without(*reports: tuple[str, int], batches: int = 4) -> RunRecords:
    metrics = {key: text for key, text in STRAIGHT.metrics.items() if key not in reports}
    return dataclasses.replace(STRAIGHT, metrics=metrics, batches=batches, diaries=diaries(batches))


def diaries(batches: int) -> Diaries:
    records = {key: seen for key, seen in STRAIGHT.diaries.records.items() if key[0] < batches}
    return dataclasses.replace(STRAIGHT.diaries, records=records)


def test_equal_runs_part_nowhere() -> None:
    assert find_parting(STRAIGHT, STRAIGHT, same_validations=True).is_nowhere


@pytest.mark.parametrize("report", [("training", 2), ("validation", 4)])
def test_a_report_that_a_run_lacks_is_a_difference(report: tuple[str, int]) -> None:
    kind, batch = report
    text = STRAIGHT.metrics[report]
    lacking = find_parting(STRAIGHT, without(report), same_validations=True)
    assert lacking.metrics == f"the {kind} metrics at batch {batch} are None, straight {text}"
    beyond = find_parting(without(report), STRAIGHT, same_validations=True)
    assert beyond.metrics == f"the {kind} metrics at batch {batch} are {text}, straight None"


def test_validations_at_other_batches_are_compared_where_both_have_them() -> None:
    other = without(("validation", 2))
    assert find_parting(STRAIGHT, other, same_validations=False).is_nowhere
    worse = {**other.metrics, ("validation", 4): "[('error', 0.5)]"}
    other = dataclasses.replace(other, metrics=worse)
    parting = find_parting(STRAIGHT, other, same_validations=False)
    assert parting.metrics == (
        "the validation metrics at batch 4 are [('error', 0.5)], straight [('error', 0.25)]"
    )


def test_other_records_of_a_slot_are_a_difference() -> None:
    records = {**STRAIGHT.diaries.records, (3, 1): {"y", "z"}}
    seen = dataclasses.replace(STRAIGHT.diaries, records=records)
    other = dataclasses.replace(STRAIGHT, diaries=seen)
    parting = find_parting(STRAIGHT, other, same_validations=True)
    assert parting.records == "slot 1 was given other records in batch 3"


def test_a_shorter_run_is_told_by_its_length() -> None:
    shorter = without(("training", 4), ("validation", 4), batches=2)
    parting = find_parting(STRAIGHT, shorter, same_validations=True)
    assert parting.length == "it ended after 2 batches, the straight run after 4"
    assert (parting.metrics, parting.records) == (None, None)
    # It may have ended itself by what another validation has found.
    assert find_parting(STRAIGHT, shorter, same_validations=False).is_nowhere


def test_runs_without_a_checkpoint_in_common_are_not_equal() -> None:
    other = dataclasses.replace(STRAIGHT, digests={3: "c"})
    parting = find_parting(STRAIGHT, other, same_validations=True)
    assert parting.weights == (
        "no two checkpoints are of the same batch, so no tensor was compared"
    )


def test_of_several_checkpoints_at_a_batch_the_youngest_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        SimpleNamespace(batches=2, digest="younger", path="1"),
        SimpleNamespace(batches=2, digest="older", path="0"),
    ]
    # As the records list them: most batches first, then youngest first.
    monkeypatch.setattr(comparing, "checkpoints_of_trial", lambda *_, **__: rows)
    monkeypatch.setattr(comparing, "training_metrics_of_trial", lambda *_: [])
    monkeypatch.setattr(comparing, "validation_metrics_of_trial", lambda *_: [])
    monkeypatch.setattr(comparing, "get_trial", lambda *_: SimpleNamespace(batches_completed=2))
    nowhere: Any = None
    records = read_records(nowhere, 1, tmp_path)
    assert (records.digests, records.checkpoints) == ({2: "younger"}, {2: Path("1")})


def test_the_state_of_checkpoints_with_equal_weights_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: dict[Path, dict[str, Any]] = {}

    def read(folder: Path) -> CheckpointContents:
        return CheckpointContents(models=[], state=states[folder], metadata={})

    def run(name: str, **state: Any) -> RunRecords:
        folders = {batch: tmp_path / f"{name}-{batch}" for batch in STRAIGHT.digests}
        for batch, folder in folders.items():
            states[folder] = {"batches": batch, "optimizers": [], "progress": {}, "slots": []}
            if batch == 4:
                states[folder].update(state)
        return dataclasses.replace(STRAIGHT, checkpoints=folders)

    monkeypatch.setattr(comparing, "read_state", read)
    straight = run("straight", trial={"seen": 4}, callbacks={"early": {"waited": 1}})
    same = run("same", trial={"seen": 4}, callbacks={"early": {"waited": 1}})
    assert find_parting(straight, same, same_validations=True).is_nowhere

    other = run("other", trial={"seen": 4}, callbacks={"early": {"waited": 0}})
    parting = find_parting(straight, other, same_validations=True)
    assert (parting.weights, parting.state_name) == (None, "callbacks.early.waited")
    assert parting.differences == [
        "after batch 4 the checkpoint's callbacks.early.waited is 0, straight 1"
    ]
    # It listens to validations, which are at other batches.
    assert find_parting(straight, other, same_validations=False).is_nowhere
    metered = run("metered", trial={"seen": 4}, slots=[{"metrics": [1.5], "loader": 3}])
    parting = find_parting(
        run("alone", slots=[{"metrics": [1.0]}]), metered, same_validations=False
    )
    assert parting.state_name == "slots.0.metrics.0"


def test_state_that_follows_from_other_weights_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(folder: Path) -> CheckpointContents:
        differs = folder.name == "other-4"
        state = {"optimizers": [], "slots": [], "trial": {"loss": 0.5 if differs else 0.25}}
        return CheckpointContents(models=[], state=state, metadata={})

    monkeypatch.setattr(comparing, "read_state", read)
    monkeypatch.setattr(comparing, "_weights", lambda *_: "after batch 2")
    straight = dataclasses.replace(STRAIGHT, checkpoints={2: tmp_path / "a", 4: tmp_path / "b"})
    other = {2: tmp_path / "other-2", 4: tmp_path / "other-4"}
    parted = dataclasses.replace(STRAIGHT, digests={2: "x", 4: "y"}, checkpoints=other)
    assert find_parting(straight, parted, same_validations=True).differences == ["after batch 2"]
