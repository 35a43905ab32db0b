"""What each slot has for itself while several share a process: gradients, buffers, reducers, draws.

With one slot in a process only reducers are swapped, between training and validation. Buffers
(BatchNorm's statistics): every slot of a batch starts from the same values, and after the batch
slot 0's are everybody's. Gradients that no step has cleared stay for the slot's next batch, as in
any loop; so a checkpoint holds them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch

from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.randomness import Generators, GeneratorStates
from trialrun.controller.engine.reports.reducers import Phase, SlotReducers

BufferValues = dict[tuple[int, str], torch.Tensor]
"""For each (module, name) the value of a buffer."""


class ModelBuffers:
    """The buffers of all models, looked up anew each time: a module may replace a buffer."""

    def __init__(self, models: Sequence[torch.nn.Module]) -> None:
        # A shared module is visited once; one without buffers never again.
        self._modules = list(
            dict.fromkeys(
                module for model in models for module in model.modules() if module._buffers
            )
        )

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from self._by_place().values()

    def are_shared(self, collectives: Collectives) -> bool:
        """Returns whether there are any, and several processes that have them."""
        return bool(self._modules) and collectives.size > 1

    def share(self, collectives: Collectives) -> None:
        """Gives the chief's buffers, which are slot 0's, to every process."""
        collectives.broadcast_tensors(list(self))

    def copy(self) -> BufferValues:
        """Returns the values in memory of their own."""
        return {place: buffer.clone() for place, buffer in self._by_place().items()}

    def set(self, values: BufferValues) -> None:
        """Writes values into the buffers in place; one that a module has made since stays."""
        for place, buffer in self._by_place().items():
            if place in values:
                # Behind autograd's back: a graph that a slot made before it had to wait finds the
                # same values again, but would refuse buffers that have been written since.
                buffer.data.copy_(values[place])

    @contextlib.contextmanager
    def of_slot_0(
        self, waiting: Sequence[BufferValues], collectives: Collectives
    ) -> Iterator[None]:
        """Installs slot 0's values for code that runs once in each process for all its slots.

        What it changes is changed for all slots; what it leaves as it is each slot keeps for
        itself. So the number of processes decides neither what it sees nor what it does.

        Args:
            waiting: The values of slots in this process that wait, the first slot's first.
            collectives: The processes, all of which do this.
        """
        if not self._modules or not (waiting or collectives.size > 1):
            yield
            return
        own = self.copy()
        if waiting:
            self.set(waiting[0])
        if collectives.size > 1:
            self.share(collectives)
        before = self.copy()
        yield
        changed = {
            place: value
            for place, value in self.copy().items()
            if place not in before or not _are_equal(value, before[place])
        }
        for values in (*waiting, own):
            values.update(changed)
        self.set(own)

    def _by_place(self) -> BufferValues:
        return {
            (index, name): buffer
            for index, module in enumerate(self._modules)
            for name, buffer in module._buffers.items()
            if buffer is not None
        }


class FoldedSlotState:
    """Swaps what folded slots have for themselves as the baton goes from one to the next.

    Args:
        slots: The slots of this process.
        models: The wrapped models.
        buffers: Their buffers.
        reducers: What the reducers have collected.
        generators: The process's random generators.
    """

    def __init__(
        self,
        slots: range,
        models: Sequence[torch.nn.Module],
        buffers: ModelBuffers,
        reducers: SlotReducers,
        generators: Generators,
    ) -> None:
        self._generators = generators
        self._parameters = _parameters(models)
        self._buffers = buffers
        self._reducers = reducers
        self._first_slot = slots.start
        self._gradients: dict[int, list[torch.Tensor | None]] = {
            slot: [None] * len(self._parameters) for slot in slots
        }
        self._draws: dict[int, GeneratorStates] = {}
        self._slot_buffers: dict[int, BufferValues] = {}
        self._common_buffers: BufferValues = {}

    def begin_batch(self) -> None:
        """Makes the present buffers those from which every slot starts."""
        self._draws = {}
        self._slot_buffers = {}
        self._common_buffers = self._buffers.copy()

    def end_batch(self) -> None:
        """Installs the first slot's buffers; with slot 0 in this process they are everybody's."""
        self._buffers.set(self._slot_buffers[self._first_slot])
        self._set_gradients([None] * len(self._parameters))

    def enter(self, slot: int) -> None:
        """Installs the slot's gradients, buffers, reducer contents and place among its draws."""
        self._set_gradients(self._gradients[slot])
        self._reducers.enter(Phase.TRAINING, slot)
        self._buffers.set(self._slot_buffers.get(slot, self._common_buffers))
        if slot in self._draws:
            self._generators.restore(self._draws[slot])

    def leave(self, slot: int, finished: bool) -> None:
        """Keeps them for the slot."""
        self._gradients[slot] = [parameter.grad for parameter in self._parameters]
        if not finished:
            self._draws[slot] = self._generators.save()
        if not finished or slot == self._first_slot:
            self._slot_buffers[slot] = self._buffers.copy()

    def buffers_of_slot_0(
        self, collectives: Collectives
    ) -> contextlib.AbstractContextManager[None]:
        """Shows slot 0's buffers to code that runs for all slots, all of which have come there."""
        first = self._slot_buffers[self._first_slot]
        others = [values for values in self._slot_buffers.values() if values is not first]
        return self._buffers.of_slot_0([first, *others], collectives)

    def gradients(self, slot: int) -> dict[int, torch.Tensor]:
        """Returns what the slot has left in ``grad``, by the parameter's number."""
        return _present(self._gradients[slot])

    def load_gradients(self, slot: int, gradients: Mapping[int, torch.Tensor]) -> None:
        """Takes up what ``gradients`` returned."""
        self._gradients[slot] = _on_devices(gradients, self._parameters)

    def add_gradients(
        self, slot: int, gradients: Mapping[torch.nn.Parameter, torch.Tensor]
    ) -> None:
        """Adds to what the slot has left in ``grad``."""
        self._gradients[slot] = [
            _added(gradients.get(parameter), own)
            for parameter, own in zip(self._parameters, self._gradients[slot], strict=True)
        ]

    def _set_gradients(self, gradients: Sequence[torch.Tensor | None]) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient


