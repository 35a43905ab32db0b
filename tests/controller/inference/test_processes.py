"""The number of processes is the speed of an evaluation or prediction, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from inference_jobs import EvaluateJob, PredictJob
from process_launch import Launcher
from recorded_run import RecordedRun, train_recorded
from support import write_trial

from trialrun.controller.engine.building import Split
from trialrun.controller.engine.parallel.collectives import SingleProcess
from trialrun.controller.inference.tables import TableFormat


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    return Launcher(tmp_path_factory.mktemp("launches"))


def train(folder: Path, trial: str | Path, **hyperparameters: str) -> RecordedRun:
    return train_recorded(
        folder, trial, slots=4, max_length="4ba", hyperparameters={"depth": 3, **hyperparameters}
    )


def url(run: RecordedRun) -> str:
    return run.home.database_url


FULL = """
from trials.linear import Linear
from trialrun import Trial

class Full(Linear):
    evaluate_batch = Trial.evaluate_batch

    def evaluate_full_dataset(self, data_loader):
        return {"loss": sum(self.loss(batch) for batch in data_loader)}
"""


def test_metrics_are_those_of_training_on_any_number_of_processes(
    tmp_path: Path, launcher: Launcher
) -> None:
    runs = [
        train(tmp_path / "predicting", "predicting.py"),
        train(tmp_path / "reducing", "reducing.py"),
        train(tmp_path / "streaming", "streaming.py", loader="stateful"),
        train(tmp_path / "full", write_trial(tmp_path, FULL, "full_linear.py")),
    ]
    jobs = [EvaluateJob(database_url=url(run), experiment=1) for run in runs]
    recorded = [run.validation(4) for run in runs]
    for size in (2, 4):
        assert launcher.launch(size, jobs) == [recorded] * size


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_predictions_are_the_same_bytes_from_any_number_of_processes(
    tmp_path: Path, launcher: Launcher
) -> None:
    run = train(tmp_path / "run", "predicting.py", predicts="columns")
    # 20, 11 and 7 records in batches of 3, 4 and 3: 7, 3 and 3 batches for 4 slots.
    wanted = [(split, table) for split in Split for table in TableFormat]

    def jobs(size: int) -> list[PredictJob]:
        return [
            PredictJob(
                database_url=url(run),
                experiment=1,
                split=split,
                folder=tmp_path / f"{size}-{split.value}-{table.value}",
                table_format=table,
            )
            for split, table in wanted
        ]

    rows = {Split.TRAINING: 20, Split.VALIDATION: 11, Split.TEST: 7}
    alone = jobs(1)
    assert [job(SingleProcess()) for job in alone] == [rows[split] for split, _ in wanted]
    assert len(files(alone[1].folder)) > 3  # several chunks
    for size in (2, 4):
        shared = jobs(size)
        chief, *others = launcher.launch(size, shared)
        assert chief == [rows[split] for split, _ in wanted]
        assert others == [[0] * len(wanted)] * (size - 1)
        for one, same in zip(alone, shared, strict=True):
            assert files(one.folder) == files(same.folder)


FOREIGN = """
import torch
from trials.linear import Linear, records

class Foreign(Linear):
    def set_up(self):
        self.context.experimental.disable_dataset_reproducibility_checks()

    def build_validation_data_loader(self):
        return torch.utils.data.DataLoader(records(7), batch_size=2)

    def predict_batch(self, batch, batch_idx):
        return self.model(batch[0]) + torch.rand(())
"""


def test_a_loader_of_the_trials_own_is_slot_0s_on_any_number_of_processes(
    tmp_path: Path, launcher: Launcher
) -> None:
    run = train(tmp_path / "run", write_trial(tmp_path, FOREIGN, "foreign_linear.py"))

    def job(size: int) -> PredictJob:
        return PredictJob(
            database_url=url(run),
            experiment=1,
            folder=tmp_path / str(size),
            table_format=TableFormat.SAFETENSORS,
        )

    assert job(1)(SingleProcess()) == 7
    assert launcher.launch(2, [job(2)]) == [[7], [0]]
    assert files(job(1).folder) == files(job(2).folder)
