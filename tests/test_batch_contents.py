from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from trialrun import InvalidTrialError, data_length, to_device
from trialrun._batch_contents import batch_to_device

Pair = namedtuple("Pair", ["inputs", "target"])
META = torch.device("meta")
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Sample:
    inputs: Any
    name: str = "five"
    norm: float = dataclasses.field(init=False, default=0.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", self.norm + 1.0)  # must not happen twice


def packed(*lengths: int) -> PackedSequence:
    return pack_sequence([torch.arange(float(n)) for n in lengths], enforce_sorted=False)


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(5, 2),
        np.zeros((5, 2)),
        [torch.zeros(5), torch.zeros(3)],
        (np.zeros(5), "text"),
        {"x": torch.zeros(5), "y": torch.zeros(3)},
        {"x": [{"deep": torch.zeros(5)}]},
        Pair(torch.zeros(5), torch.zeros(3)),
        Sample(torch.zeros(5)),
        packed(3, 1, 2, 1, 4),
        {"text": ["a", "b"], "deep": {"x": torch.zeros(5)}},
        {"text": ["a", "b", "c", "d", "e"], "count": 5},
    ],
)
def test_the_first_tensor_says_how_many_records_a_batch_has(batch: Any) -> None:
    assert data_length(batch) == 5


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        (torch.tensor(1.0), "Tensor"),
        ([], "list"),
        ({}, "dict"),
        (["a", "b"], "list"),
        ({"x": 3}, "dict"),
        (None, "NoneType"),
    ],
)
def test_a_batch_of_unknown_length_is_refused(batch: Any, kind: str) -> None:
    with pytest.raises(InvalidTrialError) as caught:
        data_length(batch)
    assert str(caught.value) == (
        f"The number of records in a batch of type {kind} is unknown. Override "
        "get_batch_length(batch) in the trial."
    )


def test_every_tensor_however_deep_goes_to_the_device() -> None:
    data = {"a": [torch.zeros(1), (torch.zeros(2), {"b": np.zeros(3)})], "text": "x", "none": None}
    moved = to_device(data, META)
    assert moved["a"][0].device == META
    assert moved["a"][1][0].device == META
    assert moved["a"][1][1]["b"].device == META
    assert type(moved["a"][1]) is tuple
    assert (moved["text"], moved["none"]) == ("x", None)
    assert data["a"][0].device == torch.device("cpu")  # type: ignore[index, union-attr]


def test_a_named_tuple_stays_one() -> None:
    moved = to_device(Pair(torch.zeros(2), [np.ones(3)]), META)
    assert type(moved) is Pair
    assert moved.inputs.device == META
    assert moved.target[0].device == META


def test_what_has_a_method_to_is_asked() -> None:
    class Graph:
        device: torch.device | None = None

        def to(self, device: torch.device) -> Graph:
            self.device = device
            return self

    assert to_device([Graph()], META)[0].device == META


def test_arrays_become_tensors_of_the_same_values_unless_they_hold_text() -> None:
    cpu = torch.device("cpu")
    numbers, text = to_device([np.arange(3, dtype=np.int16), np.array(["a"])], cpu)
    assert torch.equal(numbers, torch.arange(3, dtype=torch.int16))
    assert isinstance(text, np.ndarray)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3)[:, ::-1],
        np.arange(3, dtype=">f4"),
        np.arange(4, dtype=">i2")[::-2],
        np.arange(6.0)[::2],
        np.array(2.5),
    ],
)
def test_arrays_of_any_layout_become_tensors(array: Any) -> None:
    tensor = to_device(array, CPU)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.tolist() == array.tolist()
    assert tensor.element_size() == array.itemsize


def test_an_array_without_a_type_of_torchs_stays_what_it_is() -> None:
    array = np.arange(3, dtype=np.longdouble)
    assert to_device(array, CPU) is array


def test_a_mapping_keeps_its_type_and_order() -> None:
    ordered = OrderedDict(b=torch.zeros(1), a=torch.ones(1))
    moved = to_device(ordered, META)
    assert type(moved) is OrderedDict
    assert list(moved) == ["b", "a"]
    assert (moved["b"].device, ordered["b"].device) == (META, CPU)
    grouped = to_device(defaultdict(list, x=[torch.zeros(1)]), META)
    assert grouped["x"][0].device == META
    assert grouped["new"] == []


def test_a_dataclass_is_copied_as_it_is() -> None:
    sample = Sample([torch.zeros(3)])
    moved = to_device(sample, META)
    assert type(moved) is Sample
    assert moved.inputs[0].device == META
    assert (moved.name, moved.norm, sample.inputs[0].device) == ("five", 1.0, CPU)


def test_a_packed_sequence_goes_as_a_whole() -> None:
    moved = to_device((packed(2, 3), "x"), META)
    assert type(moved[0]) is PackedSequence
    assert moved[0].data.device == META


def test_what_stays_is_warned_of_for_each_call_or_once_for_a_set_of_types(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = np.array(["text"])
    warned: set[type] = set()
    for _ in range(2):
        to_device([kept, "a", "b", torch.ones(1)], "meta", warned)
    assert len(caplog.messages) == 2
    assert warned == {np.ndarray, str}
    for _ in range(2):
        to_device(["a", "b"], "meta")
    text = "to_device was not able to move data of type {} to meta: it stays where it is."
    assert caplog.messages == [text.format(name) for name in ("ndarray", "str", "str", "str")]


def test_a_batch_is_moved_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    moved = batch_to_device({"x": torch.ones(1), "text": "a"}, META)
    assert (moved["x"].device, moved["text"]) == (META, "a")
    assert caplog.messages == []
