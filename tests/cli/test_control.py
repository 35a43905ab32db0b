"""``wait`` and ``delete``."""

from __future__ import annotations

import shutil
import socket
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from recorded_run import submit_recorded, train_recorded
from sqlalchemy import text

from trialrun.cli import main
from trialrun.controller.bookkeeping import Database, RunState, claim_trial, finish_attempt
from trialrun.controller.launch.lock import TrialLock
from trialrun.controller.liveness import TrialFolder

from .workplace import Workplace


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (RunState.COMPLETED, 0),
        (RunState.PAUSED, 3),
        (RunState.ERROR, 1),
        (RunState.KILLED, 1),
    ],
)
def test_wait_ends_with_the_run_and_says_how(
    workplace: Workplace, state: RunState, code: int
) -> None:
    run = submit_recorded(workplace.folder, "linear.py")
    lock = TrialLock.take(TrialFolder.of(run.experiment, run.trial).lock)
    assert lock is not None, "held, so that it lives"
    attempt = claim_trial(
        run.database,
        run.trial_id,
        hostname=socket.gethostname(),
        pid=1,
        num_processes=1,
        first_batch=0,
        resumed_from=None,
    )
    assert attempt is not None
    results = []
    waiting = threading.Thread(target=lambda: results.append(workplace.invoke("wait", "1")))
    waiting.start()
    waiting.join(timeout=0.5)
    assert waiting.is_alive(), "it waits while the experiment runs"
    finish_attempt(run.database, attempt.id, state)
    lock.release()
    waiting.join()
    (result,) = results
    assert result.code == code
    assert result.out == f"Experiment 1 is {state.name} after 0 batches.\n"


def test_a_dead_run_is_not_waited_for(workplace: Workplace) -> None:
    run = submit_recorded(workplace.folder, "linear.py")
    claim_trial(
        run.database,
        run.trial_id,
        hostname=socket.gethostname(),
        pid=1,
        num_processes=1,
        first_batch=0,
        resumed_from=None,
    )
    result = workplace.invoke("wait", "1")
    assert (result.code, result.out) == (1, "Experiment 1 is DEAD after 0 batches.\n")


def rows(database: Database) -> dict[str, int]:
    tables = (
        "experiments", "trials", "attempts", "checkpoints", "training_metrics",
        "validation_metrics", "log_files",
    )  # fmt: skip
    with database.snapshot() as session:
        counts = {
            table: session.execute(text(f"SELECT COUNT(*) FROM {table}")).scalar_one()
            for table in tables
        }
    return {table: count for table, count in counts.items() if count}


def test_delete_takes_records_and_files_and_nothing_of_others(workplace: Workplace) -> None:
    kept = train_recorded(workplace.folder, "linear.py", max_length="2ba")
    before = rows(kept.database)
    doomed = train_recorded(workplace.folder, "linear.py", max_length="4ba")
    result = workplace.invoke("delete", "2", "--yes")
    assert (result.code, result.out) == (0, "Deleted experiment 2.\n")
    assert not Path(doomed.experiment.directory).exists()
    assert rows(kept.database) == before
    assert Path(kept.latest.path).is_dir()
    assert "There is no experiment 2." in workplace.invoke("show", "2").err
    assert submit_recorded(workplace.folder, "linear.py").experiment.id == 3


def test_delete_asks_first(workplace: Workplace) -> None:
    run = submit_recorded(workplace.folder, "linear.py")
    command = ["delete", "1", "--home", str(workplace.home)]
    refused = CliRunner().invoke(main, command, input="n\n")
    assert refused.exit_code == 1
    assert refused.stdout.startswith(
        "Delete experiment 1 (linear), PAUSED after 0 batches, and all files in "
        f"{run.experiment.directory}? [y/N]: n"
    )
    assert Path(run.experiment.directory).is_dir()
    assert CliRunner().invoke(main, command, input="y\n").exit_code == 0
    assert not Path(run.experiment.directory).exists()


def test_several_experiments_are_deleted_at_once(workplace: Workplace) -> None:
    runs = [submit_recorded(workplace.folder, "linear.py") for _ in range(3)]
    result = workplace.invoke("delete", "1", "3", "1", "--yes")
    assert (result.code, result.out) == (0, "Deleted experiment 1.\nDeleted experiment 3.\n")
    assert [Path(run.experiment.directory).exists() for run in runs] == [False, True, False]


def test_what_runs_is_not_deleted(workplace: Workplace) -> None:
    run = submit_recorded(workplace.folder, "linear.py")
    folder = TrialFolder.of(run.experiment, run.trial)
    lock = TrialLock.take(folder.lock)
    assert lock is not None
    result = workplace.invoke("delete", "1", "--yes")
    assert result.code == 2
    assert "Experiment 1 runs, and what runs is not deleted. Pause or kill it first" in result.err
    lock.release()
    claim_trial(
        run.database,
        run.trial_id,
        hostname="elsewhere",
        pid=1,
        num_processes=1,
        first_batch=0,
        resumed_from=None,
    )
    assert workplace.invoke("delete", "1", "--yes").code == 2
    assert Path(run.experiment.directory).is_dir()


def test_files_that_are_gone_already_do_not_matter(workplace: Workplace) -> None:
    run = submit_recorded(workplace.folder, "linear.py")
    shutil.rmtree(run.experiment.directory)
    assert workplace.invoke("delete", "1", "--yes").code == 0
    assert rows(run.database) == {}
