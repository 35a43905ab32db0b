"""The number of processes is the speed and nothing else: the same bits as folded into one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from process_launch import Job, Launcher
from support import Run, make_spec, resume, run_session, run_with_stops

from trialrun.controller.engine.parallel.collectives import Collectives, SingleProcess
from trialrun.controller.engine.session import TrialSpec

STOPS = (("progress", 2), ("progress", 4), ("training", 6))

SPECS: dict[str, TrialSpec] = {
    "conv on 4": make_spec("conv.py", slots=4),
    "averaging on 4": make_spec("averaging.py", slots=4, reporting_period="5ba"),
    "averaging on 4, windows of 2": make_spec("averaging.py", slots=4, aggregation_frequency=2),
    "conv on 6": make_spec("conv.py", slots=6),
    "conv on 6, windows of 2": make_spec("conv.py", slots=6, aggregation_frequency=2),
    "gan on 4": make_spec("gan.py", slots=4),
    "gan on 6": make_spec("gan.py", slots=6),
    "reducing on 4": make_spec("reducing.py", slots=4, reporting_period="5ba"),
    "embedding on 4": make_spec("embedding.py", slots=4),
    "embedding on 6, windows of 2": make_spec("embedding.py", slots=6, aggregation_frequency=2),
    "lbfgs on 4": make_spec("lbfgs.py", slots=4),
    "scaled by hand on 4, windows of 2": make_spec(
        "scaled.py", slots=4, aggregation_frequency=2, max_length="16ba"
    ),
    "scaled automatically on 4": make_spec(
        "scaled.py", slots=4, hyperparameters={"way": "float16"}, max_length="12ba"
    ),
    "bfloat16 on 4": make_spec("scaled.py", slots=4, hyperparameters={"way": "bfloat16"}),
    "folding on 4": make_spec("folding.py", slots=4, reporting_period="5ba"),
    "measuring on 4": make_spec("measuring.py", slots=4, reporting_period="5ba"),
    "streaming on 4": make_spec("streaming.py", slots=4, hyperparameters={"loader": "dataset"}),
    # Shards of 4, 4, 3 and 3 records.
    "uneven streams on 4": make_spec(
        "streaming.py", slots=4, hyperparameters={"loader": "stateful"}, validation_period="1ep"
    ),
}


def specs_for(size: int) -> dict[str, TrialSpec]:
    return {name: spec for name, spec in SPECS.items() if spec.config.slots % size == 0}


class Contract:
    """Every collective once; what each process must get follows from its rank."""

    def __call__(self, collectives: Collectives) -> bool:
        rank, size = collectives.rank, collectives.size
        plain = {"rank": rank, "array": np.arange(rank + 1), "tensor": torch.ones(rank)}
        gathered = collectives.gather(plain, "value")
        assert collectives.is_chief == (rank == 0) == (gathered is not None)
        if gathered is not None:
            assert [value["rank"] for value in gathered] == list(range(size))
            assert [len(value["array"]) for value in gathered] == list(range(1, size + 1))
            assert [value["tensor"].numel() for value in gathered] == list(range(size))
        assert collectives.broadcast({"from": rank}, "value") == {"from": 0}

        tensors = [
            torch.full((2, 3), float(rank)),
            torch.tensor(rank == 0),
            torch.full((3, 2), rank, dtype=torch.int64).t(),
            torch.tensor(float(rank), dtype=torch.bfloat16, requires_grad=True),
            torch.zeros(0),
        ]
        collectives.broadcast_tensors(tensors)
        assert [tensor.float().sum().item() for tensor in tensors] == [0.0, 1.0, 0.0, 0.0, 0.0]
        collectives.broadcast_tensors([])

        first = collectives.start_gather([rank, -5])
        second = collectives.start_gather([1])
        assert first.result() == [[r, -5] for r in range(size)]
        assert second.result() == [[1]] * size

        # Process r sends r + 1 elements to each other one.
        chunks = torch.arange(size).repeat_interleave(rank + 1) + 10.0 * rank
        received = collectives.all_to_all(
            chunks,
            receive_sizes=[sender + 1 for sender in range(size)],
            send_sizes=[rank + 1] * size,
        )
        expected = [rank + 10.0 * sender for sender in range(size) for _ in range(sender + 1)]
        assert received.tolist() == expected
        gathered_chunks = collectives.all_gather(torch.tensor([rank, rank + 0.5]))
        assert gathered_chunks.tolist() == [r + half for r in range(size) for half in (0, 0.5)]
        return True


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("folded")
    return {name: run_with_stops(spec, folder / name, ()) for name, spec in SPECS.items()}


def test_one_process_keeps_the_contract_of_collectives() -> None:
    assert Contract()(SingleProcess())


@pytest.mark.parametrize("size", [2, 3, 4])
def test_processes_give_the_bits_of_folded_slots(
    size: int, launcher: Launcher, folded: dict[str, Run], tmp_path: Path
) -> None:
    specs = specs_for(size)
    jobs: list[Any] = [Contract()]
    jobs += [Job(spec, tmp_path / name) for name, spec in specs.items()]
    jobs += [Job(spec, tmp_path / f"{name}, stopped", STOPS) for name, spec in specs.items()]
    chiefs, *others = launcher.launch(size, jobs)
    assert [results[0] for results in (chiefs, *others)] == [True] * size
    runs = chiefs[1:]
    assert len(specs) >= 2
    for name, straight, stopped in zip(specs, runs[: len(specs)], runs[len(specs) :], strict=True):
        assert isinstance(straight, Run), straight
        assert isinstance(stopped, Run), stopped
        assert straight.reported == folded[name].reported, name
        assert stopped.reported == folded[name].reported, name
        assert len(stopped.checkpoints) > len(straight.checkpoints)
    for results in others:
        assert [run.digest for run in results[1:]] == [run.digest for run in runs]
        assert all(run.training == [] for run in results[1:])


@pytest.mark.parametrize("size", [2, 4])
def test_processes_that_share_no_memory_give_the_same_bits(
    size: int, launcher: Launcher, folded: dict[str, Run], tmp_path: Path
) -> None:
    specs = specs_for(size)
    jobs = [SummedEarly(Job(spec, tmp_path / name)) for name, spec in specs.items()]
    (results, *_) = launcher.launch(size, jobs, shares_memory=False)
    num_early = {}
    for name, (run, number) in zip(specs, results, strict=True):
        assert isinstance(run, Run), run
        assert run.reported == folded[name].reported, name
        num_early[name] = number
    # From the second batch on, of 8; two optimizers; none in a window.
    assert num_early["conv on 4"] == 7
    assert num_early["gan on 4"] == 14
    assert num_early["averaging on 4, windows of 2"] == 0


def test_a_run_goes_on_with_another_number_of_processes(
    launcher: Launcher, folded: dict[str, Run], tmp_path: Path
) -> None:
    # Folded, then on 2 processes, then folded again.
    jobs, first_parts = [], []
    specs = specs_for(2)
    for name, spec in specs.items():
        first = run_session(spec, tmp_path / name, stop_upon=("progress", 2))
        first_parts.append(first)
        jobs.append(UntilStop(resume(spec, first), tmp_path / name))
    (seconds, _) = launcher.launch(2, jobs)
    for (name, spec), first, second in zip(specs.items(), first_parts, seconds, strict=True):
        assert isinstance(second, Run), second
        assert 2 < second.batches < 8
        third = run_session(resume(spec, second), tmp_path / name)
        assert first.then(second).then(third).reported == folded[name].reported, name


class SummedEarly:
    """Counts what is exchanged while backward computes."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, collectives: Collectives) -> tuple[Run, int]:
        assert collectives.early is not None
        exchange, count = collectives.early.all_to_all, 0

        def counted(*arguments: Any, **keywords: Any) -> torch.Tensor:
            nonlocal count
            count += 1
            return exchange(*arguments, **keywords)

        collectives.early.all_to_all = counted  # type: ignore[method-assign]
        try:
            return self._job(collectives), count
        finally:
            collectives.early.all_to_all = exchange  # type: ignore[method-assign]


class UntilStop:
    """One attempt, stopped after batch 5."""

    def __init__(self, spec: TrialSpec, folder: Path) -> None:
        self._spec = spec
        self._folder = folder

    def __call__(self, collectives: Collectives) -> Run:
        return run_session(
            self._spec, self._folder, stop_upon=("progress", 5), collectives=collectives
        )
