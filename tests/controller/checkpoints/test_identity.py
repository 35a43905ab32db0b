from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from trialrun import CheckpointError
from trialrun.controller.checkpoints.identity import RunIdentity

IDENTITY = RunIdentity(
    seed=3,
    dataset_length=100,
    pass_length=50,
    record_order="Subset -> Shuffle",
    global_batch_size=8,
    num_slots=4,
    aggregation_frequency=1,
    shuffle_version=1,
    sum_version=2,
    device_type="cpu",
    device_name="AVX2",
    intra_op_threads=2,
    torch_version="2.6.0",
)

OTHERS: dict[str, tuple[Any, str]] = {
    "seed": (4, "the seed was 4 and is now 3"),
    "dataset_length": (99, "the length of the training data was 99 and is now 100"),
    "pass_length": (40, "the length of a pass over the training data was 40 and is now 50"),
    "record_order": (
        "Subset",
        "the order of the training data was 'Subset' and is now 'Subset -> Shuffle'",
    ),
    "global_batch_size": (16, "the global batch size was 16 and is now 8"),
    "num_slots": (2, "the number of slots was 2 and is now 4"),
    "aggregation_frequency": (2, "the aggregation frequency was 2 and is now 1"),
    "shuffle_version": (2, "the version of the shuffle was 2 and is now 1"),
}
TOLERATED: dict[str, tuple[Any, str]] = {
    "sum_version": (1, "the version of the gradient sum was 1 and is now 2"),
    "device_type": ("cuda", "the type of device was 'cuda' and is now 'cpu'"),
    "device_name": ("AVX512", "the device was 'AVX512' and is now 'AVX2'"),
    "intra_op_threads": (1, "the number of threads of a slot was 1 and is now 2"),
    "torch_version": ("2.7.1", "the version of torch was '2.7.1' and is now '2.6.0'"),
}


def recorded(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(
        json.dumps(dataclasses.replace(IDENTITY, **changes).to_json())
    )
    return data


def test_the_same_run_has_no_differences() -> None:
    assert IDENTITY.differences(recorded()) == []


def test_every_fact_is_either_refused_or_warned_of() -> None:
    facts = {field.name for field in dataclasses.fields(RunIdentity)}
    assert set(OTHERS) | set(TOLERATED) == facts
    assert not set(OTHERS) & set(TOLERATED)


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_refused_with_both_values(name: str) -> None:
    value, sentence = OTHERS[name]
    with pytest.raises(CheckpointError) as caught:
        IDENTITY.differences(recorded(**{name: value}))
    assert str(caught.value) == (
        f"The checkpoint belongs to another run: {sentence}. Restore what has changed, or submit a "
        "new experiment."
    )


@pytest.mark.parametrize("name", TOLERATED)
def test_what_may_change_the_last_digits_is_a_sentence(name: str) -> None:
    value, sentence = TOLERATED[name]
    assert IDENTITY.differences(recorded(**{name: value})) == [
        f"{sentence}: the last digits may differ from a run without this change."
    ]


def test_all_that_is_refused_is_named_and_nothing_else() -> None:
    values = {name: value for name, (value, _) in (OTHERS | TOLERATED).items()}
    with pytest.raises(CheckpointError) as caught:
        IDENTITY.differences(recorded(**values))
    sentences = "; ".join(sentence for _, sentence in OTHERS.values())
    assert str(caught.value).startswith(f"The checkpoint belongs to another run: {sentences}. ")


def test_a_fact_that_an_older_checkpoint_lacks_is_a_difference() -> None:
    older = recorded()
    del older["num_slots"]
    with pytest.raises(CheckpointError, match="the number of slots was None and is now 4"):
        IDENTITY.differences(older)
