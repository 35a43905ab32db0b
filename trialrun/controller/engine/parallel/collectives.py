"""What P processes do together; with one process nothing is sent and no process group exists."""

from __future__ import annotations

import abc
import contextlib
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import all_gather as torch_all_gather
from torch.distributed import all_to_all_single as torch_all_to_all_single
from torch.distributed import barrier as torch_barrier
from torch.distributed import broadcast as torch_broadcast
from torch.distributed import recv as torch_recv
from torch.distributed import send as torch_send

from trialrun.controller import plain
from trialrun.controller.engine.parallel.lines import Lines, PeerLostError
from trialrun.controller.engine.parallel.shared_memory import SharedMemory, share_memory

# torch 2.13 renamed it, and warns of the old name in every process.
_all_gather_flat = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class PendingGather(abc.ABC):
    """Integers of all processes that are under way while the caller goes on."""

    @abc.abstractmethod
    def result(self) -> list[list[int]]:
        """Waits for the other processes and returns what each has sent, in rank order.

        It is asked for once, and in the order in which the gatherings were started.
        """


class TensorCollectives(abc.ABC):
    """Exchanges of tensors, which all processes of a trial call in the same order."""

    rank: int
    """This process, 0 to ``size`` - 1."""
    size: int
    """P, the number of processes."""

    @abc.abstractmethod
    def all_to_all(
        self, chunks: torch.Tensor, receive_sizes: list[int], send_sizes: list[int]
    ) -> torch.Tensor:
        """Sends a stretch of ``chunks`` to each process and returns the stretches received.

        Args:
            chunks: One-dimensional, of sum(``send_sizes``) elements in order of receiver.
            receive_sizes: Elements that each process sends here.
            send_sizes: Elements that go to each process.

        Returns:
            One-dimensional, of sum(``receive_sizes``) elements in order of sender.
        """

    @abc.abstractmethod
    def all_gather(self, chunk: torch.Tensor) -> torch.Tensor:
        """Returns the one-dimensional chunks of all processes, of equal size, end to end."""


class Collectives(TensorCollectives):
    """Operations that all processes of a trial call in the same order.

    Objects travel as plain data (``controller.plain``): no code is unpickled from a socket.
    """

    shared_memory: SharedMemory | None = None
    """Where processes sum what is on the CPU, if they share memory."""
    early: TensorCollectives | None = None
    """A second way for tensors, on which another order may be kept; None where waiting for
    others costs nothing, as in memory that processes share."""

    def close(self) -> None:  # noqa: B027 - one process has nothing to close
        """Takes down what was set up besides torch's own groups."""

    def leave(self) -> None:  # noqa: B027 - one process has joined nobody
        """Takes down torch's group for objects; after ``close``, where no process was lost."""

    @property
    def is_chief(self) -> bool:
        """Whether this process writes checkpoints and records."""
        return self.rank == 0

    @abc.abstractmethod
    def gather(self, value: Any, name: str) -> list[Any] | None:
        """Collects one plain value from each process.

        Args:
            value: This process's value.
            name: What it is called in an error.

        Returns:
            All values in rank order on the chief, None elsewhere.
        """

    @abc.abstractmethod
    def broadcast(self, value: Any, name: str) -> Any:
        """Returns the chief's plain value on every process."""

    @abc.abstractmethod
    def broadcast_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        """Overwrites the tensors of every process with the chief's."""

    @abc.abstractmethod
    def start_gather(self, values: Sequence[int]) -> PendingGather:
        """Starts to send integers, equally many from each, to all processes; returns at once."""


class _OwnValues(PendingGather):
    def __init__(self, values: Sequence[int]) -> None:
        self._values = list(values)

    def result(self) -> list[list[int]]:
        return [self._values]


class SingleProcess(Collectives):
    """P = 1: every slot is folded into this process."""

    rank = 0
    size = 1

    def gather(self, value: Any, name: str) -> list[Any]:
        """Returns the value alone."""
        return [plain.restore(plain.snapshot(value, name))]

    def broadcast(self, value: Any, name: str) -> Any:
        """Returns the value, copied as it would arrive elsewhere."""
        return plain.restore(plain.snapshot(value, name))

    def broadcast_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        """Does nothing: the tensors are the chief's."""

    def start_gather(self, values: Sequence[int]) -> PendingGather:
        """Returns the values themselves."""
        return _OwnValues(values)

    def all_to_all(
        self, chunks: torch.Tensor, receive_sizes: list[int], send_sizes: list[int]
    ) -> torch.Tensor:
        """Returns the chunks."""
        return chunks

    def all_gather(self, chunk: torch.Tensor) -> torch.Tensor:
        """Returns the chunk."""
        return chunk


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Tells the loss of a peer from errors of the trial's own code."""
    try:
        yield
    except (RuntimeError, OSError) as error:  # torch.distributed's, whatever the backend; a line's
        raise PeerLostError(error) from error


class _LinesGather(PendingGather):
    def __init__(self, values: Sequence[int], rank: int, lines: Lines) -> None:
        self._values = list(values)
        self._rank = rank
        self._lines = lines
        lines.send(self._values)

    def result(self) -> list[list[int]]:
        rows = self._lines.receive(len(self._values))
        rows[self._rank] = self._values
        return [rows[rank] for rank in sorted(rows)]


