from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from python_start import run_python
from support import TRIALS, make_spec, run_session

from trialrun import CheckpointError
from trialrun.controller.checkpoints.contents import CheckpointContents, read_contents
from trialrun.controller.checkpoints.digest import digest
from trialrun.controller.checkpoints.manifest import verify
from trialrun.controller.checkpoints.store import CheckpointStore, StoredCheckpoint


def contents(batches: int) -> CheckpointContents:
    return CheckpointContents(
        models=[{"weight": torch.full((3,), float(batches))}],
        state={"batches": batches, "optimizers": []},
        metadata={"batches": batches},
    )


def test_a_checkpoint_is_whole_when_it_is_told(tmp_path: Path) -> None:
    told: list[StoredCheckpoint] = []
    threads: list[str] = []

    def on_stored(stored: StoredCheckpoint) -> None:
        threads.append(threading.current_thread().name)
        verify(stored.path, stored.files)
        assert read_contents(stored.path).metadata["digest"] == stored.digest
        told.append(stored)

    folder = tmp_path / "made" / "if missing"
    store = CheckpointStore(folder, on_stored)
    store.save(contents(3), {"loss": 0.5})
    store.save(contents(4), None)
    assert store.close() is None
    assert [(stored.batches, stored.metrics) for stored in told] == [(3, {"loss": 0.5}), (4, None)]
    assert sorted(path.name for path in folder.iterdir()) == sorted(s.uuid for s in told)
    for stored in told:
        assert stored.path == folder / stored.uuid
        assert stored.digest == digest(contents(stored.batches).models, [])
        assert stored.size_bytes == sum(file.stat().st_size for file in stored.path.iterdir())
        assert read_contents(stored.path).metadata["uuid"] == stored.uuid
    # The loop goes on meanwhile.
    assert threading.main_thread().name not in threads


def test_what_is_added_when_the_files_are_there_belongs_to_the_checkpoint(tmp_path: Path) -> None:
    told: list[StoredCheckpoint] = []
    store = CheckpointStore(tmp_path / "checkpoints", told.append)
    threads = []

    def add(folder: Path) -> None:
        threads.append(threading.current_thread())
        assert read_contents(folder).metadata["batches"] == 5
        (folder / "notes").mkdir()
        (folder / "notes" / "a.txt").write_text("added")

    assert store.save_now(contents(5), None, add) == told[0].uuid
    assert threads == [threading.main_thread()]
    assert told[0].files["notes/a.txt"]["size_bytes"] == 5
    verify(told[0].path, told[0].files)
    (told[0].path / "notes" / "a.txt").write_text("ADDED")
    with pytest.raises(CheckpointError, match="notes/a.txt has the hash"):
        verify(told[0].path, told[0].files)
    assert store.close() is None


def test_what_is_called_when_files_are_written_runs_before_the_checkpoint_counts(
    tmp_path: Path,
) -> None:
    log: list[Any] = []
    store = CheckpointStore(tmp_path, lambda stored: log.append(("recorded", stored.batches)))
    store.save(contents(1), None, lambda folder: log.append(threading.current_thread().name))
    store.close()
    assert log == ["checkpoint-writer_0", ("recorded", 1)]


def test_an_error_of_what_adds_is_its_own_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    told: list[StoredCheckpoint] = []
    store = CheckpointStore(tmp_path / "checkpoints", told.append)

    def fail(folder: Path) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        store.save_now(contents(5), None, fail)
    assert (told, list((tmp_path / "checkpoints").iterdir())) == ([], [])
    assert store.close() is None


def test_saving_waits_for_the_one_before_it_and_for_no_more(tmp_path: Path) -> None:
    may_finish = threading.Event()
    finished: list[int] = []

    def on_stored(stored: StoredCheckpoint) -> None:
        assert may_finish.wait(timeout=30)
        finished.append(stored.batches)

    store = CheckpointStore(tmp_path, on_stored)
    store.save(contents(1), None)
    assert finished == []
    may_finish.set()
    store.save(contents(2), None)
    assert finished[:1] == [1]
    store.close()
    assert finished == [1, 2]


def test_a_failure_to_record_is_told_and_the_next_success_forgets_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def on_stored(stored: StoredCheckpoint) -> None:
        if stored.batches == 1:
            raise OSError("no space")

    store = CheckpointStore(tmp_path, on_stored)
    store.save(contents(1), None)
    failure = store.wait()
    assert str(failure) == "no space"
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (
            logging.ERROR,
            "The checkpoint of batch 1 could not be written: no space. Training goes on; the older "
            "checkpoints are whole.",
        )
    ]
    store.save(contents(2), None)
    assert store.close() is None


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
from support import make_spec, new_session
from trialrun.controller.checkpoints.contents import read_contents
from trialrun.controller.checkpoints.manifest import verify
from trialrun.controller.checkpoints.store import CheckpointStore

folder = Path({folder!r})
stored = []

class Disk:
    "Full at batches 2 and 3: no file may grow beyond so many bytes, whoever writes it."

    def __init__(self):
        self.store = CheckpointStore(folder, stored.append)
        self.failures = []

    def save(self, contents, metrics):
        full = contents.metadata["batches"] in (2, 3)
        limit = {limit} if full else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        self.store.save(contents, metrics)
        self.failures.append(self.store.wait())
        names = {{path.name for path in folder.iterdir()}}
        assert names == {{checkpoint.uuid for checkpoint in stored}}, names
        for checkpoint in stored:
            verify(checkpoint.path, checkpoint.files)
            read_contents(checkpoint.path)

torch.set_num_threads(1)
disk = Disk()
spec = make_spec({trial!r}, checkpoint_period="1ba", max_length="4ba")
new_session(spec, sink=disk).run()
assert disk.store.close() is None
assert [isinstance(failure, OSError) for failure in disk.failures] == [False, True, True, False]
assert [checkpoint.batches for checkpoint in stored] == [1, 4]
print(stored[-1].digest)
"""


@pytest.mark.parametrize("file", ["model", "state"])
def test_a_full_disk_costs_the_checkpoint_and_nothing_else(tmp_path: Path, file: str) -> None:
    spec = make_spec("reducing.py", checkpoint_period="1ba", max_length="4ba")
    run = run_session(spec, tmp_path / "roomy")
    sizes = {path.name: path.stat().st_size for path in run.checkpoints[1].path.iterdir()}
    models = [size for name, size in sizes.items() if name.startswith("model")]
    # The limit stops the file that it is meant for, and not one before it.
    limit = min(models) // 2 if file == "model" else (max(models) + sizes["state.pt"]) // 2
    code = FULL_DISK.format(
        tests=str(TRIALS.parent),
        folder=str(tmp_path / "checkpoints"),
        limit=limit,
        trial="reducing.py",
    )
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == run.digest
    for batches in (2, 3):
        assert f"The checkpoint of batch {batches} could not be written: " in result.stderr
    assert result.stderr.count("model-0.safetensors could not be written") == (
        2 if file == "model" else 0
    )


def test_contents_may_be_any_plain_state(tmp_path: Path) -> None:
    told: list[Any] = []
    store = CheckpointStore(tmp_path, told.append)
    store.save(
        CheckpointContents(models=[], state={"optimizers": []}, metadata={"batches": 0}), None
    )
    assert store.close() is None
    assert read_contents(told[0].path).models == []
