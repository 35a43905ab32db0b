"""One suite of promises, run over every sampler of the package."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch.utils.data import RandomSampler, Sampler

from trialrun import samplers
from trialrun.samplers import (
    BatchSampler,
    DistributedBatchSampler,
    DistributedSampler,
    ForeignBatchSampler,
    ForeignSampler,
    LengthGroupedBatchSampler,
    MixtureSampler,
    RandomAccess,
    RandomAccessBatchSampler,
    RandomAccessSampler,
    RepeatBatchSampler,
    RepeatSampler,
    ReproducibleShuffleBatchSampler,
    ReproducibleShuffleSampler,
    SequentialSampler,
    SkipBatchSampler,
    SkipSampler,
    SubsetSampler,
    WeightedSampler,
    as_batch_sampler,
)
from trialrun.samplers.sequences import (
    Count,
    DerivedSequence,
    IndexSequence,
    Records,
    describe,
    from_description,
)


def shuffle(length: int, seed: int = 3) -> ReproducibleShuffleSampler:
    return ReproducibleShuffleSampler(SequentialSampler(length), seed)


def batches(length: int, batch_size: int = 4) -> BatchSampler:
    return BatchSampler(shuffle(length), batch_size)


def grouped(length: int, drop_last: bool = False) -> LengthGroupedBatchSampler:
    lengths = [7 * record % 10 for record in range(length)]
    return LengthGroupedBatchSampler(lengths, 4, 3, drop_last, batches_per_pool=3)


class Reversed(DerivedSequence[Records]):
    """A sequence of somebody's own."""

    stage = "Reversed"

    @property
    def length(self) -> int:
        return self._inner.length

    def gather(self, epoch: int, positions: Records) -> Records:
        return self._inner.gather(epoch, self.length - 1 - positions)


# name -> (sampler, len(), positions or None when endless)
SAMPLERS: dict[str, tuple[Callable[[], Any], int, int | None]] = {
    "sequential": (lambda: SequentialSampler(25), 25, 25),
    "sequential of a dataset": (lambda: SequentialSampler(["a", "b", "c"]), 3, 3),
    "sequential, empty": (lambda: SequentialSampler(0), 0, 0),
    "sequential, several blocks": (lambda: SequentialSampler(20_000), 20_000, 20_000),
    "subset": (lambda: SubsetSampler([7, 3, 9, 3]), 4, 4),
    "subset, empty": (lambda: SubsetSampler([]), 0, 0),
    "weighted": (lambda: WeightedSampler([1, 0, 2.5, 4], 25, 3), 25, 25),
    "weighted, repeated": (lambda: RepeatSampler(WeightedSampler([1, 0, 2], 5, 3)), 5, None),
    "mixture": (lambda: MixtureSampler([shuffle(5), shuffle(3, 4), 2], [0.5, 0.3, 0.2]), 10, None),
    "mixture in a mixture": (
        lambda: MixtureSampler([MixtureSampler([4, shuffle(3)], [2, 1]), 3], [1, 1]),
        10,
        None,
    ),
    "shuffle": (lambda: shuffle(25), 25, 25),
    "shuffle, large": (lambda: shuffle(20_000), 20_000, 20_000),
    "shuffle of a share": (
        lambda: ReproducibleShuffleSampler(DistributedSampler(shuffle(25), 4, 1), 9),
        6,
        6,
    ),
    "shuffle of a subset": (
        lambda: ReproducibleShuffleSampler(SubsetSampler([5, 1, 8]), 9),
        3,
        3,
    ),
    "shuffle, empty": (lambda: shuffle(0), 0, 0),
    "repeat": (lambda: RepeatSampler(shuffle(7)), 7, None),
    "repeat of a share": (lambda: RepeatSampler(DistributedSampler(shuffle(7), 2, 0)), 4, None),
    "distributed, rank 0": (lambda: DistributedSampler(SequentialSampler(10), 4, 0), 3, 3),
    "distributed, rank 3": (lambda: DistributedSampler(SequentialSampler(10), 4, 3), 2, 2),
    "distributed, no share": (lambda: DistributedSampler(SequentialSampler(2), 4, 3), 0, 0),
    "distributed, endless": (
        lambda: DistributedSampler(RepeatSampler(shuffle(10)), 4, 3),
        2,
        None,
    ),
    "skip of records": (lambda: SkipSampler(shuffle(10), 4), 10, 6),
    "skip of records, endless": (lambda: SkipSampler(RepeatSampler(shuffle(10)), 4), 10, None),
    "foreign": (lambda: ForeignSampler(RandomSampler(range(10)), 5), 10, 10),
    "foreign, repeated": (
        lambda: RepeatSampler(ForeignSampler(RandomSampler(range(3)), 5)),
        3,
        None,
    ),
    "somebody's own": (lambda: RandomAccessSampler(Reversed(Count(10))), 10, 10),
    "batch": (lambda: BatchSampler(shuffle(10), 4), 3, 3),
    "batch, whole": (lambda: BatchSampler(shuffle(12), 4), 3, 3),
    "batch, drop last": (lambda: BatchSampler(shuffle(10), 4, drop_last=True), 2, 2),
    "batch beyond the dataset": (lambda: BatchSampler(shuffle(10), 10**12), 1, 1),
    "batch, empty": (lambda: BatchSampler(shuffle(0), 4), 0, 0),
    "batch, several blocks": (lambda: BatchSampler(shuffle(20_000), 7), 2858, 2858),
    "batch, endless": (lambda: BatchSampler(RepeatSampler(shuffle(10)), 4), 3, None),
    "batch, endless, drop last": (
        lambda: BatchSampler(RepeatSampler(shuffle(10)), 4, drop_last=True),
        2,
        None,
    ),
    "length groups": (lambda: grouped(10), 3, 3),
    "length groups, whole": (lambda: grouped(24), 6, 6),
    "length groups, short pool": (lambda: grouped(31), 8, 8),
    "length groups, drop last": (lambda: grouped(31, drop_last=True), 7, 7),
    "length groups, empty": (lambda: grouped(0), 0, 0),
    "length groups, repeated": (lambda: RepeatBatchSampler(grouped(10)), 3, None),
    "shuffle of batches": (lambda: ReproducibleShuffleBatchSampler(batches(22), 9), 6, 6),
    "repeat of batches": (lambda: RepeatBatchSampler(batches(10)), 3, None),
    "repeat of shuffled batches": (
        lambda: RepeatBatchSampler(ReproducibleShuffleBatchSampler(batches(10), 9)),
        3,
        None,
    ),
    "distributed batches": (lambda: DistributedBatchSampler(batches(22), 4, 1), 2, 2),
    "distributed batches, endless": (
        lambda: DistributedBatchSampler(RepeatBatchSampler(batches(10)), 2, 1),
        1,
        None,
    ),
    "foreign batches": (lambda: ForeignBatchSampler(BatchesFromElsewhere(), 5), 3, 3),
    "listed batches": (lambda: as_batch_sampler([[4, 1], [], [9, 1, 0]]), 3, 3),
    "shuffle of listed batches": (
        lambda: ReproducibleShuffleBatchSampler([[4, 1], [2], (9, 1, 0)], 9),
        3,
        3,
    ),
    "skip": (lambda: SkipBatchSampler(BatchSampler(shuffle(10), 4), 2), 3, 1),
    "skip beyond the end": (lambda: SkipBatchSampler(BatchSampler(shuffle(10), 4), 9), 3, 0),
    "skip, endless": (
        lambda: SkipBatchSampler(BatchSampler(RepeatSampler(shuffle(10)), 4), 10**15),
        3,
        None,
    ),
}


