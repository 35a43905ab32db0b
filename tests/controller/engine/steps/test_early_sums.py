"""Sums that begin in a backward pass: the same bits, whatever the trial does instead."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from thread_collectives import ThreadCollectives, run_on_threads
from torch import nn

from trialrun.controller.engine.parallel.collectives import Collectives, SingleProcess
from trialrun.controller.engine.parallel.slots import Slots
from trialrun.controller.engine.steps.early_sums import EarlySums
from trialrun.controller.engine.steps.gradients import GradientSum

BATCHES = 6


@pytest.fixture(autouse=True)
def _small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    # A handful of buckets of 8 elements and fewer, which cut parameters in two.
    monkeypatch.setattr("trialrun.controller.engine.parallel.bucket_collectives._SENT_BYTES", 32)


class Turns(Slots):
    """Slots in turn, each as far as its step: what ``FoldedSlots`` does with threads."""

    def __init__(self, slots: range) -> None:
        super().__init__(slots)
        self._current = slots.start
        self._gradients: dict[int, list[torch.Tensor | None]] = {}

    @property
    def current(self) -> int:
        return self._current

    @contextlib.contextmanager
    def turn(self, slot: int, parameters: list[nn.Parameter]) -> Iterator[None]:
        """Gives the slot its own gradients meanwhile."""
        self._current = slot
        none = [None] * len(parameters)
        for parameter, gradient in zip(parameters, self._gradients.get(slot, none), strict=True):
            parameter.grad = gradient
        yield
        self._gradients[slot] = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None

    def clear(self) -> None:
        self._gradients = {}

    def run(self, task: object) -> list[object]:
        raise NotImplementedError

    def meet(self, label: str, action: object) -> None:
        raise NotImplementedError


@dataclasses.dataclass
class Found:
    """What a process has after each batch, and how it came by it."""

    gradients: list[list[list[float] | None]]
    num_early: int
    num_at_steps: int


class Process:
    """One of P, with a model of three layers and one or two optimizers.

    Args:
        collectives: The processes.
        num_slots: S.
        optimizers: For each the layers whose parameters it has.
    """

    def __init__(
        self, collectives: Collectives, num_slots: int, optimizers: tuple[range, ...]
    ) -> None:
        each = num_slots // collectives.size
        self.collectives = collectives
        self.num_slots = num_slots
        self.slots = Turns(range(collectives.rank * each, (collectives.rank + 1) * each))
        self.early = (
            None
            if collectives.early is None
            else EarlySums(collectives.early, self.slots, lambda: None)
        )
        self.layers = [nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)]
        generator = torch.Generator().manual_seed(3)  # of its own: processes are threads here
        for layer in self.layers:
            for parameter in layer.parameters():
                parameter.data = torch.randn(parameter.shape, generator=generator)
        self.parameters = [
            [p for index in layers for p in self.layers[index].parameters()]
            for layers in optimizers
        ]
        names = {p: "a parameter" for parameters in self.parameters for p in parameters}
        self.sums = [
            GradientSum(names, num_slots=num_slots, collectives=collectives, early=self.early)
            for _ in optimizers
        ]

    def loss(self, batch: int, slot: int) -> torch.Tensor:
        value = torch.sin(torch.arange(3.0) + 10 * batch + slot)
        for layer in self.layers:
            value = torch.tanh(layer(value))
        return value.sum() * 1000.0

    def backward(self, loss: torch.Tensor) -> None:
        if self.early is None:
            loss.backward()
            return
        with self.early.backward():
            loss.backward()

    def gradients(self) -> list[list[float] | None]:
        return [
            None if parameter.grad is None else parameter.grad.to_dense().flatten().tolist()
            for parameters in self.parameters
            for parameter in parameters
        ]


TrainBatch = Callable[[Process, int, int], Iterator[int]]
"""Called with a process, a batch and a slot; yields the optimizer at each step."""


def train(
    collectives: Collectives,
    train_batch: TrainBatch,
    num_slots: int,
    optimizers: tuple[range, ...] = (range(3),),
) -> Found:
    process = Process(collectives, num_slots, optimizers)
    found = Found([], 0, 0)
    everything = [p for layer in process.layers for p in layer.parameters()]
    for batch in range(BATCHES):
        turns = {slot: train_batch(process, batch, slot) for slot in process.slots.numbers}
        while True:
            steps = set()
            for slot, train_on in turns.items():
                with process.slots.turn(slot, everything):
                    step = next(train_on, None)
                    steps.add(step)
                    if step is not None:
                        process.sums[step].deposit(slot, process.parameters[step])
            (step,) = steps
            if step is None:
                break
            process.sums[step].assign(num_slots)
            found.gradients.append(process.gradients())
            for parameter in everything:
                parameter.grad = None
        process.slots.clear()
        if process.early is not None:
            process.early.end_batch()
    if process.early is not None:
        process.early.close()
        assert isinstance(collectives, ThreadCollectives)
        assert isinstance(collectives.early, ThreadCollectives)
        found.num_early = collectives.early.num_exchanges
        found.num_at_steps = collectives.num_exchanges
    return found


def both(
    train_batch: TrainBatch,
    size: int,
    num_slots: int = 4,
    optimizers: tuple[range, ...] = (range(3),),
) -> Found:
    """Asserts the bits of one process on P, and returns what the first of them did."""
    alone = train(SingleProcess(), train_batch, num_slots, optimizers)
    results = run_on_threads(
        size,
        lambda collectives: train(collectives, train_batch, num_slots, optimizers),
        sums_early=True,
    )
    for result in results:
        assert result.gradients == alone.gradients
    assert len({(result.num_early, result.num_at_steps) for result in results}) == 1
    return results[0]


def usual(process: Process, batch: int, slot: int) -> Iterator[int]:
    process.backward(process.loss(batch, slot))
    yield 0


@pytest.mark.parametrize(("size", "num_slots"), [(2, 2), (2, 4), (2, 6), (3, 6), (4, 4), (2, 10)])
def test_from_the_second_batch_on_all_is_summed_early(size: int, num_slots: int) -> None:
    found = both(usual, size, num_slots)
    assert found.num_at_steps > 1  # several buckets
    assert found.num_early == (BATCHES - 1) * found.num_at_steps


def test_buckets_are_handed_over_while_backward_computes_what_comes_before_them() -> None:
    handed_over: list[int] = []

    def train_batch(process: Process, batch: int, slot: int) -> Iterator[int]:
        if process.early is not None and process.collectives.rank == 0 and batch == 3:
            (expected,) = process.early._early
            # The first layer's gradients come after that.
            process.layers[1].weight.register_post_accumulate_grad_hook(
                lambda _: handed_over.append(expected._num_launched)
            )
        process.backward(process.loss(batch, slot))
        yield 0

    found = both(train_batch, 2, 2)
    num_buckets = found.num_early // (BATCHES - 1)
    assert len(handed_over) == 3  # in batches 3, 4, 5
    assert all(0 < number < num_buckets for number in handed_over)


def test_two_optimizers_after_one_pass_take_turns() -> None:
    def train_batch(process: Process, batch: int, slot: int) -> Iterator[int]:
        process.backward(process.loss(batch, slot))
        yield 0
        yield 1

    found = both(train_batch, 2, 4, (range(2), range(2, 3)))
    # The first step after the pass was summed early; the other, whose slots wait, at its step.
    assert 0 < found.num_early < (BATCHES - 1) * found.num_at_steps


def test_each_of_several_passes_has_its_step() -> None:
    def train_batch(process: Process, batch: int, slot: int) -> Iterator[int]:
        process.backward(process.loss(batch, slot))
        yield 0
        for layer in process.layers[2:]:
            layer.zero_grad()
        process.backward(process.loss(batch + 100, slot))
        yield 1

    found = both(train_batch, 2, 4, (range(2), range(2, 3)))
    assert found.num_early == (BATCHES - 1) * found.num_at_steps


def test_gradients_that_grow_in_another_pass_are_summed_again() -> None:
    def train_batch(process: Process, batch: int, slot: int) -> Iterator[int]:
        process.backward(process.loss(batch, slot))
        if batch == 3:
            process.backward(process.loss(batch + 100, slot))
        yield 0

    found = both(train_batch, 2)
    per_batch = found.num_early // 4
    # Early in batches 1, 2, 3 (in vain) and, learned anew in batch 4, in batch 5.
    assert found.num_early == 4 * per_batch
    assert found.num_at_steps == 3 * per_batch


def test_one_slot_may_change_its_gradients_between_the_pass_and_the_step() -> None:
    def train_batch(process: Process, batch: int, slot: int) -> Iterator[int]:
        process.backward(process.loss(batch, slot))
        if slot == 3 and batch == 2:
            weight = process.layers[1].weight
            assert weight.grad is not None
            weight.grad.mul_(2.0)
        if slot == 1 and batch == 4:
            process.layers[0].bias.grad = torch.ones(5)
        yield 0

    both(train_batch, 2)
    both(train_batch, 4)


@pytest.mark.parametrize("how", ["data", "numpy"])
def test_a_change_that_no_version_of_a_tensor_tells_of_is_noticed(how: str) -> None:
    def train_batch(process: Process, batch: int, slot: int) -> Iterator[int]:
        process.backward(process.loss(batch, slot))
        gradient = process.layers[1].weight.grad
        assert gradient is not None
        if batch > 0 and slot == 3:
            version = gradient._version
            if how == "data":
                gradient.data.clamp_(-1.0, 1.0)
            else:
                gradient.numpy()[2, 3] = -0.5
            assert gradient._version == version
        yield 0

    both(train_batch, 2)
    both(train_batch, 4)


def test_after_three_surprises_sums_wait_for_their_steps() -> None:
    def train_batch(process: Process, batch: int, slot: int) -> Iterator[int]:
        process.backward(process.loss(batch, slot))
        process.layers[0].bias.grad = torch.full((5,), float(batch))
        yield 0

    found = both(train_batch, 2)
    # Batches 1, 3 and 5 in vain.
    assert found.num_early == 3 * (found.num_at_steps // BATCHES)


def test_a_slot_without_a_pass_adds_zeros() -> None:
    def train_batch(process: Process, batch: int, slot: int) -> Iterator[int]:
        if (batch, slot) not in {(2, 1), (3, 3), (4, 0), (4, 1), (4, 2), (4, 3)}:
            process.backward(process.loss(batch, slot))
        yield 0

    both(train_batch, 2)
    both(train_batch, 4)


def test_a_parameter_that_some_slots_do_not_use_has_zeros_there() -> None:
    def train_batch(process: Process, batch: int, slot: int) -> Iterator[int]:
        value = torch.sin(torch.arange(3.0) + batch + slot)
        hidden = process.layers[0](value)
        if (batch + slot) % 3:
            hidden = process.layers[1](hidden)
        process.backward(process.layers[2](hidden).sum())
        yield 0

    both(train_batch, 2)
    both(train_batch, 4)


def test_a_batch_without_the_step_gives_up_what_was_begun() -> None:
    def train_batch(process: Process, batch: int, slot: int) -> Iterator[int]:
        process.backward(process.loss(batch, slot))
        if batch != 3:
            yield 0

    both(train_batch, 2)
    both(train_batch, 4)


def test_a_batch_that_nobody_learns_from_is_survived() -> None:
    def train_batch(process: Process, batch: int, slot: int) -> Iterator[int]:
        if batch not in {2, 4}:
            process.backward(process.loss(batch, slot))
            yield 0

    both(train_batch, 2)


def test_frozen_parameters_are_summed_no_more() -> None:
    def train_batch(process: Process, batch: int, slot: int) -> Iterator[int]:
        if slot == process.slots.numbers.start:
            process.layers[0].requires_grad_(batch < 2)
            process.parameters[0] = [
                p for layer in process.layers for p in layer.parameters() if p.requires_grad
            ]
        process.backward(process.loss(batch, slot))
        yield 0

    found = both(train_batch, 2)
    assert found.num_early > 0
    both(train_batch, 4)


def test_gradients_that_are_sparse_for_once_are_summed_at_the_step() -> None:
    def train_batch(process: Process, batch: int, slot: int) -> Iterator[int]:
        process.backward(process.loss(batch, slot))
        if batch == 3:
            weight = process.layers[1].weight
            assert weight.grad is not None
            weight.grad = weight.grad.to_sparse(1)
        yield 0

    both(train_batch, 2)
    both(train_batch, 4)
