"""Sums begin while backward still computes: as gradients become ready, on a thread of their own.

    backward   | ... layer 3 | layer 2   | layer 1   | step_optimizer
    thread                   | sum of 3's bucket     | 2's       | 1's |

It is for processes that share no memory, such as those of GPUs: there a sum is mostly waiting. What
is summed and in which order does not change, only when it begins; so the bits do not either.

Nobody says in a backward pass that it is the last before a step. So it is learned: an optimizer
that stepped after the n-th pass of a batch, in every process, is expected to do so in the next one.
Its sums then begin in pass n of the process's last slot. Where a gradient has changed since, the
processes learn that with the next message that they exchange anyway, and add again as usual.

Every process must exchange the same buckets in the same order, or all wait for ever. The order is
that of the passes. A process that did not come to pass n begins with it when the optimizer steps,
and what nobody has asked for by the end of a batch is exchanged all the same and thrown away.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from trialrun.controller.engine.parallel.bucket_collectives import ThroughCollectives
from trialrun.controller.engine.parallel.buckets import Bucket
from trialrun.controller.engine.parallel.collectives import TensorCollectives
from trialrun.controller.engine.parallel.slots import Slots
from trialrun.controller.engine.steps.gradient_vectors import (
    LastSummand,
    Segment,
    Summand,
    flat,
    owned_memory,
    write_flats,
)
from trialrun.controller.engine.steps.reduction import Share

if TYPE_CHECKING:
    from trialrun.controller.engine.steps.gradients import GradientGroup, GradientSum

_MOST_SURPRISES = 3
"""After so many wrong expectations an optimizer is summed in its steps alone."""


class Note(NamedTuple):
    """What a process tells the others as it steps."""

    backward_pass: int
    """The pass of this batch that has just ended, if this is the first step after it; else 0."""
    is_void: int
    """1: gradients have changed since they were summed."""


class EarlySums:
    """What is summed early, for all optimizers of a process.

    Args:
        tensors: Between the processes, for nothing else.
        slots: The slots of this process.
        prepare_thread: Called first in a new thread.
    """

    def __init__(
        self, tensors: TensorCollectives, slots: Slots, prepare_thread: Callable[[], None]
    ) -> None:
        self._exchange = ThroughCollectives(tensors)
        self._slots = slots
        self._sender = _Sender(prepare_thread)
        self._num_passes = 0
        self._is_first_step = False
        # By their backward pass; on all processes the same, from one batch to the next.
        self._early: list[EarlySum] = []
        self._from_next_batch: list[EarlySum] = []
        self._surprises: dict[GradientSum, int] = {}

    @contextlib.contextmanager
    def backward(self) -> Iterator[None]:
        """Within it the executing slot computes gradients."""
        if self._slots.current != self._slots.numbers[-1]:
            yield
            return
        self._num_passes += 1
        self._launch_before(self._num_passes)
        for early in self._early:
            if early.backward_pass == self._num_passes:
                early.begin()
        yield
        self._launch_before(self._num_passes + 1)
        self._is_first_step = True

    def note(self, gradients: GradientSum, *, has_others: bool) -> Note:
        """Waits for what was begun of an optimizer; called as its last slot puts in gradients.

        Args:
            gradients: Of the optimizer.
            has_others: Whether its parameters are others than before.
        """
        early = self._find(gradients)
        is_void = False
        if early is not None and not early.was_asked_for:
            early.was_asked_for = True
            self._launch_before(early.backward_pass + 1)
            self._sender.wait()
            is_void = has_others or early.is_outdated or not early.is_true()
        backward_pass = self._num_passes if self._is_first_step else 0
        self._is_first_step = False
        return Note(backward_pass, is_void)

    def totals(
        self,
        gradients: GradientSum,
        notes: Sequence[Note],
        *,
        divisor: int | None,
        is_dense: bool,
    ) -> EarlySum | None:
        """Returns what was summed early, where it can be used; and learns for the next batch.

        All processes call it, with the same notes.

        Args:
            gradients: Of the optimizer that steps.
            notes: Of all processes.
            divisor: Of the sums; None: they are added to later ones.
            is_dense: Whether no gradient is, or was, sparse on any process.
        """
        early = self._find(gradients)
        if early is None:
            if is_dense and divisor is not None:
                self._expect(gradients, notes, divisor)
            return None
        if early.is_used or early.divisor != divisor:
            return None
        early.is_used = True
        if any(note.is_void for note in notes):
            self._give_up(early)
            return None
        return early

    def end_batch(self) -> None:
        """Exchanges what other processes may have begun, though no step has asked for it."""
        self._num_passes = 0
        self._is_first_step = False
        unused = [early for early in self._early if not early.is_used]
        if unused:
            self._launch_before(None)
            self._sender.wait()
            for early in unused:
                self._give_up(early)
        for early in self._early:
            early.reset()
        if self._from_next_batch:
            self._early = sorted(
                [*self._early, *self._from_next_batch], key=lambda early: early.backward_pass
            )
            self._from_next_batch = []

    def close(self) -> None:
        """Begins with nothing more."""
        for early in (*self._early, *self._from_next_batch):
            early.close()
        self._early, self._from_next_batch = [], []
        self._sender.close()

    def _find(self, gradients: GradientSum) -> EarlySum | None:
        return next((early for early in self._early if early.gradients is gradients), None)

    def _launch_before(self, backward_pass: int | None) -> None:
        for early in self._early:
            if backward_pass is None or early.backward_pass < backward_pass:
                early.launch()

    def _expect(self, gradients: GradientSum, notes: Sequence[Note], divisor: int) -> None:
        passes = {note.backward_pass for note in notes}
        backward_pass = notes[0].backward_pass
        expected = [*self._early, *self._from_next_batch]
        if (
            len(passes) == 1
            and backward_pass > 0
            and all(early.backward_pass != backward_pass for early in expected)
            and all(early.gradients is not gradients for early in expected)
            and self._surprises.get(gradients, 0) < _MOST_SURPRISES
        ):
            self._from_next_batch.append(
                EarlySum(gradients, backward_pass, divisor, self._exchange, self._sender)
            )

    def _give_up(self, early: EarlySum) -> None:
        self._surprises[early.gradients] = self._surprises.get(early.gradients, 0) + 1
        early.close()
        self._early.remove(early)


class EarlySum:
    """The buckets of one optimizer, the last parameters' first: backward comes to them first.

    Args:
        gradients: Of the optimizer.
        backward_pass: In which pass of a batch they become ready: 1, 2, ...
        divisor: Of the sums.
        exchange: Moves them.
        sender: Where they are moved.
    """

    was_asked_for: bool
    """Whether this process has come to the step."""
    is_used: bool
    """Whether all processes have."""

    def __init__(
        self,
        gradients: GradientSum,
        backward_pass: int,
        divisor: int,
        exchange: ThroughCollectives,
        sender: _Sender,
    ) -> None:
        self.gradients = gradients
        self.backward_pass = backward_pass
        self.divisor = divisor
        self._exchange = exchange
        self._sender = sender
        self._launching = threading.Lock()
        self._groups = list(gradients.groups)
        self._buckets = [
            _EarlyBucket(group, index, divisor)
            for group in reversed(self._groups)
            for index in reversed(range(len(group.buckets)))
        ]
        self._of_parameter: dict[torch.nn.Parameter, list[_EarlyBucket]] = {}
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                self._of_parameter.setdefault(parameter, []).append(bucket)
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._is_ready)  # type: ignore[no-untyped-call]
            for parameter in self._of_parameter
        ]
        self.reset()

    def reset(self) -> None:
        """Forgets the batch."""
        self.was_asked_for = self.is_used = False
        self._is_in_pass = False
        self._summands: dict[GradientGroup, list[Summand]] = {}
        self._num_launched = 0
        self.release()

    @property
    def is_outdated(self) -> bool:
        """Whether the optimizer's parameters are others now."""
        return self._groups != self.gradients.groups

    def begin(self) -> None:
        """Its pass begins: from here on buckets are launched as they become ready."""
        self._is_in_pass = self._can_begin()

    def launch(self) -> None:
        """Launches all that are left, with the gradients that there are."""
        self._is_in_pass = False
        while self._num_launched < len(self._buckets):
            self._launch_next()

    def is_true(self) -> bool:
        """Returns whether what was summed is what the slot's gradients are now."""
        return all(bucket.is_true() for bucket in self._buckets)

    def totals_of(self, group: GradientGroup) -> list[torch.Tensor]:
        """Returns the averages of a group's buckets, in the order of its vector."""
        totals = [bucket.total for bucket in self._buckets if bucket.group is group]
        assert all(total is not None for total in totals)
        return totals[::-1]  # type: ignore[return-value]  # none of them is None

    def release(self) -> None:
        """Lets go of the gradients and their sums, which may be large."""
        for bucket in self._buckets:
            bucket.reset()

    def close(self) -> None:
        """Hears of no gradient any more."""
        for hook in self._hooks:
            hook.remove()

    def _can_begin(self) -> bool:
        """Whether this slot's gradients are all that is missing."""
        return not self.is_outdated and self.gradients.awaits_last_slot

    def _is_ready(self, parameter: torch.nn.Parameter) -> None:
        if not self._is_in_pass:
            return
        # Of a model that is spread over devices, autograd computes on a thread for each.
        with self._launching:
            for bucket in self._of_parameter[parameter]:
                bucket.num_missing -= 1
            # In one order on all processes, in whichever the gradients come.
            while (
                self._num_launched < len(self._buckets)
                and self._buckets[self._num_launched].num_missing <= 0
            ):
                self._launch_next()

    def _launch_next(self) -> None:
        bucket = self._buckets[self._num_launched]
        self._num_launched += 1
        if self._can_begin():
            bucket.take_gradients(self._summands)
        self._sender.submit(bucket, self._exchange)