class BatchesFromElsewhere:
    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        return iter([[1, 2], [3], [9, 0, 4]])


CASES = pytest.mark.parametrize("case", SAMPLERS.values(), ids=SAMPLERS.keys())


def test_the_suite_has_every_public_sampler() -> None:
    public = {getattr(samplers, name) for name in samplers.__all__}
    faces = {kind for kind in public if isinstance(kind, type) and issubclass(kind, Sampler)}
    tested = {type(make()) for make, _, _ in SAMPLERS.values()}
    assert faces - tested == {RandomAccess}


def as_lists(window: Any) -> list[Any]:
    return [item.tolist() for item in window]


@CASES
def test_length_and_end(case: tuple[Callable[[], Any], int, int | None]) -> None:
    make, length, num_positions = case
    sampler = make()
    assert isinstance(sampler, Sampler)
    assert isinstance(sampler, RandomAccessSampler | RandomAccessBatchSampler)
    assert len(sampler) == length
    assert sampler.is_endless == (num_positions is None)
    if num_positions is not None:
        assert sampler.num_positions == num_positions
        assert list(sampler) == as_lists(sampler.take(0, num_positions))


@CASES
def test_iteration_and_every_window_show_one_sequence(
    case: tuple[Callable[[], Any], int, int | None],
) -> None:
    sampler = case[0]()
    end = min(sampler.num_positions, 40)
    items = list(itertools.islice(sampler, end))
    for start in range(end + 1):
        for stop in range(start, end + 1):
            assert as_lists(sampler.take(start, stop)) == items[start:stop]
    assert list(itertools.islice(sampler, end)) == items


@CASES
def test_types(case: tuple[Callable[[], Any], int, int | None]) -> None:
    sampler = case[0]()
    end = min(sampler.num_positions, 3)
    window, items = sampler.take(0, end), list(itertools.islice(sampler, end))
    if isinstance(sampler, RandomAccessSampler):
        assert isinstance(window, np.ndarray) and window.dtype == np.int64
        assert window.shape == (end,)
        assert all(type(item) is int for item in items)
    else:
        assert isinstance(window, list) and len(window) == end
        assert all(batch.dtype == np.int64 and batch.ndim == 1 for batch in window)
        assert all(type(item) is list for item in items)
        assert all(type(record) is int for item in items for record in item)


