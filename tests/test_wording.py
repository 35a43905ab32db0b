"""Numbers and values in words."""

from __future__ import annotations

import pytest
import torch

from trialrun._wording import count, type_of, with_article, with_type


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (1, "slot", "1 slot"),
        (0, "slot", "0 slots"),
        (2, "epoch", "2 epochs"),
        (3, "batch", "3 batches"),
        (4, "process", "4 processes"),
    ],
)
def test_a_number_is_followed_by_its_noun_in_singular_or_plural(
    number: int, noun: str, words: str
) -> None:
    assert count(number, noun) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "None"),
        (3, "an int"),
        ("text", "a str"),
        ({"a": 1}, "a dict"),
        (torch.zeros(1), "a Tensor"),
        (torch.optim.Adam, "the class Adam"),
    ],
)
def test_a_value_is_named_by_its_type(value: object, words: str) -> None:
    assert type_of(value) == words


def test_a_value_is_shown_with_its_type() -> None:
    assert [with_type(value) for value in (3, "yes", None)] == ["3, an int", "'yes', a str", "None"]


def test_the_article_is_the_one_that_is_spoken() -> None:
    names = ["Adam", "SGD", "LBFGS", "NAdam", "IterableDataset", "AUROC", "UntypedStorage"]
    assert [with_article(name) for name in names] == [f"an {name}" for name in names]
    names = ["Trial", "GRU", "UUID", "OneCycleLR", "UniformSampler", "UserDict", "uint8", "Net"]
    assert [with_article(name) for name in names] == [f"a {name}" for name in names]
