"""A folder with a trial file and a home of its own, in which tests type real commands.

A trial is stopped at an exact batch by a gate: while the file ``hold-K`` lies beside the trial
file, batch K does not go on. It says that it is there by ``held-K``. So no test sleeps and hopes.
While the file ``slowly`` lies there, batches take their time, so that a request can be heard.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import unittest.mock
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from click.testing import CliRunner
from python_start import ENVIRONMENT, PATIENCE_SECONDS, PythonProcess, read_to_end, start_python

from trialrun.cli import main
from trialrun.controller.bookkeeping import (
    AttemptRow,
    CheckpointRow,
    Database,
    attempts_of_trial,
    checkpoints_of_trial,
)

COMMAND = str(Path(sys.executable).with_name("trialrun"))

GATE = """
import time
from pathlib import Path


def wait_at_gate(batch_idx):
    folder = Path(__file__).parent
    hold = folder / f"hold-{batch_idx}"
    if hold.exists():
        (folder / f"held-{batch_idx}").touch()
    while hold.exists():
        time.sleep(0.005)
    if (folder / "slowly").exists():
        time.sleep(0.02)
"""

TRIAL = (
    GATE
    + '''
import torch
from torch import nn
from torch.utils.data import TensorDataset

from trialrun import DataLoader, Trial


class Waves(Trial):
    """A small network with dropout and BatchNorm that learns a sum of sines."""

    def __init__(self, context):
        self.context = context
        size = context.get_hparam("hidden") if "hidden" in context.get_hparams() else 8
        self.model = context.wrap_model(
            nn.Sequential(
                nn.Linear(4, size),
                nn.BatchNorm1d(size),
                nn.ReLU(),
                nn.Dropout(0.3),
                nn.Linear(size, 1),
            )
        )
        self.optimizer = context.wrap_optimizer(torch.optim.Adam(self.model.parameters(), lr=0.01))

    def build_training_data_loader(self):
        return DataLoader(make_records(37), batch_size=2, shuffle=True)

    def build_validation_data_loader(self):
        return DataLoader(make_records(11), batch_size=4)

    def train_batch(self, batch, epoch_idx, batch_idx):
        wait_at_gate(batch_idx)
        print(f"training batch {batch_idx}")
        inputs, targets = batch
        records = [round(value) for value in (inputs[:, 0] * 37 / 4).tolist()]
        with (Path(__file__).parent / "seen.txt").open("a") as seen:
            print(f"batch {batch_idx}, slot {self.context.slot}: records {records}", file=seen)
        loss = nn.functional.mse_loss(self.model(inputs + 0.1 * torch.randn(4)), targets)
        self.context.backward(loss)
        self.context.step_optimizer(self.optimizer)
        return {"loss": loss}

    def evaluate_batch(self, batch, batch_idx):
        inputs, targets = batch
        return {"loss": nn.functional.mse_loss(self.model(inputs), targets)}


def make_records(count):
    """No two records are equal, so that a wrong order changes the result."""
    inputs = torch.arange(4.0 * count).reshape(count, 4) / count
    return TensorDataset(inputs, inputs.sin().sum(dim=1, keepdim=True))
'''
)

# 37 records in global batches of 8: 5 batches an epoch, and 60 batches in all.
CONFIG = """
slots: 4
max_length: 12ep
reporting_period: 3ba
validation_period: 1ep
checkpoint_period: 4ba
checkpoint_policy: none
checkpoint_gc: {save_trial_latest: 100}
seed: 11
"""
NUM_BATCHES = 60


@dataclass(frozen=True)
class Result:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        # Python's parser would take NaN; other programs' parsers do not.
        return json.loads(self.out, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class Running:
    """A command that runs as the leader of a process group, as one typed in a terminal does.

    Args:
        arguments: Those of ``python``, a file or ``-m`` and a module first.
        folder: Where it runs.
        environment: All variables.
        is_forked: Whether it is forked from a Python that has torch; else a new one is started.
    """

    def __init__(
        self, *arguments: str, folder: Path, environment: dict[str, str], is_forked: bool = True
    ) -> None:
        self._out, out = os.pipe()
        self._err, err = os.pipe()
        with open(os.devnull) as null, open(out, "wb"), open(err, "wb"):
            streams = (null.fileno(), out, err)
            self._process = start(arguments, folder, environment, streams, is_forked)
        self.pid = self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    def interrupt(self) -> None:
        """Presses Ctrl-C: every process of the group gets SIGINT."""
        os.killpg(self.pid, signal.SIGINT)

    def signal_all(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)

    def signal_supervisor(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def training_processes(self) -> list[psutil.Process]:
        """The processes whose output goes to a log file, in the order of their ranks."""
        found = {}
        for process in self.descendants():
            with contextlib.suppress(FileNotFoundError):  # it has just ended
                output = os.readlink(f"/proc/{process.pid}/fd/1")
                if match := re.search(r"/process-(\d+)\.log$", output):
                    found[int(match[1])] = process
        return [found[rank] for rank in sorted(found)]

    def finish(self) -> Result:
        """Waits for its end, and for the end of every process that has its output open."""
        (out, err), has_ended = read_to_end([self._out, self._err])
        if not has_ended:
            os.killpg(self.pid, signal.SIGKILL)
            raise AssertionError(f"It does not end. It printed:\n{out}\n{err}")
        return Result(self._process.wait(PATIENCE_SECONDS), out, err)


def start(
    arguments: Sequence[str],
    folder: Path,
    environment: dict[str, str],
    streams: tuple[int, int, int],
    is_forked: bool,
) -> subprocess.Popen[bytes] | PythonProcess:
    """Starts ``python ARGUMENTS`` as the leader of a session."""
    if is_forked:
        return start_python(*arguments, folder=folder, environment=environment, streams=streams)
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        start_new_session=True,
    )


class Workplace:
    """A trial file, its configuration, a home, and the commands typed there."""

    def __init__(self, folder: Path, source: str = TRIAL, config: str = CONFIG) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.trial_file = folder / "trial.py"
        folder.mkdir(parents=True, exist_ok=True)
        self.trial_file.write_text(source, encoding="utf-8")
        (folder / "trial.yaml").write_text(config, encoding="utf-8")
        self.environment = {
            name: value for name, value in ENVIRONMENT.items() if not name.startswith("TRIALRUN_")
        } | {"TRIALRUN_HOME": str(self.home)}

    # Commands.

    def start(self, *arguments: str) -> Running:
        """Starts a real command whose output goes to pipes."""
        return Running(COMMAND, *arguments, folder=self.folder, environment=self.environment)

    def run(self, *arguments: str) -> Result:
        """Runs a real command to its end."""
        return self.start(*arguments).finish()

    def run_anew(self, *arguments: str) -> Result:
        """Runs a real command in a new interpreter, as a shell does."""
        command = Running(
            COMMAND,
            *arguments,
            folder=self.folder,
            environment=self.environment,
            is_forked=False,
        )
        return command.finish()

    def invoke(self, *arguments: str) -> Result:
        """Runs a command that trains nothing, in this process."""
        environment = {"TRIALRUN_HOME": str(self.home), "TRIALRUN_DB": None}
        # The server would outlive the command, which is this process.
        with unittest.mock.patch("trialrun.cli.run.start_server"):
            result = CliRunner().invoke(main, list(arguments), env=environment)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Result(result.exit_code, result.stdout, result.stderr)

    # Gates.

    def hold(self, batch: int) -> None:
        """Makes the trial wait at a batch, before it learns from it."""
        (self.folder / f"held-{batch}").unlink(missing_ok=True)
        (self.folder / f"hold-{batch}").touch()

    def wait_until_held(self, batch: int, *candidates: Running | Terminal) -> None:
        """Waits until the trial stands at the batch; fails when no candidate runs any more."""

        def is_held() -> bool:
            if (self.folder / f"held-{batch}").exists():
                return True
            for candidate in candidates:
                if candidate.is_running():
                    return False
            raise AssertionError([candidate.finish() for candidate in candidates])

        wait_for(is_held)

    def release(self, batch: int, *, slowly: bool = False) -> None:
        """Lets the trial go on."""
        if slowly:
            (self.folder / "slowly").touch()
        else:
            (self.folder / "slowly").unlink(missing_ok=True)
        (self.folder / f"hold-{batch}").unlink()

    # Records.

    @property
    def database(self) -> Database:
        return Database.open(f"sqlite:///{self.home / 'trialrun.db'}", create=False)

    def attempts(self, trial: int = 1) -> list[AttemptRow]:
        return attempts_of_trial(self.database, trial)

    def checkpoints(self, trial: int = 1) -> list[CheckpointRow]:
        """All checkpoints on record, newest first."""
        return checkpoints_of_trial(self.database, trial)

    def wait_until_stop_is_requested(self) -> None:
        wait_for(lambda: self.attempts()[-1].stop_requested is not None)

    def digests(self, experiment: int = 1) -> dict[int, str]:
        """The digest at each batch that has a checkpoint, as ``checkpoint list`` tells it."""
        rows = self.invoke("checkpoint", "list", str(experiment), "--json").json
        return {row["batches"]: row["digest"] for row in reversed(rows)}

    def metrics(self, experiment: int = 1) -> list[tuple[str, int, dict[str, float]]]:
        """What is promised to be equal of all metrics; speeds and times are not."""
        rows = self.invoke("metrics", str(experiment), "--json").json
        return [(row["kind"], row["batches"], row["metrics"]) for row in rows]


class Terminal:
    """A command on a pseudo-terminal of 250 columns, and all that it has written there."""

    def __init__(self, workplace: Workplace, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 250, 0, 0))
        environment = workplace.environment | {"TERM": "xterm"}
        streams = (slave, slave, slave)
        self._process = start([COMMAND, *arguments], workplace.folder, environment, streams, True)
        os.close(slave)
        self._written = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # how Linux says that the last writer has closed the terminal
                return
            if not data:
                return
            self._written += data

    @property
    def text(self) -> str:
        """What was written, without the sequences that move the cursor and choose colours."""
        text = self._written.decode("utf-8", errors="replace")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait_for_text(self, pattern: str) -> None:
        wait_for(lambda: re.search(pattern, self.text), lambda: f"{pattern!r} in {self.text!r}")

    def finish(self) -> Result:
        try:
            code = self._process.wait(PATIENCE_SECONDS)
        finally:
            if self.is_running():
                os.killpg(self._process.pid, signal.SIGKILL)
            self._reader.join()
            os.close(self._master)
        return Result(code, self.text, "")


def wait_for(
    condition: Callable[[], object], describe: Callable[[], str] = lambda: "The condition"
) -> None:
    """Looks again and again until the condition is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{describe()} did not become true.")
        time.sleep(0.01)