@CASES
def test_gather_answers_in_any_order_and_keeps_its_argument(
    case: tuple[Callable[[], Any], int, int | None],
) -> None:
    sampler = case[0]()
    end = min(sampler.num_positions, 40)
    items = as_lists(sampler.take(0, end))
    positions = np.random.default_rng(0).permutation(np.repeat(np.arange(end), 2))
    asked = positions.copy()
    assert as_lists(sampler.sequence.gather(0, positions)) == [items[p] for p in asked]
    assert np.array_equal(positions, asked)


@CASES
def test_what_is_written_into_an_answer_changes_no_later_one(
    case: tuple[Callable[[], Any], int, int | None],
) -> None:
    sampler = case[0]()
    end = min(sampler.num_positions, 40)
    items = as_lists(sampler.take(0, end))
    for _ in range(2):
        window = sampler.take(0, end)
        assert as_lists(window) == items
        for array in [window] if isinstance(window, np.ndarray) else window:
            array[:] = 77
    assert as_lists(sampler.take(0, end)) == items


@CASES
def test_a_copy_from_another_process_agrees(
    case: tuple[Callable[[], Any], int, int | None],
) -> None:
    sampler = case[0]()
    end = min(sampler.num_positions, 40)
    copy = pickle.loads(pickle.dumps(sampler))
    assert as_lists(copy.take(0, end)) == as_lists(sampler.take(0, end))


@CASES
def test_windows_outside_the_sequence_are_refused(
    case: tuple[Callable[[], Any], int, int | None],
) -> None:
    sampler = case[0]()
    end = sampler.num_positions
    for start, stop in [(-1, 0), (1, 0), (0, end + 1)]:
        with pytest.raises(
            ValueError,
            match=rf"^The window \[{start}, {stop}\) does not lie within the {end} positions of "
            rf"{' -> '.join(sampler.sequence.stages)}\. Ask for 0 <= start <= stop <= num_positions"
            r"\.$",
        ):
            sampler.take(start, stop)


@CASES
def test_an_endless_sequence_reaches_its_last_position(
    case: tuple[Callable[[], Any], int, int | None],
) -> None:
    sampler = case[0]()
    if sampler.is_endless:
        (item,) = sampler.take(sampler.num_positions - 1, sampler.num_positions)
        assert np.all((0 <= item) & (item < 10))


@CASES
def test_find_names_every_position_that_holds_a_record(
    case: tuple[Callable[[], Any], int, int | None],
) -> None:
    sequence = case[0]().sequence
    end = min(sequence.num_positions, 40)
    for epoch in (0,) if sequence.is_endless else (0, 1, 5):
        items = as_lists(sequence.gather(epoch, np.arange(end)))
        for record in range(11):
            holding = [
                position
                for position, item in enumerate(items)
                if record == item or (isinstance(item, list) and record in item)
            ]
            for start, stop in [(0, end), (0, 0), (end // 3, end - end // 4)]:
                found = sequence.find(epoch, record, start, stop)
                assert found.dtype == np.int64
                assert found.tolist() == [p for p in holding if start <= p < stop]


@CASES
def test_passes_have_the_shape_of_the_records(
    case: tuple[Callable[[], Any], int, int | None],
) -> None:
    sequence = case[0]().sequence
    end = min(sequence.num_positions, 40)
    positions = np.random.default_rng(0).permutation(end)
    for epoch in (0,) if sequence.is_endless else (0, 5):
        window = sequence.gather(epoch, positions)
        epochs = sequence.epochs_of(epoch, positions)
        assert type(epochs) is type(window)
        for item, passes in zip(window, epochs, strict=True):
            assert item.shape == passes.shape and passes.dtype == np.int64
            assert sequence.is_endless or (passes == epoch).all()


FROM_ELSEWHERE = {
    "foreign": "RandomSampler",
    "foreign, repeated": "RandomSampler",
    "foreign batches": "BatchesFromElsewhere",
    "somebody's own": "Reversed",
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_described_is_made_again_unless_it_is_from_elsewhere(name: str) -> None:
    sequence = SAMPLERS[name][0]().sequence
    arrays: list[Any] = []

    def keep(array: Any) -> str:
        arrays.append(array.copy())
        return str(len(arrays) - 1)

    def made_again() -> IndexSequence[Any]:
        return from_description(described, lambda name: arrays[int(name)])

    described = json.loads(json.dumps(describe(sequence, keep)))
    if name in FROM_ELSEWHERE:
        with pytest.raises(
            ValueError,
            match=f"^The stage {FROM_ELSEWHERE[name]} is none of trialrun's own, and only its name "
            r"is on record\.$",
        ):
            made_again()
        return
    again = made_again()
    assert type(again) is type(sequence)
    for fact in ("length", "num_positions", "is_endless", "stages", "records_per_item"):
        assert getattr(again, fact) == getattr(sequence, fact), fact
    assert (again.num_records, again.min_num_records) == (
        sequence.num_records,
        sequence.min_num_records,
    )
    end = min(sequence.num_positions, 40)
    for epoch in (0,) if sequence.is_endless else (0, 1, 5):
        for positions in (np.arange(end), sequence.num_positions - 1 - np.arange(min(end, 3))):
            expected = as_lists(sequence.gather(epoch, positions))
            assert as_lists(again.gather(epoch, positions)) == expected
