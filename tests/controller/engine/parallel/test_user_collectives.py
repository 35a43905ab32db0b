from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from process_launch import Job, Launcher
from support import make_spec, run_session, write_trial

from trialrun import InvalidTrialError
from trialrun.controller.engine.parallel.user_collectives import (
    require_slot_each,
    user_collectives,
)

EXCHANGING = """
import torch
import torch.distributed as dist
from torch.distributed import all_reduce as bound_before
from trials.linear import Linear


class Exchanging(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        seen = batch[0].sum().detach().clone()
        CALL
        return super().train_batch(batch, epoch_idx, batch_idx) | {"seen": seen}
"""
CALLS = {
    "dist.all_reduce(seen)": "all_reduce",
    "torch.distributed.barrier()": "barrier",
    "bound_before(seen)": "all_reduce",
    "dist.all_gather_object([None], 3)": "all_gather_object",
}


def exchanging(folder: Path, call: str) -> Path:
    return write_trial(folder, EXCHANGING.replace("CALL", call))


@pytest.mark.parametrize(("call", "name"), CALLS.items())
def test_a_trial_that_calls_a_collective_on_fewer_processes_than_slots_is_told(
    call: str, name: str, tmp_path: Path
) -> None:
    original = getattr(dist, name)
    with pytest.raises(InvalidTrialError) as caught:
        run_session(make_spec(exchanging(tmp_path, call)), tmp_path / "checkpoints")
    assert str(caught.value) == (
        f"The trial called torch.distributed.{name}, which goes from process to process and knows "
        "no slots: each slot needs a process of its own, but 1 process executes 2 slots. Start "
        "with --processes 2. Or use context.distributed, which goes from slot to slot on any "
        "number of processes."
    )
    assert getattr(dist, name) is original


def test_with_a_process_for_each_slot_they_exchange(tmp_path: Path, launcher: Launcher) -> None:
    spec = make_spec(exchanging(tmp_path, "dist.all_reduce(seen)"), max_length="4ba")
    four = make_spec(exchanging(tmp_path, "dist.all_reduce(seen)"), slots=4, max_length="4ba")
    first, second = launcher.launch(2, [Job(spec, tmp_path / "two"), Job(four, tmp_path / "four")])
    run, other = first[0], second[0]
    assert not isinstance(run, str) and not isinstance(other, str)
    # In the mean over the slots each of them has the sum of all.
    own = run_session(
        make_spec(exchanging(tmp_path, "pass"), max_length="4ba"), tmp_path / "checkpoints"
    )
    (alone,), (together,) = ([m["seen"] for *_, m in r.training[:1]] for r in (own, run))
    assert together == pytest.approx(2 * alone)
    assert run.digest == own.digest
    refusals = [first[1], second[1]]
    assert all(isinstance(r, str) and "2 processes execute 4 slots" in r for r in refusals)


@pytest.fixture
def gloo(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def test_a_module_that_adds_up_over_processes_needs_one_for_each_slot() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SyncBatchNorm(2))
    with pytest.raises(InvalidTrialError) as caught:
        require_slot_each([torch.nn.Linear(1, 1), model], num_slots=4, size=2)
    assert str(caught.value) == (
        "Model 1 has a SyncBatchNorm, 1, which adds up over processes and knows no slots: each "
        "slot needs a process of its own, but 2 processes execute 4 slots. Start with --processes "
        "4. Or use BatchNorm, which normalizes by the records of one slot."
    )
    require_slot_each([model], num_slots=2, size=2)


def test_a_model_that_sums_its_own_gradients_is_refused_on_any_processes(gloo: None) -> None:
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    for size in (1, 2):
        with pytest.raises(InvalidTrialError, match=r"wrap_model the module itself\.$"):
            require_slot_each([model], num_slots=2, size=size)


def test_what_a_block_refuses_is_possible_after_it(gloo: None) -> None:
    tensor = torch.ones(2)
    with user_collectives(num_slots=2, size=1), pytest.raises(InvalidTrialError):
        dist.all_reduce(tensor)
    dist.all_reduce(tensor)
    with user_collectives(num_slots=1, size=1):
        dist.all_reduce(tensor)
    assert tensor.tolist() == [1.0, 1.0]