class _GroupTensors(TensorCollectives):
    """Tensors over one group of ``torch.distributed``.

    Args:
        device: Where they travel; those on another device are moved there and back.
        group: The group; None: the default one.
    """

    def __init__(self, device: torch.device, group: dist.ProcessGroup | None) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self.group = group
        self._device = device

    def all_to_all(
        self, chunks: torch.Tensor, receive_sizes: list[int], send_sizes: list[int]
    ) -> torch.Tensor:
        """Exchanges stretches with every process."""
        sent = chunks.to(self._device)
        received = sent.new_empty(sum(receive_sizes))
        with _together():
            torch_all_to_all_single(received, sent, receive_sizes, send_sizes, group=self.group)
        return received.to(chunks.device)

    def all_gather(self, chunk: torch.Tensor) -> torch.Tensor:
        """Collects the chunks of all processes."""
        sent = chunk.to(self._device)
        gathered = sent.new_empty(self.size * sent.numel())
        with _together():
            _all_gather_flat(gathered, sent, group=self.group)
        return gathered.to(chunk.device)


class ProcessGroup(Collectives):
    """P > 1 over ``torch.distributed``: tensors by the device's backend, the rest by gloo.

    Args:
        device: Where gradients travel; the default group's backend serves it (gloo on the CPU, nccl
            on CUDA). Those of a model that is spread over more devices are moved there and back.
            The default group must be initialized.
        shares_memory: Whether processes may sum in memory that they share, where they can.
    """

    def __init__(self, device: torch.device, *, shares_memory: bool = True) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._device = device
        # Objects have a group of their own on the CPU, and small integers lines of their own: so
        # one that is under way never stands between two steps of a reduction, and reading it never
        # waits for the GPU.
        self._host_group = dist.new_group(backend="gloo")
        self._lines = self._new_lines()
        if device.type == "cpu" and shares_memory:
            # Lines of its own: an announcement may be under way on the others.
            lines = self._new_lines()
            self.shared_memory = share_memory(lines, rank=self.rank, size=self.size)
            if self.shared_memory is None:
                lines.close()
        self._tensors = _GroupTensors(device, None)
        self._early: _GroupTensors | None = None
        # On the cores of one machine, which all compute, there is nothing to win.
        if device.type != "cpu" or not shares_memory:
            self.early = self._early = _GroupTensors(device, dist.new_group())

    def _new_lines(self) -> Lines:
        with _together():
            return Lines(
                self.rank,
                self.size,
                name=self.broadcast(uuid.uuid4().hex, "name of the lines"),
                barrier=lambda: torch_barrier(group=self._host_group),
            )

    def close(self) -> None:
        """Takes the lines down."""
        self._lines.close()
        if self.shared_memory is not None:
            self.shared_memory.close()

    def leave(self) -> None:
        """Ends the threads of the group for objects.

        A group that lived on to the interpreter's end could call into it when it is no more.
        """
        if dist.is_initialized():  # else the script has ended its group, and all others with it
            dist.destroy_process_group(self._host_group)
            if self._early is not None:
                dist.destroy_process_group(self._early.group)
        del self._host_group
        self.early = self._early = None

    def gather(self, value: Any, name: str) -> list[Any] | None:
        """Collects one plain value from each process, on the chief."""
        data = plain.encode(value, name)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with _together():
            torch_all_gather(sizes, torch.tensor([data.numel()]), group=self._host_group)
        if not self.is_chief:
            with _together():
                torch_send(data, dst=0, group=self._host_group)
            return None
        received = [data]
        for rank in range(1, self.size):
            # Each in its own length: slots may have collected very unequally.
            received.append(torch.empty(int(sizes[rank]), dtype=torch.uint8))
            with _together():
                torch_recv(received[-1], src=rank, group=self._host_group)
        return [plain.decode(data) for data in received]

    def broadcast(self, value: Any, name: str) -> Any:
        """Returns the chief's plain value on every process."""
        data = plain.encode(value, name) if self.is_chief else torch.empty(0, dtype=torch.uint8)
        size = torch.tensor([data.numel()])
        with _together():
            torch_broadcast(size, src=0, group=self._host_group)
            if not self.is_chief:
                data = torch.empty(int(size), dtype=torch.uint8)
            torch_broadcast(data, src=0, group=self._host_group)
        return plain.decode(data)

    def broadcast_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        """Overwrites the tensors of every process with the chief's, one message for each type."""
        by_type: dict[torch.dtype, list[torch.Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        for group in by_type.values():
            # As bytes: gloo knows no broadcast of some types, such as bool.
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in group]).to(self._device)
            with _together():
                torch_broadcast(flat.view(torch.uint8), src=0)
            offset = 0
            for tensor in group:
                piece = flat[offset : offset + tensor.numel()]
                tensor.detach().copy_(piece.view(tensor.shape))
                offset += tensor.numel()

    def start_gather(self, values: Sequence[int]) -> PendingGather:
        """Sends the integers over lines of their own."""
        return _LinesGather(values, self.rank, self._lines)

    def all_to_all(
        self, chunks: torch.Tensor, receive_sizes: list[int], send_sizes: list[int]
    ) -> torch.Tensor:
        """Exchanges stretches with every process."""
        return self._tensors.all_to_all(chunks, receive_sizes, send_sizes)

    def all_gather(self, chunk: torch.Tensor) -> torch.Tensor:
        """Collects the chunks of all processes."""
        return self._tensors.all_gather(chunk)