class SingleSlotState:
    """One slot in the process: all but the reducers simply stays where it is.

    Args:
        slot: The slot.
        models: The wrapped models.
        buffers: Their buffers.
        reducers: What the reducers have collected.
    """

    def __init__(
        self,
        slot: int,
        models: Sequence[torch.nn.Module],
        buffers: ModelBuffers,
        reducers: SlotReducers,
    ) -> None:
        self._slot = slot
        self._parameters = _parameters(models)
        self._buffers = buffers
        self._reducers = reducers

    def begin_batch(self) -> None:
        """Takes the reducers back from validation."""
        self._reducers.enter(Phase.TRAINING, self._slot)

    def end_batch(self) -> None:
        """Does nothing."""

    def enter(self, slot: int) -> None:
        """Does nothing."""

    def leave(self, slot: int, finished: bool) -> None:
        """Does nothing."""

    def buffers_of_slot_0(
        self, collectives: Collectives
    ) -> contextlib.AbstractContextManager[None]:
        """Shows slot 0's buffers to code that runs for all slots, all of which have come there."""
        return self._buffers.of_slot_0([], collectives)

    def gradients(self, slot: int) -> dict[int, torch.Tensor]:
        """Returns what the slot has left in ``grad``, by the parameter's number."""
        return _present([parameter.grad for parameter in self._parameters])

    def load_gradients(self, slot: int, gradients: Mapping[int, torch.Tensor]) -> None:
        """Takes up what ``gradients`` returned."""
        loaded = _on_devices(gradients, self._parameters)
        for parameter, gradient in zip(self._parameters, loaded, strict=True):
            parameter.grad = gradient

    def add_gradients(
        self, slot: int, gradients: Mapping[torch.nn.Parameter, torch.Tensor]
    ) -> None:
        """Adds to what the slot has left in ``grad``."""
        for parameter, gradient in gradients.items():
            parameter.grad = _added(gradient, parameter.grad)


def _added(first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    # A sparse one comes second, if any: torch adds it to a dense one, not the other way round.
    return second + first if first.is_sparse else first + second


def _are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _parameters(models: Sequence[torch.nn.Module]) -> list[torch.nn.Parameter]:
    return list(dict.fromkeys(parameter for model in models for parameter in model.parameters()))


def _present(gradients: Sequence[torch.Tensor | None]) -> dict[int, torch.Tensor]:
    return {index: grad for index, grad in enumerate(gradients) if grad is not None}


def _on_devices(
    gradients: Mapping[int, torch.Tensor], parameters: Sequence[torch.nn.Parameter]
) -> list[torch.Tensor | None]:
    loaded: list[torch.Tensor | None] = [None] * len(parameters)
    for index, gradient in gradients.items():
        loaded[index] = gradient.to(parameters[index].device)
    return loaded
