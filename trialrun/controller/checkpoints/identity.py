"""What a run is: the facts of which its bits are a function, compared when it is resumed."""

from __future__ import annotations

import dataclasses
from typing import Any

from trialrun._errors import CheckpointError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """The facts that decide a run's numbers, besides the trial's own code and data.

    Args:
        seed: Of the trial.
        dataset_length: Records in the training data, if that is known.
        pass_length: Records in one pass over it, or batches where a batch sampler decides.
        record_order: The sampler chain that orders them, or the loader that decides.
        global_batch_size: Records in a batch over all slots.
        num_slots: S.
        aggregation_frequency: Batches in an aggregation window.
        shuffle_version: Version of the shuffle algorithm.
        sum_version: Version of the order in which gradients are added.
        device_type: ``cpu`` or ``cuda``.
        device_name: The GPU's model, or the CPU's vector instructions that torch uses.
        intra_op_threads: Threads with which one slot computes on the CPU.
        torch_version: As torch says it.
    """

    seed: int
    dataset_length: int | None
    pass_length: int | None
    record_order: str
    global_batch_size: int | None
    num_slots: int
    aggregation_frequency: int
    shuffle_version: int
    sum_version: int
    device_type: str
    device_name: str
    intra_op_threads: int
    torch_version: str

    def to_json(self) -> dict[str, Any]:
        """Returns the facts as JSON data."""
        return dataclasses.asdict(self)

    def differences(self, recorded: dict[str, Any]) -> list[str]:
        """Compares with the identity that a checkpoint recorded.

        Returns:
            A sentence for each difference that may change the last digits but not the run.

        Raises:
            CheckpointError: A fact differs without which it is another run; the message names each
                with both values.
        """
        differing = {
            name: (recorded.get(name), value)
            for name, value in self.to_json().items()
            if recorded.get(name) != value
        }
        refused = {name: values for name, values in differing.items() if name not in _MAY_DIFFER}
        if refused:
            facts = "; ".join(
                f"{_NAMES[name]} was {before!r} and is now {now!r}"
                for name, (before, now) in refused.items()
            )
            raise CheckpointError(
                f"The checkpoint belongs to another run: {facts}. Restore what has changed, or "
                "submit a new experiment."
            )
        return [
            f"{_NAMES[name]} was {before!r} and is now {now!r}: the last digits may differ from a "
            "run without this change."
            for name, (before, now) in differing.items()
        ]


# Facts under which the same run goes on, with the same records and draws but other rounding.
_MAY_DIFFER = {"sum_version", "device_type", "device_name", "intra_op_threads", "torch_version"}

_NAMES = {
    "seed": "the seed",
    "dataset_length": "the length of the training data",
    "pass_length": "the length of a pass over the training data",
    "record_order": "the order of the training data",
    "global_batch_size": "the global batch size",
    "num_slots": "the number of slots",
    "aggregation_frequency": "the aggregation frequency",
    "shuffle_version": "the version of the shuffle",
    "sum_version": "the version of the gradient sum",
    "device_type": "the type of device",
    "device_name": "the device",
    "intra_op_threads": "the number of threads of a slot",
    "torch_version": "the version of torch",
}
