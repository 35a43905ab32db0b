from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from trialrun import DataLoader, InvalidTrialError
from trialrun._data import data_length, to_device

Pair = namedtuple("Pair", ["inputs", "target"])
META = torch.device("meta")


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
        (["a", "b"], "str"),
        ({"x": 3}, "int"),
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


def test_a_mapping_becomes_a_dictionary_with_its_order() -> None:
    moved = to_device(OrderedDict(b=torch.zeros(1), a=torch.ones(1)), torch.device("cpu"))
    assert list(moved) == ["b", "a"]


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


@pytest.mark.parametrize("dataset", [Stream(), iter([1, 2]), {1, 2}])
def test_a_dataset_without_random_access_is_refused(dataset: Any) -> None:
    with pytest.raises(InvalidTrialError) as caught:
        DataLoader(dataset)
    assert str(caught.value) == (
        f"The dataset is a {type(dataset).__name__}, without __len__ and __getitem__. Exact resume "
        "needs random access: give a map-style dataset."
    )


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(InvalidTrialError) as caught:
        DataLoader([])
    assert str(caught.value) == (
        "The dataset (list) is empty: there is nothing to load. Check the path or the split that "
        "it reads."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 is not a whole number of at least 1."),
        ({"batch_size": 2.5}, "batch_size=2.5 is not a whole number of at least 1."),
        ({"batch_size": True}, "batch_size=True is not a whole number of at least 1."),
        ({"batch_size": None}, "batch_size=None is not a whole number of at least 1."),
        ({"num_workers": -1}, "num_workers=-1 is not a whole number of at least 0."),
        ({"timeout": -1, "num_workers": 1}, "timeout=-1 is negative; 0 waits for ever."),
        (
            {"prefetch_factor": 2},
            "prefetch_factor=2 needs worker processes. Set num_workers to 1 or more, or leave it "
            "out.",
        ),
        (
            {"persistent_workers": True},
            "persistent_workers=True needs worker processes. Set num_workers to 1 or more, or "
            "leave it out.",
        ),
        (
            {"timeout": 3},
            "timeout=3 needs worker processes. Set num_workers to 1 or more, or leave it out.",
        ),
        (
            {"prefetch_factor": 0, "num_workers": 1},
            "prefetch_factor=0 is not a whole number of at least 1.",
        ),
    ],
)
def test_arguments_that_break_a_rule_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InvalidTrialError) as caught:
        DataLoader([1, 2], **arguments)
    assert str(caught.value) == message


def test_any_object_with_length_and_items_is_a_dataset() -> None:
    loader = DataLoader([3, 4], batch_size=2, num_workers=2, prefetch_factor=1, timeout=5)
    assert (len(loader.dataset), loader.batch_size, loader.shuffle) == (2, 2, False)
