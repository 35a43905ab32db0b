"""The numbers and programs of docs/samplers.md are those of the code."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from trialrun import samplers
from trialrun.samplers import (
    BatchSampler,
    DealtRecords,
    DistributedBatchSampler,
    DistributedSampler,
    RepeatBatchSampler,
    RepeatSampler,
    SequentialSampler,
)
from trialrun.samplers.sequences import Count, Shuffled

PAGE = (Path(__file__).parents[2] / "docs" / "samplers.md").read_text(encoding="utf-8")


def training(records: int, ranks: int, batch_size: int, drop_last: bool, rank: int) -> Any:
    share = DistributedSampler(RepeatSampler(SequentialSampler(records)), ranks, rank)
    return BatchSampler(share, batch_size, drop_last)


def one_pass(records: int, ranks: int, batch_size: int, drop_last: bool, rank: int) -> Any:
    share = DistributedSampler(SequentialSampler(records), ranks, rank)
    return BatchSampler(share, batch_size, drop_last)


def whole_batches(records: int, ranks: int, batch_size: int, drop_last: bool, rank: int) -> Any:
    batches = BatchSampler(SequentialSampler(records), batch_size, drop_last)
    return DistributedBatchSampler(RepeatBatchSampler(batches), ranks, rank)


def rows(heading: str) -> list[list[str]]:
    section = PAGE.split(f"### {heading}")[1].split("\n#")[0]
    table = [line for line in section.splitlines() if re.match(r"\| \d", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


@pytest.mark.parametrize(
    ("heading", "make"),
    [("Training", training), ("One pass", one_pass), ("Whole batches", whole_batches)],
)
def test_every_row_of_the_tables_is_true(heading: str, make: Any) -> None:
    table = rows(heading)
    assert len(table) >= 6
    for records, ranks, batch_size, drop_last, rank, length, batches in table:
        sampler = make(int(records), int(ranks), int(batch_size), drop_last == "yes", int(rank))
        assert len(sampler) == int(length)
        shown = [[int(r) for r in b.split()] for b in re.findall(r"\[([\d ]+)\]", batches)]
        if sampler.is_endless:
            assert shown == list(itertools.islice(sampler, len(shown)))
            assert len(shown) > len(sampler)
        else:
            assert shown == list(sampler)


def test_the_page_names_every_sampler() -> None:
    names = {name for name in samplers.__all__ if name.lower().endswith("sampler")}
    assert {name for name in names if f"`{name}" not in PAGE} == {
        "RandomAccessBatchSampler",
        "RandomAccessSampler",
    }


def test_the_first_example_resumes_in_torchs_own_loader() -> None:
    program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    names: dict[str, Any] = {"torch": torch, "dataset": list(range(20_000))}
    exec(compile(program, "docs/samplers.md", "exec"), names)
    loaded = [batch.tolist() for batch in itertools.islice(names["loader"], 3)]
    assert loaded == [batch.tolist() for batch in names["batches"].take(0, 3)]
    # 128 records a step, 20,000 a pass: batch 10,000 begins with item 0 of pass 64.
    expected = samplers.RepeatSampler(names["records"]).take(1_280_000, 1_280_128)[::4]
    assert loaded[0] == expected.tolist()


def test_the_example_of_samplers_from_elsewhere_works() -> None:
    (program,) = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "again =" in block
    ]
    exec(compile(program, "docs/samplers.md", "exec"), {"torch": torch})


def test_the_sampler_of_ones_own_works() -> None:
    (program,) = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class " in block
    ]
    exec(compile(program, "docs/samplers.md", "exec"), {"__name__": "page"})


def test_the_example_without_torch_gives_what_its_comments_say() -> None:
    order = DealtRecords(source=Shuffled(Count(10), seed=42), num_slots=2, batch_size=2)
    records, epochs = order.records(batch=2, slot=1)
    assert (records.tolist(), epochs.tolist()) == ([9, 1], [0, 1])
    assert {use.epoch for use in order.uses(9, start_batch=0, stop_batch=5)} == {0, 1}


def test_a_pattern_of_two_datasets_gives_each_of_two_workers_one() -> None:
    mixture = samplers.MixtureSampler([10, 10], [1, 1])
    shares = [DistributedSampler(mixture, 2, rank).take(0, 20) for rank in range(2)]
    assert shares[0].max() < 10 <= shares[1].min()