class _EarlyBucket(Bucket):
    """A bucket of a group's vector, with the last slot's gradients where backward has put them.

    Args:
        group: The group.
        index: Of the bucket in it.
        divisor: Of the sums.
    """

    total: torch.Tensor | None
    """The averages over all slots, when it is done."""
    num_missing: int
    """Parameters whose gradients are not ready."""

    def __init__(self, group: GradientGroup, index: int, divisor: int) -> None:
        segment: Segment = group.segments[index]
        super().__init__(segment.stop - segment.start)
        self.group = group
        self.parameters = [group.parameters[piece.place] for piece in segment.pieces]
        self.num_rows = group.share.num_rows
        self._segment = segment
        self._share: Share = group.share
        self._divisor = divisor
        self.reset()

    @property
    def like(self) -> torch.Tensor:
        """Some tensor of its type, on its device."""
        return self.parameters[0].detach()

    def reset(self) -> None:
        self.total = None
        self.num_missing = len(self.parameters)
        self._waiting: list[Summand] = []
        self._taken: torch.Tensor | None = None

    def take_gradients(self, summands: dict[GradientGroup, list[Summand]]) -> None:
        """Copies the gradients as they are, for ``pack``.

        Args:
            summands: For each group what this process sends, where it is known; shared by buckets.
        """
        self._taken = taken = self._gradients()
        if taken is None:
            return
        if self.group not in summands:
            summands[self.group] = self.group.summands_with(LastSummand())
        self._waiting = [
            each.with_elements(taken) if isinstance(each, LastSummand) else each
            for each in summands[self.group]
        ]

    def is_true(self) -> bool:
        """Whether the gradients are, bit by bit, those that were copied.

        A tensor's version does not tell: what is written through ``data`` or numpy leaves it.
        """
        if self._taken is None:
            return False
        now = self._gradients()
        return now is not None and torch.equal(now.view(torch.uint8), self._taken.view(torch.uint8))

    def _gradients(self) -> torch.Tensor | None:
        """Returns a copy of the gradients, end to end; None: one is sparse."""
        gradients = [parameter.grad for parameter in self.parameters]
        if any(each is not None and each.is_sparse for each in gradients):
            return None
        orders = [self.group.orders[piece.place] for piece in self._segment.pieces]
        owned = owned_memory(gradients, self.parameters, orders)
        elements = self.like.new_empty(self.length)
        flats = [None if gradient is None else flat(gradient) for gradient in owned]
        write_flats(self._segment, flats, elements)
        return elements

    def pack(self, rows: Sequence[torch.Tensor]) -> None:
        """Writes this process's nodes; zeros where it has nothing to say."""
        if not self._waiting:
            for row in rows:
                row.zero_()
            return
        for row, summand in zip(rows, self._waiting, strict=True):
            summand.write(self._segment, row)

    def add(self, rows: Sequence[torch.Tensor], total: torch.Tensor) -> None:
        """Adds a chunk along the tree."""
        torch.div(self._share.add_up(rows, torch.Tensor.add_), self._divisor, out=total)

    def unpack(self, total: torch.Tensor) -> None:
        """Keeps the averages until the step, which may still find them void."""
        self.total = total


