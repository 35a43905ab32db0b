from __future__ import annotations

import math
import struct

import pytest
import torch

from trialrun.controller.checkpoints.value_distance import Distance, measure_distance

NAN, INF = math.nan, math.inf


def between(first: torch.Tensor, second: torch.Tensor) -> Distance:
    distance = measure_distance(first, second)
    assert distance is not None
    return distance


def test_the_first_element_in_memory_order_is_told() -> None:
    first = torch.arange(24.0).view(2, 3, 4)
    second = first.clone()
    second[1, 0, 2] += 1
    second[1, 2, 0] = -second[1, 2, 0]
    distance = between(first, second)
    assert (distance.index, distance.first, distance.second) == ((1, 0, 2), "14.0", "15.0")
    assert (distance.num_differing, distance.num_elements) == (2, 24)
    assert measure_distance(first, first.clone()) is None
    assert between(first.transpose(0, 2), second.transpose(0, 2)).index == (0, 2, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("start", [1.0, -1.0, 0.0, 2.0**-14, 1.5])
def test_steps_are_counted_from_number_to_number(dtype: torch.dtype, start: float) -> None:
    first = torch.tensor([start], dtype=dtype)
    second = first
    for steps in range(1, 5):
        second = torch.nextafter(second, torch.tensor([INF], dtype=dtype))
        for pair in ((first, second), (second, first)):
            distance = between(*pair)
            assert distance.first_distance == distance.largest_distance == steps
            assert distance.unit == "ulp"


@pytest.mark.parametrize(
    ("dtype", "to_one"),
    # The bits of 1.0: so many numbers lie above 0.
    [
        (torch.float16, 0x3C00),
        (torch.bfloat16, 0x3F80),
        (torch.float32, 0x3F800000),
        (torch.float64, 0x3FF0000000000000),
    ],
)
def test_steps_are_counted_across_zero(dtype: torch.dtype, to_one: int) -> None:
    one = torch.tensor([1.0], dtype=dtype)
    assert between(one, torch.zeros_like(one)).first_distance == to_one
    assert between(one, -one).first_distance == 2 * to_one
    # More than a signed number of 64 bits can hold, for float64.
    largest = torch.tensor([torch.finfo(dtype).max], dtype=dtype)
    size = one.element_size()
    bits = int.from_bytes(bytes(largest.view(torch.uint8).tolist()), "little")
    assert between(largest, -largest).first_distance == 2 * bits < 2 ** (8 * size)


def test_zeros_of_two_signs_are_the_same_number() -> None:
    distance = between(torch.tensor([1.0, 0.0]), torch.tensor([1.0, -0.0]))
    assert (distance.first, distance.second, distance.first_distance) == ("0.0", "-0.0", 0)
    assert distance.describe() == (
        "at [1]: 0.0 and -0.0, the same number with another sign; 1 of 2 elements differ, by at "
        "most 0 units in the last place"
    )
    assert between(torch.tensor([-0.0]), torch.tensor([1e-45])).first_distance == 1


def test_nan_equals_itself_and_has_no_distance() -> None:
    assert measure_distance(torch.tensor([NAN]), torch.tensor([NAN])) is None
    distance = between(torch.tensor([NAN, 1.0]), torch.tensor([2.0, 3.0]))
    assert (distance.first, distance.first_distance) == ("nan", None)
    assert (distance.num_not_finite, distance.largest_distance) == (1, 1 << 23 | 1 << 22)
    assert distance.describe() == (
        "at [0]: nan and 2.0; 2 of 2 elements differ, by at most 12582912 units in the last place, "
        "1 of them between values that are not all finite"
    )


def test_two_nan_with_other_bits_are_shown_by_them() -> None:
    other = torch.frombuffer(bytearray(struct.pack("<I", 0x7FC00001)), dtype=torch.float32)
    distance = between(torch.tensor([NAN]), other)
    assert distance.describe() == "at [0]: nan (0x7fc00000) and nan (0x7fc00001)"
    assert distance.num_not_finite == 1


@pytest.mark.parametrize("pair", [(INF, 1.0), (-INF, INF), (1.0, -INF), (INF, NAN)])
def test_infinities_have_no_distance(pair: tuple[float, float]) -> None:
    distance = between(torch.tensor([pair[0]]), torch.tensor([pair[1]]))
    assert (distance.first_distance, distance.largest_distance) == (None, None)
    assert (distance.first, distance.second) == (str(pair[0]), str(pair[1]))


@pytest.mark.parametrize(
    ("dtype", "first", "second", "apart"),
    [
        (torch.int8, -128, 127, 255),
        (torch.uint8, 250, 3, 247),
        (torch.int64, -(2**63), 2**63 - 1, 2**64 - 1),
        (torch.uint16, 65535, 0, 65535),
        (torch.int32, 5, 4, 1),
    ],
)
def test_integers_differ_by_their_difference(
    dtype: torch.dtype, first: int, second: int, apart: int
) -> None:
    distance = between(torch.tensor([first], dtype=dtype), torch.tensor([second], dtype=dtype))
    assert (distance.unit, distance.first_distance) == ("1", apart)
    assert distance.describe() == f"at [0]: {first} and {second}, {apart} apart"


def test_truth_values_differ_and_that_is_all() -> None:
    distance = between(torch.tensor([True, False]), torch.tensor([True, True]))
    assert (distance.unit, distance.first_distance) == (None, None)
    assert distance.describe() == "at [1]: False and True; 1 of 2 elements differ"


def test_complex_numbers_are_as_far_apart_as_the_farther_part() -> None:
    first = torch.tensor([1 + 1j, 2 - 1j], dtype=torch.complex64)
    up = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)).item()
    distance = between(first, torch.tensor([complex(1, up), 3 - 1j], dtype=torch.complex64))
    assert (distance.first_distance, distance.largest_distance) == (1, 1 << 22)


def test_eight_bit_floats_are_counted_too() -> None:
    first = torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn)
    second = torch.tensor([1.125, -2.0]).to(torch.float8_e4m3fn)
    distance = between(first, second)
    # 2.0 is 0x40: 64 numbers above 0, 64 below.
    assert (distance.first_distance, distance.largest_distance) == (1, 128)


def test_a_scalar_has_no_index() -> None:
    distance = between(torch.tensor(3.0), torch.tensor(4.0))
    assert distance.index == ()
    assert distance.describe() == "has 3.0 and 4.0, 4194304 units in the last place apart"


def test_numbers_are_written_with_the_digits_of_their_type() -> None:
    tenth = torch.tensor([0.1], dtype=torch.float16)
    assert between(tenth, tenth * 2).first == "0.1"
    assert between(tenth.float(), tenth.float() * 2).first == "0.099975586"
