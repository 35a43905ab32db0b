from __future__ import annotations

from typing import Any

import pytest

from trialrun import ConfigurationError
from trialrun.controller.determined_config.lengths import read_length


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"batches": 900}, "900ba"),
        ({"epochs": 2}, "2ep"),
        ({"epochs": 2.0}, "2ep"),
        ({"records": 1000}, "15ba"),  # of 64: 15 whole batches and 40 records
        ({"records": 64}, "1ba"),
        ({"records": 3}, "1ba"),
        ({"batches": 0}, None),
        ({"epochs": 0}, None),
        ({"records": 0}, None),
    ],
)
def test_a_length_is_written_with_its_unit(written: Any, expected: str | None) -> None:
    assert read_length("min_validation_period", written, 64) == expected


@pytest.mark.parametrize("size", [None, "64", 2.5, True, {"type": "int"}])
def test_records_of_an_unknown_batch_are_refused(size: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_length("searcher.max_length", {"records": 1000}, size)
    assert str(caught.value) == (
        "Configuration key 'searcher.max_length.records' is 1000, but the hyperparameter "
        f"global_batch_size is {size!r}, so nobody knows how many batches that is. Set it to the "
        "records of one batch over all slots."
    )
    assert read_length("searcher.max_length", {"records": 0}, size) is None
    assert read_length("searcher.max_length", {"epochs": 3}, size) == "3ep"


@pytest.mark.parametrize("written", [3, "3ep", [], {}, {"epochs": 1, "batches": 2}, {"epoch": 1}])
def test_another_form_is_refused(written: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_length("min_checkpoint_period", written, 64)
    assert str(caught.value) == (
        f"Configuration key 'min_checkpoint_period' is {written!r}: it must hold one of batches, "
        "records, epochs with a whole number, such as {epochs: 2}."
    )


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (-1, "Input should be greater than or equal to 0"),
        (1.5, "Input should be a valid integer, got a number with a fractional part"),
        ("two", "Input should be a valid integer, unable to parse string as an integer"),
        (None, "Input should be a valid integer"),
    ],
)
def test_a_number_that_is_not_whole_is_refused(number: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_length("searcher.max_length", {"batches": number}, 64)
    assert str(caught.value) == (
        f"Configuration key 'searcher.max_length.batches' is {number!r}: {reason}"
    )
