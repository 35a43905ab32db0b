from __future__ import annotations

import inspect
import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import IterableDataset

from trialrun import DataLoader, InvalidDataLoaderError, InvalidTrialError


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


@pytest.mark.parametrize(
    ("dataset", "kind"),
    [(Stream(), "a Stream"), (iter([1, 2]), "a list_iterator"), ({1, 2}, "a set"), (3, "an int")],
)
def test_a_dataset_without_random_access_is_refused(dataset: Any, kind: str) -> None:
    with pytest.raises(InvalidDataLoaderError) as caught:
        DataLoader(dataset)
    assert str(caught.value) == (
        f"The dataset is {kind}, without __len__ and __getitem__. Exact resume "
        "needs random access: give a map-style dataset."
    )


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(InvalidDataLoaderError) as caught:
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
        (
            {"batch_size": None},
            "batch_size=None without a batch_sampler. Give the records of one slot's share of a "
            "batch, or a batch_sampler.",
        ),
        (
            {"sampler": [0, 1], "shuffle": True},
            "sampler= was given together with shuffle=True. Leave shuffle out, or put "
            "trialrun.samplers.ReproducibleShuffleSampler around the sampler.",
        ),
        (
            {"batch_sampler": [[0]], "batch_size": 2},
            "batch_sampler= was given together with batch_size=2. It decides on whole batches: "
            "leave batch_size out.",
        ),
        (
            {"batch_sampler": [[0]], "shuffle": True},
            "batch_sampler= was given together with shuffle=True. It decides on whole batches: "
            "leave shuffle out.",
        ),
        (
            {"batch_sampler": [[0]], "sampler": [0]},
            "batch_sampler= was given together with sampler=[0]. It decides on whole batches: "
            "leave sampler out.",
        ),
        (
            {"batch_sampler": [[0]], "drop_last": True},
            "batch_sampler= was given together with drop_last=True. It decides on whole batches: "
            "leave drop_last out.",
        ),
        (
            {"sampler": 3},
            "sampler= is of type int, which cannot be iterated. Give a sampler of "
            "trialrun.samplers or of torch.",
        ),
        (
            {"batch_sampler": 3},
            "batch_sampler= is of type int, which cannot be iterated. Give a sampler of "
            "trialrun.samplers or of torch.",
        ),
        (
            {"batch_size": 4, "drop_last": True},
            "drop_last=True leaves no batch of 4: the dataset has 2 records. Choose a smaller "
            "batch size, or drop_last=False.",
        ),
        (
            {"in_order": False},
            "in_order=False hands out batches in the order in which workers finish them, which no "
            "run repeats. Leave it at True.",
        ),
        (
            {"timeout": float("nan"), "num_workers": 1},
            "timeout=nan is no number of seconds of at least 0; 0 waits for ever.",
        ),
        ({"num_workers": -1}, "num_workers=-1 is not a whole number of at least 0."),
        (
            {"timeout": None},
            "timeout=None is no number of seconds of at least 0; 0 waits for ever.",
        ),
        (
            {"multiprocessing_context": "fork"},
            "multiprocessing_context='fork' needs worker processes. Set num_workers to 1 or more, "
            "or leave it out.",
        ),
        (
            {"multiprocessing_context": "spork", "num_workers": 1},
            "multiprocessing_context='spork' is no way to start processes here. Choose one of "
            "fork, spawn, forkserver.",
        ),
        (
            {"timeout": -1, "num_workers": 1},
            "timeout=-1 is no number of seconds of at least 0; 0 waits for ever.",
        ),
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
    with pytest.raises(InvalidDataLoaderError) as caught:
        DataLoader([1, 2], **arguments)
    assert str(caught.value) == message


def test_any_object_with_length_and_items_is_a_dataset() -> None:
    loader = DataLoader([3, 4], batch_size=2, num_workers=2, prefetch_factor=1, timeout=5)
    assert (len(loader.dataset), loader.batch_size, loader.shuffle) == (2, 2, None)


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 4},
        {"batch_size": 4, "drop_last": True},
        {"batch_size": 5},
        {"batch_size": 2, "sampler": [3, 1, 2]},
        {"batch_sampler": [[1, 2], [3]]},
    ],
)
def test_its_length_is_torchs(arguments: Any) -> None:
    assert len(DataLoader(range(10), **arguments)) == len(
        TorchDataLoader(range(10), **arguments)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 3},
        {"batch_size": 3, "drop_last": True},
        {"batch_size": 4, "sampler": [6, 1, 1, 5, 0]},
        {"batch_sampler": [[3, 1], [0], [2, 4, 5]]},
        {"batch_size": 2, "num_workers": 2},
        {"batch_size": 4, "collate_fn": sum},
    ],
)
def test_iterating_gives_the_batches_of_torchs_loader(arguments: Any) -> None:
    data = [value**2 for value in range(7)]
    expected = list(TorchDataLoader(data, **arguments))
    loader = DataLoader(data, **arguments)
    assert [repr(batch) for batch in loader] == [repr(batch) for batch in expected]
    assert len(loader) == len(expected)


def test_iterating_shuffles_anew_each_time_from_torchs_generator() -> None:
    loader = DataLoader(np.arange(20), batch_size=6, shuffle=True)
    torch.manual_seed(5)
    first, second = (torch.cat(list(loader)).tolist() for _ in range(2))
    torch.manual_seed(5)
    again = torch.cat(list(loader)).tolist()
    assert sorted(first) == sorted(second) == list(range(20))
    assert first == again != second


def test_the_arguments_stand_in_torchs_order() -> None:
    mine = list(inspect.signature(DataLoader).parameters)
    assert mine == list(inspect.signature(TorchDataLoader).parameters)


def test_a_generator_is_taken_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        DataLoader([1, 2, 3], generator=torch.Generator())
    assert caplog.messages == [
        "DataLoader(generator=...) is not used: the order of the records, and all draws while "
        "they are loaded, are functions of the trial's seed."
    ]


def test_numpys_numbers_are_numbers() -> None:
    loader = DataLoader([1, 2], batch_size=np.int64(2), num_workers=np.int8(0))
    assert (type(loader.batch_size), loader.batch_size, loader.num_workers) == (int, 2, 0)


def test_a_dataset_that_cannot_tell_its_length_is_refused() -> None:
    with pytest.raises(InvalidDataLoaderError) as caught:
        DataLoader(np.array(5))
    assert str(caught.value) == (
        "The dataset (ndarray) has no length: len() of unsized object. Exact resume needs one: "
        "give a map-style dataset."
    )


def test_its_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="is empty") as caught:
        DataLoader([])
    assert isinstance(caught.value, InvalidTrialError)
