from __future__ import annotations

import itertools
import multiprocessing
import os
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from python_start import run_python
from torch.utils.data import TensorDataset

from trialrun import DataLoader, samplers
from trialrun.controller.engine.data.loaders import TrainingData, ValidationData, _WorkerStart


class Numbers:
    """Record i is the number i."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return index


class Augmented(Numbers):
    """Each load draws from every generator."""

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([index, np.random.rand(), random.random()]) + torch.rand(1) * 1e-3


class Together(Augmented):
    """Loads a whole batch in one call."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [torch.tensor([len(indices), index]) for index in indices]


def collate_with_noise(records: list[Any]) -> torch.Tensor:
    return torch.stack(records) + torch.rand(1)


def take(
    loader: DataLoader, first: int, count: int, *, num_slots: int = 1, slots: range = range(1)
) -> list[Any]:
    """Returns ``count`` batches of all those slots, from batch ``first`` on."""
    data = TrainingData(loader, seed=5, num_slots=num_slots, slots=slots)
    return list(itertools.islice(data.batches_from(first), count * len(slots)))


def chain(length: int, shuffle: bool, num_slots: int, slot: int, batch_size: int) -> Any:
    records: Any = samplers.SequentialSampler(length)
    if shuffle:
        records = samplers.ReproducibleShuffleSampler(records, 5)
    share = samplers.DistributedSampler(samplers.RepeatSampler(records), num_slots, slot)
    return samplers.BatchSampler(share, batch_size)


# Training.


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.data())
def test_records_of_a_batch_are_those_of_the_sampler_chain(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 30), "length")
    batch_size = data.draw(st.integers(1, 5), "batch_size")
    num_slots = data.draw(st.integers(1, 4), "num_slots")
    start = data.draw(st.integers(0, num_slots - 1), "first slot")
    slots = range(start, data.draw(st.integers(start + 1, num_slots), "end of slots"))
    first = data.draw(st.one_of(st.integers(0, 20), st.just(10**6)), "first batch")
    shuffle = data.draw(st.booleans(), "shuffle")
    loader = DataLoader(Numbers(length), batch_size=batch_size, shuffle=shuffle)
    loaded = iter(take(loader, first, 3, num_slots=num_slots, slots=slots))
    for batch in range(first, first + 3):
        for slot in slots:
            sampler = chain(length, shuffle, num_slots, slot, batch_size)
            assert next(loaded).tolist() == sampler.take(batch, batch + 1)[0].tolist()


def test_batches_go_on_beyond_one_block_of_indices() -> None:
    batches = take(DataLoader(Numbers(50), batch_size=4096, shuffle=True), 0, 5)
    expected = chain(50, True, 1, 0, 4096).take(0, 5)
    assert [batch.tolist() for batch in batches] == [records.tolist() for records in expected]


@pytest.mark.parametrize(("length", "batches"), [(10, 3), (12, 3), (13, 4), (1, 1), (4, 1)])
def test_an_epoch_is_rounded_up(length: int, batches: int) -> None:
    data = TrainingData(
        DataLoader(Numbers(length), batch_size=2), seed=5, num_slots=2, slots=range(2)
    )
    assert (data.facts.epoch_length, data.facts.batch_size, data.facts.dataset_length) == (
        batches,
        2,
        length,
    )


@pytest.mark.parametrize("collate", [None, collate_with_noise])
def test_loader_workers_change_neither_records_nor_draws(collate: Any) -> None:
    runs = []
    for num_workers in (0, 1, 2):
        torch.manual_seed(num_workers)
        loader = DataLoader(
            Augmented(11), batch_size=3, shuffle=True, num_workers=num_workers, collate_fn=collate
        )
        runs.append(take(loader, 2, 5, num_slots=4, slots=range(1, 3)))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))
    noise = torch.cat([batch[:, 1:] for batch in runs[0]]).flatten()
    assert len(set(noise.tolist())) == noise.numel()


def test_draws_belong_to_batch_and_slot_wherever_loading_begins() -> None:
    loader = DataLoader(Augmented(11), batch_size=3, shuffle=True)
    both = take(loader, 0, 4, num_slots=2, slots=range(2))
    alone = take(loader, 2, 2, num_slots=2, slots=range(1, 2))
    assert torch.equal(alone[0], both[2 * 2 + 1])
    assert torch.equal(alone[1], both[2 * 3 + 1])


def mark(worker: int) -> None:
    os.environ["TRIALRUN_TEST_WORKER"] = str(worker + 7)


class Marked(Numbers):
    """Record i is what the worker's own start left in its environment."""

    def __getitem__(self, index: int) -> Any:
        return int(os.environ.get("TRIALRUN_TEST_WORKER", 0))


@pytest.mark.parametrize("context", ["forkserver", multiprocessing.get_context("spawn")])
def test_workers_can_be_started_in_other_ways(context: Any) -> None:
    def loader(**arguments: Any) -> DataLoader:
        return DataLoader(Augmented(11), batch_size=3, shuffle=True, **arguments)

    (expected,) = take(loader(), 4, 1)
    (loaded,) = take(loader(num_workers=1, multiprocessing_context=context), 4, 1)
    assert torch.equal(loaded, expected)


def test_a_workers_own_start_is_called_with_its_number() -> None:
    loader = DataLoader(Marked(11), num_workers=2, worker_init_fn=mark)
    assert [batch.item() for batch in take(loader, 0, 4)] == [7, 8, 7, 8]


