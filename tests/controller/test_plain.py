from __future__ import annotations

import enum
import io
import pickle
import struct
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trialrun import TrialrunError
from trialrun.controller import plain


def travel(value: Any) -> Any:
    return plain.decode(plain.encode(value, "value"))


def assert_same(first: Any, second: Any) -> None:
    """Compares values, their types, and the types of what is in them."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        assert torch.equal(first, second)
    elif isinstance(first, np.ndarray):
        assert (first.dtype, first.shape) == (second.dtype, second.shape)
        assert first.tobytes() == second.tobytes()
    else:
        assert repr(first) == repr(second)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        2**80,
        1e-300,
        float("nan"),
        -0.0,
        1 + 2j,
        "text \N{SNOWMAN}",
        [],
        (),
        {},
        [1, (2, [3.0]), {"a": (None, False)}],
        {1: "a", (2, "b"): 3, None: 4, 2.5: 5, False: 6},
        Counter({3: 2, 5: 1}),
        {"milestones": Counter("aab")},
        torch.tensor([1.0, float("nan")])[:1],
        torch.zeros(0, 3),
        torch.tensor(True),
        torch.arange(6, dtype=torch.bfloat16).view(2, 3).t(),
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.array(2.5),
        np.array([True, False]),
        np.arange(6.0)[::-2],
        np.float32(0.1),
        np.int64(-7),
        np.bool_(True),
        np.complex64(1 - 1j),
        np.uint64(2**64 - 1),
        {"array": [np.float64(0.1), (np.zeros((0, 2)),)]},
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_data_arrives_as_it_was_sent(value: Any) -> None:
    assert_same(travel(value), value)
    assert_same(plain.restore(plain.snapshot(value, "value")), value)


class Color(enum.IntEnum):
    RED = 1


class Word(enum.StrEnum):
    YES = "yes"


class Meters(float):
    pass


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Color.RED, 1),
        (Word.YES, "yes"),
        (Meters(2.5), 2.5),
        (np.str_("label"), "label"),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (torch.Size([2, 3]), (2, 3)),
        (torch.nn.Parameter(torch.ones(2)), torch.ones(2)),
        (np.arange(3, dtype=">i4"), np.arange(3, dtype="<i4")),
        ({np.int64(3): 1, np.str_("x"): 2, (np.float32(0.5), 1): 3}, {3: 1, "x": 2, (0.5, 1): 3}),
        ({Color.RED: 1, Word.YES: 2}, {1: 1, "yes": 2}),
        (Counter(np.array([1, 1, 2])), Counter({1: 2, 2: 1})),
    ],
)
def test_what_only_derives_from_plain_data_arrives_as_its_equal(value: Any, expected: Any) -> None:
    # Under its own class it could be written, but not read back without running code.
    assert_same(travel(value), expected)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({1, 2}, "value is a set"),
        (b"bytes", "value is a bytes"),
        ([0, {"a": (1, object())}], "value[1]['a'][1] is an object"),
        ({"a": lambda: None}, "value['a'] is a function"),
        (np.array(["text"]), "value is a ndarray of type <U4"),
        (np.array([object()]), "value is a ndarray of type object"),
        (np.zeros(1, np.longdouble), f"value is a ndarray of type {np.dtype('g')}"),
        (np.datetime64("2020-01-01"), "value is a datetime64"),
        (torch.float32, "value is a dtype"),
        ({"a": {frozenset(): 1}}, "The key frozenset() of value['a'] is a frozenset"),
        ({(1, b"x"): 1}, "The key b'x' of value is a bytes"),
        ([torch.nn.Linear(1, 1)], "value[0] is a Linear"),
    ],
)
def test_anything_else_is_refused_with_its_place(value: Any, named: str) -> None:
    with pytest.raises(TrialrunError) as caught:
        plain.snapshot(value, "value")
    assert str(caught.value) == (
        f"{named}, which is not plain data, so it can be neither kept in a checkpoint nor sent to "
        "another process. Use numbers, strings, tensors, numpy arrays, and lists, tuples and "
        "dictionaries of them."
    )


def test_a_snapshot_shares_no_memory() -> None:
    tensor, array, items = torch.zeros(2), np.zeros(2), [1]
    parameter = torch.nn.Parameter(torch.zeros(2))
    sparse = torch.tensor([0.0, 2.0, 0.0]).to_sparse()
    copied = plain.snapshot([tensor, array, items, parameter, sparse], "value")
    tensor += 1
    array += 1
    items.append(2)
    parameter.data += 1
    sparse._values().fill_(9.0)
    restored = plain.restore(copied)
    assert restored[0].tolist() == restored[1].tolist() == restored[3].tolist() == [0, 0]
    assert restored[2] == [1]
    assert restored[4].to_dense().tolist() == [0, 2, 0]
    assert not restored[3].requires_grad


def test_what_arrives_has_memory_of_its_own() -> None:
    tensor, array = torch.zeros(2), np.zeros(2)
    encoded = plain.encode([tensor, array], "value")
    tensor += 1
    array += 1
    first, second = plain.decode(encoded)
    assert first.tolist() == second.tolist() == [0, 0]
    # The parts of one message share its bytes, and no two parts the same ones.
    first += 5
    assert second.tolist() == [0, 0]


def test_tensors_travel_as_their_bytes() -> None:
    tensor = torch.arange(3 * 2**20, dtype=torch.float32)
    encoded = plain.encode({"scores": tensor, "odd": [torch.ones(3, dtype=torch.uint8)] * 3}, "v")
    assert encoded.numel() - 4 * tensor.numel() < 2000
    arrived = plain.decode(encoded)
    assert torch.equal(arrived["scores"], tensor)
    # In the message's own memory: a copy would double what the chief needs.
    storage = arrived["scores"].untyped_storage()
    assert storage.data_ptr() == encoded.untyped_storage().data_ptr()


def test_read_only_and_strided_tensors_travel() -> None:
    array = np.arange(6).reshape(2, 3)
    array.flags.writeable = False
    value = {
        "read-only": array,
        "reversed": array[:, ::-1],
        "sparse": torch.eye(3).to_sparse(),
        "expanded": torch.ones(1, 1).expand(3, 2),
        "channels last": torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last),
    }
    for arrived in (travel(value), plain.restore(plain.snapshot(value, "value"))):
        assert arrived["read-only"].tolist() == array.tolist()
        assert arrived["reversed"].tolist() == array[:, ::-1].tolist()
        assert torch.equal(arrived["sparse"].to_dense(), torch.eye(3))
        assert torch.equal(arrived["expanded"], torch.ones(3, 2))
        assert torch.equal(arrived["channels last"], torch.arange(24.0).view(1, 2, 3, 4))


def test_a_tensor_without_numbers_is_refused() -> None:
    expected = (
        "value[0] is a tensor on the device 'meta', which has a shape and no numbers. Make it on "
        "the trial's device."
    )
    for call in (plain.check, plain.snapshot, plain.encode):
        with pytest.raises(TrialrunError) as caught:
            call([torch.ones(2, device="meta")], "value")
        assert str(caught.value) == expected


class Malicious:
    """Creates a file when it is unpickled as code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


# Torch warns of a pickle of a kind that it does not write itself.
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("wrapped", [False, True])
def test_no_code_is_unpickled(tmp_path: Path, wrapped: bool) -> None:
    path = tmp_path / "executed"
    if wrapped:
        buffer = io.BytesIO()
        torch.save({"value": Malicious(path)}, buffer)
        data = buffer.getvalue()
    else:
        data = pickle.dumps(Malicious(path))
    message = struct.pack("<Q", len(data)) + data
    with pytest.raises(pickle.UnpicklingError):
        plain.decode(torch.frombuffer(bytearray(message), dtype=torch.uint8))
    assert not path.exists()
    pickle.loads(pickle.dumps(Malicious(path)))  # it would have been
    assert path.exists()
