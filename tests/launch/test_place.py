from __future__ import annotations

import datetime

import pytest
import torch

from trialrun import ConfigurationError
from trialrun.controller.engine.parallel.collectives import SingleProcess
from trialrun.controller.launch.joining import join
from trialrun.controller.launch.place import Place

TORCHRUN = {
    "RANK": "2",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "2",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}
SRUN = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "77"}


def test_nothing_set_means_one_process() -> None:
    assert Place.from_environment({"HOME": "/root"}) == Place()


def test_torchrun_tells_rank_and_size_and_torch_finds_the_address_itself() -> None:
    place = Place.from_environment(TORCHRUN)
    assert (place.rank, place.size, place.local_rank, place.address) == (2, 4, 2, None)


def test_a_launcher_without_local_ranks_has_one_machine() -> None:
    variables = {k: v for k, v in TORCHRUN.items() if not k.startswith("LOCAL")}
    assert Place.from_environment(variables).local_rank == 2


def test_srun_tells_the_same_in_variables_of_its_own() -> None:
    place = Place.from_environment(SRUN)
    assert (place.rank, place.size, place.local_rank) == (1, 2, 1)
    assert place.address == ("127.0.0.1", 15_000 + 31 * 77)
    another_step = Place.from_environment(SRUN | {"SLURM_STEP_ID": "3"})
    assert another_step.address == ("127.0.0.1", 15_000 + 31 * 77 + 3)


def test_the_address_of_srun_can_be_chosen() -> None:
    place = Place.from_environment(SRUN | {"MASTER_ADDR": "node7", "MASTER_PORT": "1234"})
    assert place.address == ("node7", 1234)


def test_torchrun_within_a_slurm_job_wins() -> None:
    assert Place.from_environment(SRUN | TORCHRUN).size == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"WORLD_SIZE": None},
            "RANK is set to '2', but WORLD_SIZE is not set: a launcher sets both. Start the script "
            "with torchrun, or unset both for one process.",
        ),
        ({"RANK": None}, "WORLD_SIZE is set to '4', but RANK is not set: "),
        (
            {"RANK": "two"},
            "RANK is 'two', which is not a whole number of at least 0. A launcher sets it: start "
            "the script with torchrun or srun, or unset it.",
        ),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', which is not a whole number of at least 1."),
        (
            {"RANK": "4"},
            "RANK is 4, but WORLD_SIZE is 4: ranks are counted from 0. Start the script with "
            "torchrun or srun, which set both.",
        ),
        (
            {"LOCAL_WORLD_SIZE": "2"},
            "This machine has 2 of 4 processes: a trial's processes must share one. Start them "
            "with torchrun --nnodes 1.",
        ),
        (
            {"MASTER_PORT": None},
            "WORLD_SIZE is 4, but MASTER_PORT is not set, so the processes cannot find each other. "
            "Start the script with torchrun, which sets it.",
        ),
    ],
)
def test_contradictions_of_torchrun_are_named(changes: dict[str, str | None], message: str) -> None:
    variables = {k: v for k, v in (TORCHRUN | changes).items() if v is not None}
    with pytest.raises(ConfigurationError) as caught:
        Place.from_environment(variables)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"SLURM_NNODES": "2"},
            "SLURM_NNODES is 2: a trial's processes must share one machine. Give srun --nodes 1.",
        ),
        ({"SLURM_PROCID": "2"}, "SLURM_PROCID is 2, but SLURM_NTASKS is 2: ranks are counted"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http', which is not a whole number"),
    ],
)
def test_contradictions_of_srun_are_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Place.from_environment(SRUN | changes)
    assert str(caught.value).startswith(message)


def test_a_step_on_one_node_of_a_larger_job_is_fine() -> None:
    variables = SRUN | {"SLURM_NNODES": "4", "SLURM_STEP_NUM_NODES": "1"}
    assert Place.from_environment(variables).size == 2


def test_one_process_joins_nobody() -> None:
    assert isinstance(join(Place(), torch.device("cpu")), SingleProcess)


def test_processes_that_never_come_are_an_error_that_says_what_to_do() -> None:
    place = Place(rank=0, size=3, address=("127.0.0.1", 0), launcher="SLURM_NTASKS=3")
    with pytest.raises(ConfigurationError) as caught:
        join(place, torch.device("cpu"), timeout=datetime.timedelta(seconds=1))
    text = str(caught.value)
    assert text.startswith(
        "Process 0 of 3 (SLURM_NTASKS=3) could not meet the others at 127.0.0.1:0 within 1 seconds:"
    )
    assert text.endswith(
        "Start all of them with srun, or unset SLURM_NTASKS for one process; MASTER_PORT chooses "
        "another port."
    )
