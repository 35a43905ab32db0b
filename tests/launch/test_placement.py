"""P is what was asked for, or the largest divisor of the slots that the machine serves."""

from __future__ import annotations

import re

import pytest
import torch

from trialrun._errors import ConfigurationError
from trialrun.controller.config import ExperimentConfig, read_config
from trialrun.controller.launch import placement


def make_config(slots: int, threads: int = 1) -> ExperimentConfig:
    return read_config({"max_length": "1ep", "slots": slots, "intra_op_threads": threads})


def set_machine(patch: pytest.MonkeyPatch, *, cores: int, gpus: int = 0) -> None:
    patch.setattr(placement, "num_cores", lambda: cores)
    patch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    patch.setattr(torch.cuda, "device_count", lambda: gpus)


@pytest.mark.parametrize(
    "slots, cores, gpus, processes",
    [
        (4, 2, 0, 2),
        (4, 3, 0, 2),
        (4, 16, 0, 4),
        (6, 4, 0, 3),
        (7, 6, 0, 1),
        (1, 8, 0, 1),
        # GPUs count where there are any, however many cores there are.
        (8, 64, 2, 2),
        (8, 1, 8, 8),
        (6, 64, 4, 3),
    ],
)
def test_default_is_the_largest_divisor_that_the_machine_serves(
    monkeypatch: pytest.MonkeyPatch, slots: int, cores: int, gpus: int, processes: int
) -> None:
    set_machine(monkeypatch, cores=cores, gpus=gpus)
    assert placement.choose_num_processes(None, make_config(slots)) == processes


def test_more_processes_than_cores_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    set_machine(monkeypatch, cores=1)
    assert placement.choose_num_processes(4, make_config(4)) == 4


def test_number_that_does_not_divide_the_slots_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_machine(monkeypatch, cores=8)
    message = (
        "6 slots cannot be executed by 4 processes: the number of processes must divide the slots. "
        "Choose one of 1, 2, 3, 6."
    )
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        placement.choose_num_processes(4, make_config(6))


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_machine(monkeypatch, cores=8, gpus=2)
    message = (
        "4 processes need 4 GPUs, but this machine has 2. Fewer processes give the same result: "
        "each executes several slots."
    )
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        placement.choose_num_processes(4, make_config(4))


@pytest.mark.parametrize("slots, cores, threads", [(1, 8, 8), (4, 8, 2), (3, 8, 2), (4, 2, 1)])
def test_threads_share_out_the_cores(
    monkeypatch: pytest.MonkeyPatch, slots: int, cores: int, threads: int
) -> None:
    set_machine(monkeypatch, cores=cores)
    config = read_config({"max_length": "1ep", "slots": slots})
    assert placement.num_threads(config) == threads


def test_configured_threads_win_and_take_their_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    set_machine(monkeypatch, cores=8)
    config = make_config(4, threads=4)
    assert placement.num_threads(config) == 4
    assert placement.choose_num_processes(None, config) == 2