class _Sender:
    """The thread on which buckets are exchanged, one after the other.

    Args:
        prepare_thread: Called first in it.
    """

    def __init__(self, prepare_thread: Callable[[], None]) -> None:
        self._prepare_thread = prepare_thread
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def submit(self, bucket: _EarlyBucket, exchange: ThroughCollectives) -> None:
        """Exchanges a bucket when those before it are done."""
        if self._thread is None:
            # It may wait for a process that is gone, and must then not keep this one alive.
            self._thread = threading.Thread(target=self._serve, name="early-sums", daemon=True)
            self._thread.start()
        device = bucket.like.device
        ready = None
        if device.type == "cuda":
            # Of the stream that computes gradients, which is not the sender's.
            ready = torch.cuda.current_stream(device).record_event()
        self._jobs.put(lambda: self._exchange(bucket, exchange, ready))

    def wait(self) -> None:
        """Returns when all is exchanged; on a GPU, when what follows will find it so.

        Raises:
            PeerLostError: A process is gone.
        """
        if self._thread is None:
            return
        done = threading.Event()
        self._jobs.put(done.set)
        done.wait()
        for device, stream in self._streams.items():
            torch.cuda.current_stream(device).wait_stream(stream)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Ends the thread when all is exchanged."""
        if self._thread is not None:
            self._jobs.put(None)

    def _serve(self) -> None:
        try:
            self._prepare_thread()
        except BaseException as failure:  # told where it is waited for
            self._failure = failure
        while (job := self._jobs.get()) is not None:
            job()

    def _exchange(
        self,
        bucket: _EarlyBucket,
        exchange: ThroughCollectives,
        ready: torch.cuda.Event | None,
    ) -> None:
        if self._failure is not None:
            return
        try:
            with torch.no_grad(), self._stream(bucket.like.device, ready):
                exchange.run([bucket], num_rows=bucket.num_rows, like=bucket.like)
        except BaseException as failure:  # told where it is waited for
            self._failure = failure

    @contextlib.contextmanager
    def _stream(self, device: torch.device, ready: torch.cuda.Event | None) -> Iterator[None]:
        if ready is None:
            yield
            return
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream = self._streams[device]
        stream.wait_event(ready)
        with torch.cuda.stream(stream):
            yield
