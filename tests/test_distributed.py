from __future__ import annotations

import copy

import pytest
from test_context import FakeEngine, new_context

from trialrun._distributed import CALLS


@pytest.mark.parametrize("slot", [0, 2])
def test_the_workers_are_the_slots_of_one_machine(slot: int) -> None:
    engine = FakeEngine()
    engine.slot = slot
    distributed = new_context(engine).distributed
    assert (distributed.rank, distributed.size) == (slot, 4)
    assert (distributed.local_rank, distributed.local_size) == (slot, 4)
    assert (distributed.cross_rank, distributed.cross_size) == (0, 1)
    assert (distributed.get_rank(), distributed.get_size()) == (slot, 4)
    assert (distributed.get_local_rank(), distributed.get_num_agents()) == (slot, 1)
    assert copy.deepcopy(distributed) is distributed


def test_each_call_goes_to_the_engine_under_its_name() -> None:
    engine = FakeEngine()
    distributed = new_context(engine).distributed
    engine.slot = 1
    assert (distributed.gather(3), distributed.gather_local(3)) == (None, None)
    assert distributed.allgather(3) == distributed.allgather_local(3) == [3, "another"]
    # What another slot than 0 gives is not sent.
    assert (distributed.broadcast(3), distributed.broadcast_local()) == (None, None)
    values = [3, 3, 3, 3, None, None]
    assert engine.calls == [
        ("exchange", value, call, "all" in call or "broadcast" in call)
        for value, call in zip(values, CALLS, strict=True)
    ]
    engine.slot = 0
    assert distributed.gather(3) == [3, "another"]
    assert distributed.broadcast(3) == 3
