"""How the slots of a trial hand values to each other; ``context.distributed``."""

from __future__ import annotations

from typing import Any

from trialrun._engine import Engine

_PREFIX = "context.distributed."

CALLS = tuple(
    _PREFIX + name
    for name in (
        "gather",
        "gather_local",
        "allgather",
        "allgather_local",
        "broadcast",
        "broadcast_local",
    )
)
"""The calls at which slots wait for each other, by the names that errors give them."""


class Distributed:
    """The slots of a trial as one group of workers: who is executing, and what the others have.

    The workers are the logical slots, so nothing here depends on the number of processes. In
    ``train_batch`` every slot makes each call, as with ``step_optimizer``. Code that runs once in
    each process, ``__init__``, the ``build`` methods and callbacks, speaks for all slots of its
    process: ``rank`` is the first of them, each of them contributes the same value, and there are
    ``size`` values all the same. Anywhere else, such as in ``evaluate_batch``, which slots call
    unequally often, the calls are refused. A trial runs on one machine, so that the ``_local``
    calls do what the others do.

    Only plain data travels: None, booleans, numbers, strings, tensors, numpy arrays and numbers,
    and lists, tuples and dictionaries of them. Every slot gets copies of its own, tensors on the
    CPU and without a graph. This is for coordination: gradients are summed by ``step_optimizer``,
    metrics by reducers.

    Args:
        engine: Who executes the slots.
        num_slots: S.
    """

    def __init__(self, engine: Engine, num_slots: int) -> None:
        self._engine = engine
        self._num_slots = num_slots

    def __deepcopy__(self, memo: dict[int, Any]) -> Distributed:
        # A reducer that keeps it is copied for each slot; the group is the same.
        return self

    @property
    def rank(self) -> int:
        """The slot that is executing, 0 to ``size`` - 1."""
        return self._engine.slot

    @property
    def size(self) -> int:
        """The number of slots."""
        return self._num_slots

    @property
    def local_rank(self) -> int:
        """The slot that is executing, among those of this machine: all."""
        return self.rank

    @property
    def local_size(self) -> int:
        """The number of slots on this machine: all."""
        return self.size

    @property
    def cross_rank(self) -> int:
        """This machine among the machines of the trial: 0."""
        return 0

    @property
    def cross_size(self) -> int:
        """The number of machines of the trial: 1."""
        return 1

    def get_rank(self) -> int:
        """Returns ``rank``."""
        return self.rank

    def get_size(self) -> int:
        """Returns ``size``."""
        return self.size

    def get_local_rank(self) -> int:
        """Returns ``local_rank``."""
        return self.local_rank

    def get_num_agents(self) -> int:
        """Returns the number of machines of the trial: 1."""
        return self.cross_size

    def gather(self, obj: Any) -> list[Any] | None:
        """Collects one value from each slot.

        Args:
            obj: The executing slot's value, plain data.

        Returns:
            All values in slot order where ``rank`` is 0, None elsewhere.

        Raises:
            InvalidTrialError: Some slots make this call and others do not, or it is made where
                slots cannot meet.
            TrialrunError: The value is not plain data.
        """
        return self._gather(obj, "gather")

    def gather_local(self, obj: Any) -> list[Any] | None:
        """Does what ``gather`` does."""
        return self._gather(obj, "gather_local")

    def allgather(self, obj: Any) -> list[Any]:
        """Collects one value from each slot, and gives them to all.

        Args:
            obj: The executing slot's value, plain data.

        Returns:
            All values in slot order.

        Raises:
            InvalidTrialError: As with ``gather``.
            TrialrunError: The value is not plain data.
        """
        return self._exchange(obj, "allgather")

    def allgather_local(self, obj: Any) -> list[Any]:
        """Does what ``allgather`` does."""
        return self._exchange(obj, "allgather_local")

    def broadcast(self, obj: Any) -> Any:
        """Gives the value of slot 0 to all slots.

        Args:
            obj: Slot 0's value, plain data; what other slots give does not matter.

        Returns:
            Slot 0's value.

        Raises:
            InvalidTrialError: As with ``gather``.
            TrialrunError: The value is not plain data.
        """
        return self._broadcast(obj, "broadcast")

    def broadcast_local(self, obj: Any = None) -> Any:
        """Does what ``broadcast`` does."""
        return self._broadcast(obj, "broadcast_local")

    def _gather(self, obj: Any, name: str) -> list[Any] | None:
        values = self._engine.exchange(obj, _PREFIX + name, to_all=False)
        return values if self.rank == 0 else None

    def _exchange(self, obj: Any, name: str) -> list[Any]:
        values = self._engine.exchange(obj, _PREFIX + name, to_all=True)
        assert values is not None
        return values

    def _broadcast(self, obj: Any, name: str) -> Any:
        return self._exchange(obj if self.rank == 0 else None, name)[0]