def test_pinning_without_a_gpu_changes_nothing() -> None:
    plain, pinned = (
        take(DataLoader(Augmented(11), batch_size=3, pin_memory=pin), 2, 3) for pin in (False, True)
    )
    assert all(torch.equal(one, other) for one, other in zip(plain, pinned, strict=True))


STUCK = """
import time
import torch
from trialrun import DataLoader
from trialrun.controller.engine.data.loaders import TrainingData


class Stuck(torch.utils.data.Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        time.sleep(3600)


data = TrainingData(
    DataLoader(Stuck(), num_workers=1, timeout=0.2), seed=0, num_slots=1, slots=range(1)
)
try:
    next(data.batches_from(0))
except RuntimeError as error:
    print(error)
"""


def test_a_worker_that_is_stuck_is_told_of_and_ended() -> None:
    # It would sleep for an hour; the process must not wait for it.
    result = run_python("-c", STUCK)
    assert result.returncode == 0, result.stderr
    assert "timed out after 0.2 seconds" in result.stdout


def test_starting_workers_draws_nothing_from_the_process() -> None:
    def state() -> Any:
        return (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),
            random.getstate(),
        )

    before = state()
    data = TrainingData(DataLoader(Numbers(3), num_workers=1), seed=5, num_slots=1, slots=range(1))
    assert next(data.batches_from(0)).tolist() == [0]
    assert state() == before


def test_a_tensor_dataset_is_gathered_whole() -> None:
    tensors = torch.arange(40.0).view(10, 4), torch.arange(10)
    whole = take(DataLoader(TensorDataset(*tensors), batch_size=3, shuffle=True), 0, 4)
    single = take(DataLoader(Numbers(10), batch_size=3, shuffle=True), 0, 4)
    for (values, numbers), records in zip(whole, single, strict=True):
        assert torch.equal(numbers, records)
        assert torch.equal(values, tensors[0][records])


def test_a_subclass_of_a_tensor_dataset_is_asked_for_its_records() -> None:
    class Doubled(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            return 2 * super().__getitem__(index)[0]

    dataset = Doubled(torch.arange(4.0))
    (batch,) = take(DataLoader(dataset, batch_size=4), 0, 1)
    assert batch.tolist() == [0, 2, 4, 6]


def test_a_dataset_is_asked_for_a_whole_batch_where_it_can_answer() -> None:
    (batch,) = take(DataLoader(Together(5), batch_size=3), 1, 1)
    assert batch.tolist() == [[3, 3], [3, 4], [3, 0]]


# Validation.


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    length=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    num_slots=st.integers(1, 6),
    shuffle=st.booleans(),
    data=st.data(),
)
def test_validation_covers_each_record_once(
    length: int, batch_size: int, num_slots: int, shuffle: bool, data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from([p for p in range(1, num_slots + 1) if num_slots % p == 0]))
    slots_each = num_slots // size
    loader = DataLoader(Numbers(length), batch_size=batch_size, shuffle=shuffle)
    batches: dict[int, list[int]] = {}
    num_rounds = set()
    for rank in range(size):
        slots = range(rank * slots_each, (rank + 1) * slots_each)
        validation = ValidationData(loader, seed=5, num_slots=num_slots, slots=slots)
        rounds = list(validation.rounds())
        num_rounds.add(len(rounds))
        for slot, number, batch in itertools.chain.from_iterable(rounds):
            assert slot in slots
            assert number % num_slots == slot
            assert number not in batches
            batches[number] = batch.tolist()
    # Processes that agree after each round must go through equally many.
    assert len(num_rounds) == 1
    in_order = [record for number in sorted(batches) for record in batches[number]]
    assert sorted(in_order) == list(range(length))
    if not shuffle:
        assert in_order == list(range(length))
    assert all(len(batch) == batch_size for number, batch in sorted(batches.items())[:-1])


def test_validation_draws_belong_to_the_batch_whatever_loads_it() -> None:
    def load(num_slots: int, num_workers: int) -> dict[int, torch.Tensor]:
        loader = DataLoader(Augmented(11), batch_size=2, num_workers=num_workers)
        data = ValidationData(loader, seed=5, num_slots=num_slots, slots=range(num_slots))
        return {n: batch for pieces in data.rounds() for _, n, batch in pieces}

    expected = load(1, 0)
    assert len(expected) == 6
    for num_slots, num_workers in ((3, 0), (1, 2), (4, 1)):
        found = load(num_slots, num_workers)
        assert list(found) == list(expected)
        assert all(torch.equal(found[number], expected[number]) for number in expected)


def test_validation_data_can_be_gone_through_again() -> None:
    for persistent in (False, True):
        loader = DataLoader(
            Augmented(5), batch_size=2, num_workers=1, persistent_workers=persistent
        )
        data = ValidationData(loader, seed=5, num_slots=1, slots=range(1))
        first, second = ([piece[2] for (piece,) in data.rounds()] for _ in range(2))
        assert len(first) == 3
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_loader_worker_that_is_orphaned_before_it_begins_ends() -> None:
    def begin(parent: int | None) -> int | None:
        worker = multiprocessing.get_context("fork").Process(
            target=_WorkerStart(lambda number: os._exit(10 + number), parent), args=(7,)
        )
        worker.start()
        worker.join()
        return worker.exitcode

    assert begin(os.getpid()) == 17
    assert begin(os.getppid()) == 1  # the parent is another one than it was
    assert begin(None) == 17
