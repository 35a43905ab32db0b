from __future__ import annotations

import dataclasses

import pytest

from trialrun import Batch, ConfigurationError, Epoch, Time
from trialrun._units import Unit, parse_unit


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("5000ba", Batch(5000)),
        ("20ep", Epoch(20)),
        (" 1 EP ", Epoch(1)),
        ("90min", Time(5400)),
        ("2h", Time(7200)),
        ("1.5h", Time(5400)),
        ("0.5s", Time(0.5)),
        ("2d", Time(172800)),
    ],
)
def test_a_length_is_read_with_its_unit(text: str, unit: Unit) -> None:
    parsed = parse_unit(text)
    assert parsed == unit
    assert type(parsed) is type(unit)


@pytest.mark.parametrize(
    "unit", [Batch(1), Epoch(3), Time(1.25), Time(90), Time(600), Time(5400), Time(7200)]
)
def test_a_unit_reads_back_what_it_writes(unit: Unit) -> None:
    assert parse_unit(str(unit)) == unit


def test_a_time_is_written_in_its_largest_whole_unit() -> None:
    assert [str(Time(s)) for s in (7200, 5400, 61, 0.5)] == ["2h", "90min", "61s", "0.5s"]


@pytest.mark.parametrize("text", ["", "20", "ep", "1.5ep", "1.5ba", "-3ba", "20 epochs", "2h30min"])
def test_what_is_no_length_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_unit(text)
    assert str(caught.value) == (
        f"{text!r} is not a length. Write a whole number of batches or epochs, or a time, with its "
        "unit: 5000ba, 20ep, 90min, 2h."
    )


@pytest.mark.parametrize("kind", [Batch, Epoch])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3"])
def test_batches_and_epochs_are_whole_and_positive(kind: type[Batch], value: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(value)
    assert str(caught.value) == f"{kind.__name__}({value!r}) is not a whole number of at least 1."


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_time_is_positive(seconds: float) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Time(seconds)
    assert str(caught.value) == f"Time({seconds!r}) is not a positive number of seconds."


def test_units_are_values() -> None:
    assert Batch(3) == Batch(3) != Epoch(3)
    assert len({Batch(3), Batch(3), Epoch(3)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Batch(3).value = 4  # type: ignore[misc]
