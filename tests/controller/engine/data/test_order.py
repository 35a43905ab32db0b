from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch.utils.data

from trialrun import DataLoader, InvalidDataLoaderError, samplers
from trialrun.controller.engine.data.loaders import TrainingData, ValidationData
from trialrun.controller.engine.data.order import DataOrder
from trialrun.samplers.sequences import IndexSequence

SEED = 5


def batches(
    loader: DataLoader, count: int, *, first: int = 0, num_slots: int = 1
) -> list[list[int]]:
    """Returns the records of ``count`` global batches: the slots' shares, one after the other."""
    data = TrainingData(loader, seed=SEED, num_slots=num_slots, slots=range(num_slots))
    shares = itertools.islice(data.batches_from(first), count * num_slots)
    return [share.tolist() for share in shares]


def message(call: Any, *arguments: Any, **keywords: Any) -> str:
    with pytest.raises(InvalidDataLoaderError) as caught:
        call(*arguments, **keywords)
    return str(caught.value)


def train(loader: DataLoader, num_slots: int = 1) -> TrainingData:
    return TrainingData(loader, seed=SEED, num_slots=num_slots, slots=range(num_slots))


# Samplers of records.


def test_a_sampler_is_repeated_and_shared_out() -> None:
    subset = samplers.SubsetSampler([7, 1, 5])
    loader = DataLoader(range(10), batch_size=2, sampler=subset)
    assert batches(loader, 3, num_slots=2) == [[7, 5], [1, 7], [1, 7], [5, 1], [5, 1], [7, 5]]
    facts = train(loader, num_slots=2).facts
    assert (facts.dataset_length, facts.pass_length, facts.epoch_length) == (10, 3, 1)
    assert re.fullmatch("Subset #[0-9a-f]{8}", facts.record_order)


def test_a_sampler_with_other_seeds_or_weights_is_another_order() -> None:
    def order(sampler: Any) -> str:
        return train(DataLoader(range(30), batch_size=2, sampler=sampler)).facts.record_order

    def shuffle(seed: int) -> Any:
        return samplers.ReproducibleShuffleSampler(samplers.SequentialSampler(30), seed)

    assert order(shuffle(1)) == order(shuffle(1)) != order(shuffle(2))
    weights = [1.0] * 30
    drawn = order(samplers.WeightedSampler(weights, 30, 1))
    assert drawn != order(samplers.WeightedSampler([2.0, *weights[1:]], 30, 1))
    assert order(samplers.SubsetSampler([3, 1])) != order(samplers.SubsetSampler([1, 3]))
    by_length = [samplers.LengthGroupedBatchSampler(range(30), 4, seed) for seed in (1, 2)]
    first, second = (
        train(DataLoader(range(30), batch_sampler=sampler)).facts.record_order
        for sampler in by_length
    )
    assert first != second
    assert train(DataLoader(range(30), shuffle=True)).facts.record_order == "Sequential -> Shuffle"


def test_the_last_of_many_weights_and_indices_counts() -> None:
    # Beyond what the first items of two passes show.
    def order(sampler: Any) -> str:
        return train(DataLoader(range(3000), batch_size=2, sampler=sampler)).facts.record_order

    def shuffled(indices: list[int]) -> Any:
        return samplers.ReproducibleShuffleSampler(samplers.SubsetSampler(indices), 4)

    weights = [1.0] * 3000
    first = order(samplers.WeightedSampler(weights, 3000, 1))
    assert first == order(samplers.WeightedSampler(weights, 3000, 1))
    assert first != order(samplers.WeightedSampler([*weights[:-1], 1.0000001], 3000, 1))
    assert order(shuffled([*range(2999), 0])) != order(shuffled([*range(2999), 1]))


