"""Whatever the kind of dataset, the batch is the one that torch's DataLoader would make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset, default_collate

from trialrun import DataLoader
from trialrun._fetching import (
    ArrayFetcher,
    BatchFunction,
    ColumnFetcher,
    ListFetcher,
    RecordFetcher,
    TableFetcher,
    TensorFetcher,
    make_fetcher,
)

IDS = np.array([4, 0, 3], dtype=np.int64)
ROWS = torch.arange(20.0).view(5, 4)


def memory_mapped(folder: Path) -> np.memmap[Any, Any]:
    np.save(folder / "rows.npy", ROWS.numpy())
    return np.load(folder / "rows.npy", mmap_mode="r")  # type: ignore[no-any-return]


def table() -> pa.Table:
    return pa.table(
        {
            "x": pa.array([0.5, 1.5, 2.5, 3.5, 4.5], pa.float32()),
            "label": [3, 1, 4, 1, 5],
            "text": ["a", "b", "c", "d", "e"],
            "pair": [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]],
        }
    )


def hugging_face(format: str | None) -> Any:
    return datasets.Dataset(table()).with_format(format)


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
        assert found.stride() == expected.stride()
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


DATASETS = {
    "tensors": (lambda _: TensorDataset(ROWS, torch.arange(5)), TensorFetcher),
    "one tensor": (lambda _: ROWS, ArrayFetcher),
    "array": (lambda _: ROWS.numpy(), ArrayFetcher),
    "array of numbers": (lambda _: np.arange(5, dtype=np.uint8), ArrayFetcher),
    "array in a file": (memory_mapped, ArrayFetcher),
    "array in another layout": (lambda _: np.asfortranarray(ROWS.numpy()), ArrayFetcher),
    "Hugging Face": (lambda _: hugging_face(None), ColumnFetcher),
    "Hugging Face, torch": (lambda _: hugging_face("torch"), ColumnFetcher),
    "Hugging Face, numpy": (lambda _: hugging_face("numpy"), ColumnFetcher),
    "list": (lambda _: [(row, float(i), f"t{i}") for i, row in enumerate(ROWS)], RecordFetcher),
}


def _count_and_collate(records: list[Any]) -> dict[str, Any]:
    return {"n": len(records), "all": default_collate(records)}


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # torch's own way
@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("collates", [False, True])
def test_a_batch_is_what_torch_makes_of_the_records(
    name: str, collates: bool, tmp_path: Path
) -> None:
    make, kind = DATASETS[name]
    dataset = make(tmp_path)
    assert type(make_fetcher(dataset)) is kind
    own = _count_and_collate if collates else None
    (expected,) = TorchDataLoader(dataset, batch_sampler=[IDS.tolist()], collate_fn=own)
    assert_same(BatchFunction(DataLoader(dataset, collate_fn=own))(IDS), expected)


def test_an_arrow_table_gives_its_columns() -> None:
    expected = {
        "x": torch.tensor([4.5, 0.5, 3.5]),
        "label": torch.tensor([5, 3, 1]),
        "text": ["e", "a", "d"],
        "pair": [torch.tensor([9, 1, 7]), torch.tensor([10, 2, 8])],
    }
    assert type(make_fetcher(table())) is TableFetcher
    assert_same(BatchFunction(DataLoader(table()))(IDS), expected)
    rows = BatchFunction(DataLoader(table(), collate_fn=lambda records: records))(IDS)
    assert rows[0] == {"x": 4.5, "label": 5, "text": "e", "pair": [9, 10]}


def test_an_arrow_batch_is_a_table_too() -> None:
    batch = pa.record_batch({"flag": [True, False, True, True, False], "text": list("abcde")})
    assert_same(
        BatchFunction(DataLoader(batch))(IDS),
        {"flag": torch.tensor([False, True, True]), "text": ["e", "a", "d"]},
    )


def test_what_is_no_table_is_read_record_by_record() -> None:
    assert type(make_fetcher(pa.array([1, 2, 3, 4, 5]))) is RecordFetcher


def test_an_arrow_column_with_gaps_is_refused_in_every_batch_that_has_one() -> None:
    gaps = pa.table({"x": [1, 2, None, 4, 5]})
    fetch = BatchFunction(DataLoader(gaps))
    assert fetch(IDS)["x"].tolist() == [5, 1, 4]
    with pytest.raises(RuntimeError, match="NoneType"):
        fetch(np.array([1, 2]))


class Counting(list[int]):
    calls = 0

    def __getitems__(self, ids: list[int]) -> list[int]:
        type(self).calls += 1
        return [self[i] for i in ids]


def test_a_dataset_that_can_give_many_records_is_asked_once() -> None:
    dataset = Counting([10, 11, 12, 13, 14])
    assert type(make_fetcher(dataset)) is ListFetcher
    assert BatchFunction(DataLoader(dataset))(IDS).tolist() == [14, 10, 13]
    assert Counting.calls == 1


def test_a_batch_is_a_copy_that_may_be_written(tmp_path: Path) -> None:
    for dataset in (
        ROWS.clone(),
        ROWS.numpy().copy(),
        memory_mapped(tmp_path),
        hugging_face("numpy"),
    ):
        batch = BatchFunction(DataLoader(dataset))(IDS)
        first = batch["x"] if isinstance(batch, dict) else batch
        first.zero_()
        again = BatchFunction(DataLoader(dataset))(IDS)
        assert (again["x"] if isinstance(again, dict) else again).sum() > 0


def test_an_array_of_text_is_left_to_torch() -> None:
    dataset = np.array(["a", "b", "c", "d", "e"])
    assert type(make_fetcher(dataset)) is RecordFetcher
    records = BatchFunction(DataLoader(dataset, collate_fn=list))(IDS)
    assert records == ["e", "a", "d"]