class TorchSubset(torch.utils.data.Sampler[int]):
    def __init__(self, indices: list[int]) -> None:
        self.indices = indices

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def test_a_sampler_from_elsewhere_is_known_by_its_first_items() -> None:
    def order(indices: list[int]) -> str:
        loader = DataLoader(range(9), batch_size=2, sampler=TorchSubset(indices))
        return train(loader).facts.record_order

    assert order([3, 1, 2]) == order([3, 1, 2]) != order([1, 3, 2])


def test_a_shuffling_sampler_orders_as_shuffle_does() -> None:
    order = samplers.ReproducibleShuffleSampler(samplers.SequentialSampler(10), SEED)
    given = DataLoader(range(10), batch_size=3, sampler=order)
    assert batches(given, 9) == batches(DataLoader(range(10), 3, shuffle=True), 9)


def test_a_repeated_sampler_is_not_repeated_again() -> None:
    records = samplers.SequentialSampler(5)
    loader = DataLoader(range(5), batch_size=2, sampler=samplers.RepeatSampler(records))
    assert batches(loader, 3) == [[0, 1], [2, 3], [4, 0]]
    assert train(loader).facts.epoch_length == 3


@pytest.mark.parametrize("first", [0, 1, 4, 9])
def test_torchs_own_sampler_resumes_at_any_batch(
    first: int, caplog: pytest.LogCaptureFixture
) -> None:
    def loader() -> DataLoader:
        weights = [1.0, 2.0, 3.0, 4.0, 5.0]
        drawn = torch.utils.data.WeightedRandomSampler(weights, num_samples=7)
        return DataLoader(range(5), batch_size=2, sampler=drawn)

    straight = batches(loader(), 12)
    assert batches(loader(), 12 - first, first=first) == straight[first:]
    assert straight[:4] != straight[4:8]
    assert len({record for batch in straight for record in batch}) > 2


def test_what_torchs_sampler_draws_follows_the_trials_seed() -> None:
    def first_pass(seed: int) -> list[int]:
        sampler = torch.utils.data.RandomSampler(range(30))
        order = DataOrder.of(DataLoader(range(30), 30, sampler=sampler), seed)
        (records,) = order.training(1).sequence(0).take(0, 1)
        assert sorted(records.tolist()) == list(range(30))
        return records.tolist()

    assert first_pass(1) == first_pass(1)
    assert first_pass(1) != first_pass(2)


# Samplers of batches.


def test_a_batch_sampler_deals_out_whole_batches() -> None:
    by_length = samplers.LengthGroupedBatchSampler([5, 1, 4, 2, 3, 9], 2, SEED)
    loader = DataLoader(range(6), batch_sampler=by_length)
    expected = [batch.tolist() for batch in by_length.take(0, 3)]
    dealt = batches(loader, 2, num_slots=2)
    assert dealt[:3] == expected
    assert train(loader, num_slots=2).facts.epoch_length == 2  # 3 batches over 2 slots
    assert train(loader).facts.batch_size == 2


def test_torchs_batch_sampler_goes_on_in_the_next_pass() -> None:
    inner = torch.utils.data.SequentialSampler(range(5))
    loader = DataLoader(range(5), batch_sampler=torch.utils.data.BatchSampler(inner, 2, False))
    assert batches(loader, 5) == [[0, 1], [2, 3], [4], [0, 1], [2, 3]]
    assert batches(loader, 2, first=2) == [[4], [0, 1]]


class Halves(torch.utils.data.Sampler[list[int]]):
    """Somebody's own: two batches of different sizes."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        yield from ([0, 1, 2], [3])


def test_somebodys_batch_sampler_counts_with_its_average(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        data = train(DataLoader(range(6), batch_sampler=Halves()), num_slots=2)
    assert data.facts.batch_size == 3
    assert data.facts.epoch_length == 1
    shares = itertools.islice(data.batches_from(0), 4)
    assert [share.tolist() for share in shares] == [[0, 1, 2], [3], [0, 1, 2], [3]]


# What goes on record.


def shuffled(length: int) -> Any:
    return samplers.ReproducibleShuffleSampler(samplers.SequentialSampler(length), 8)


LOADERS: dict[str, Callable[[], DataLoader]] = {
    "in order": lambda: DataLoader(range(20), 3),
    "shuffled": lambda: DataLoader(range(20), 3, shuffle=True),
    "subset": lambda: DataLoader(range(20), 3, sampler=[7, 3, 7, 19]),
    "torch's in order": lambda: DataLoader(
        range(20), 3, sampler=torch.utils.data.SequentialSampler(range(20))
    ),
    "weighted": lambda: DataLoader(
        range(20), 3, sampler=samplers.WeightedSampler([1, 0, 3, 2], 6, 8)
    ),
    "mixture": lambda: DataLoader(
        range(20), 3, sampler=samplers.MixtureSampler([shuffled(5), shuffled(15)], [1, 2])
    ),
    "shuffled batches": lambda: DataLoader(
        range(20),
        batch_sampler=samplers.ReproducibleShuffleBatchSampler(
            samplers.BatchSampler(shuffled(20), 3), 9
        ),
    ),
    "torch's batches of ours": lambda: DataLoader(
        range(20), batch_sampler=torch.utils.data.BatchSampler(shuffled(20), 3, False)
    ),
    "length groups": lambda: DataLoader(
        range(20), batch_sampler=samplers.LengthGroupedBatchSampler(range(20), 3, 8)
    ),
    "batches written out": lambda: DataLoader(range(20), batch_sampler=[[1, 2], [7], [3, 19, 1]]),
}


@pytest.mark.parametrize("name", LOADERS)
def test_the_order_on_record_is_the_order_that_is_loaded(name: str) -> None:
    arrays: dict[str, Any] = {}

    def keep(array: Any) -> str:
        arrays[f"array {len(arrays)}"] = array.copy()
        return f"array {len(arrays) - 1}"

    data = train(LOADERS[name](), num_slots=2)
    described = json.loads(json.dumps(data.describe_order(keep)))
    order = samplers.RecordOrder.from_description(described, arrays.__getitem__)
    for first in (0, 10**6):
        loaded = batches(LOADERS[name](), 20, first=first, num_slots=2)
        expected = [
            order.records(batch, slot).records.tolist()
            for batch in range(first, first + 20)
            for slot in range(2)
        ]
        assert loaded == expected


@pytest.mark.parametrize(
    ("loader", "stage"),
    [
        (
            lambda: DataLoader(
                range(20), sampler=torch.utils.data.WeightedRandomSampler([1.0, 2.0], 9)
            ),
            "WeightedRandomSampler",
        ),
        (lambda: DataLoader(range(20), batch_sampler=Halves()), "Halves"),
        (
            lambda: DataLoader(
                range(20),
                sampler=samplers.ReproducibleShuffleSampler(
                    torch.utils.data.RandomSampler(range(20)), 3
                ),
            ),
            "RandomSampler",
        ),
    ],
)
def test_of_an_order_from_elsewhere_the_stage_is_on_record(
    loader: Callable[[], DataLoader], stage: str
) -> None:
    described = train(loader()).describe_order(str)
    with pytest.raises(ValueError, match=f"^The stage {stage} is none of trialrun's own, and only"):
        samplers.RecordOrder.from_description(described, torch.tensor)


# Whole batches only.


@pytest.mark.parametrize(
    ("length", "drop_last", "epoch_length"),
    [(10, False, 3), (10, True, 2), (8, True, 2), (11, True, 2), (12, True, 3)],
)
def test_drop_last_rounds_the_epoch_down_and_loses_nothing(
    length: int, drop_last: bool, epoch_length: int
) -> None:
    loader = DataLoader(range(length), batch_size=2, drop_last=drop_last)
    assert train(loader, num_slots=2).facts.epoch_length == epoch_length
    stream = sorted(record for share in batches(loader, 3, num_slots=2) for record in share)
    assert stream == sorted(position % length for position in range(12))


def test_drop_last_leaves_the_short_batch_of_a_validation_out() -> None:
    loader = DataLoader(range(10), batch_size=4, drop_last=True)
    data = ValidationData(loader, seed=SEED, num_slots=1, slots=range(1))
    assert [batch.tolist() for ((_, _, batch),) in data.rounds()] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_drop_last_that_leaves_nothing_is_refused() -> None:
    loader = DataLoader(range(3), batch_size=2, drop_last=True)
    assert train(loader).facts.epoch_length == 1
    assert message(train, loader, num_slots=2) == (
        "drop_last=True leaves no batch in an epoch: a pass has 3 records, fewer than the 4 of one "
        "batch over 2 slots. Choose a smaller batch size, or drop_last=False."
    )


# What does not fit.


def test_a_chain_that_shares_out_or_skips_is_refused() -> None:
    records = samplers.SequentialSampler(8)
    for sampler, stages in (
        (samplers.DistributedSampler(records, 2, 0), "Sequential -> Distributed"),
        (samplers.SkipSampler(records, 1), "Sequential -> Skip"),
    ):
        assert message(train, DataLoader(range(8), sampler=sampler)) == (
            f"The sampler is the chain {stages}. trialrun itself distributes it over the slots and "
            "skips what was trained on; give the chain only up to there, such as "
            "ReproducibleShuffleSampler(...)."
        )


def test_validation_data_is_shared_out_by_trialrun_alone() -> None:
    records = samplers.SequentialSampler(8)
    torchs = torch.utils.data.DistributedSampler(range(8), num_replicas=2, rank=0)
    for sampler in (samplers.DistributedSampler(records, 2, 0), torchs):
        loader = DataLoader(range(8), batch_size=2, sampler=sampler)
        assert "trialrun itself distributes it over the slots" in message(
            ValidationData, loader, seed=SEED, num_slots=2, slots=range(2)
        )


@pytest.mark.parametrize("length", [3, 10, 5_000, 40_000])
def test_the_first_batch_waits_for_no_other(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    take = IndexSequence.take

    def counting(self: Any, start: int, stop: int) -> Any:
        asked.append(stop - start)
        return take(self, start, stop)

    data = train(DataLoader(range(length), batch_size=2, shuffle=True), num_slots=2)
    stream = data.batches_from(10**6)
    monkeypatch.setattr(IndexSequence, "take", counting)
    next(stream)
    assert asked == [1, 1]
    for _ in range(20_000):
        next(stream)
    # Blocks grow, but a block of short passes is short too.
    assert max(asked) == min(4096, 16 * -(-length // 4))


def test_a_sampler_of_another_dataset_is_refused() -> None:
    loader = DataLoader(range(8), sampler=samplers.SequentialSampler(9))
    assert message(train, loader) == (
        "The sampler Sequential is over 9 records, and the dataset has 8. Make it of the dataset "
        "that the loader has."
    )
    beyond = DataLoader(range(8), sampler=samplers.SubsetSampler([3, 50]))
    assert "is over 51 records, and the dataset has 8" in message(train, beyond)


def test_an_empty_sampler_is_refused() -> None:
    assert message(train, DataLoader(range(8), sampler=samplers.SubsetSampler([]))) == (
        "The sampler Subset gives nothing in a pass. Check what it selects."
    )


def test_records_in_place_of_batches_are_refused() -> None:
    loader = DataLoader(range(8), batch_sampler=samplers.SequentialSampler(8))
    assert message(train, loader).startswith("The DataLoader's sampler does not fit: ")


def test_an_endless_sampler_is_no_validation_data() -> None:
    endless = samplers.RepeatSampler(samplers.SequentialSampler(8))
    with pytest.raises(InvalidDataLoaderError) as caught:
        ValidationData(
            DataLoader(range(8), sampler=endless), seed=SEED, num_slots=1, slots=range(1)
        )
    assert str(caught.value) == (
        "The sampler Sequential -> Repeat of the validation data has no end. Give a finite one."
    )
