"""What several tests need: trials that train in this process, and what they reported."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from trialrun.controller.checkpoints.contents import (
    CheckpointContents,
    read_contents,
    write_contents,
)
from trialrun.controller.checkpoints.digest import digest
from trialrun.controller.config import read_config
from trialrun.controller.engine.loop import Outcome
from trialrun.controller.engine.parallel.collectives import Collectives, SingleProcess
from trialrun.controller.engine.session import TrialSession, TrialSpec, open_session
from trialrun.controller.engine.stopping import StopRequest

TRIALS = Path(__file__).parent / "trials"
"""Trial files that real runs load; each is described by its first line."""

Event = tuple[str, int]
"""What a journal heard, and at how many batches: ("progress", 3)."""


@dataclasses.dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that a run handed over, written into a folder that a session can resume from."""

    path: Path
    batches: int
    digest: str
    metrics: dict[str, float] | None

    @property
    def contents(self) -> CheckpointContents:
        """What it holds."""
        return read_contents(self.path)


class FolderSink:
    """Writes checkpoints at once, each into a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.saved: list[SavedCheckpoint] = []
        self._folder = folder

    def save(
        self,
        contents: CheckpointContents,
        metrics: dict[str, float] | None,
        on_written: Callable[[Path], None] | None = None,
    ) -> None:
        self.save_now(contents, metrics, on_written or (lambda folder: None))

    def save_now(
        self,
        contents: CheckpointContents,
        metrics: dict[str, float] | None,
        on_written: Callable[[Path], None],
    ) -> str:
        path = self._folder / f"checkpoint-{len(list(self._folder.glob('*')))}"
        path.mkdir(parents=True)
        state = contents.state
        checksum = digest(contents.models, state["optimizers"], state["non_persistent_buffers"])
        metadata = {**contents.metadata, "digest": checksum, "uuid": path.name}
        write_contents(dataclasses.replace(contents, metadata=metadata), path)
        on_written(path)
        batches = contents.metadata["batches"]
        self.saved.append(SavedCheckpoint(path, batches, checksum, metrics))
        return path.name


class MemoryJournal:
    """Keeps what it hears, and asks for a stop when it hears one event for the first time.

    Args:
        stop_request: What to set.
        stop_upon: The event after which to stop; None: never.
    """

    def __init__(self, stop_request: StopRequest, stop_upon: Event | None = None) -> None:
        self.events: list[Event] = []
        self.training: list[tuple[int, int, dict[str, float]]] = []
        self.validation: list[tuple[int, int, int, dict[str, float]]] = []
        self._stop_request = stop_request
        self._stop_upon = stop_upon

    def progress(self, batches_completed: int) -> None:
        self._heard(("progress", batches_completed))

    def training_metrics(
        self, *, batches: int, epoch: int, metrics: dict[str, float], records_per_second: float
    ) -> None:
        assert records_per_second > 0
        self.training.append((batches, epoch, metrics))
        self._heard(("training", batches))

    def validation_metrics(
        self,
        *,
        batches: int,
        epoch: int,
        metrics: dict[str, float],
        num_records: int,
        duration_seconds: float,
    ) -> None:
        assert duration_seconds >= 0
        self.validation.append((batches, epoch, num_records, metrics))
        self._heard(("validation", batches))

    def _heard(self, event: Event) -> None:
        self.events.append(event)
        if event == self._stop_upon:
            self._stop_request.set()


@dataclasses.dataclass(frozen=True)
class Run:
    """How one attempt, or several in a row, went."""

    outcome: Outcome
    training: list[Any]
    validation: list[Any]
    events: list[Event]
    checkpoints: list[SavedCheckpoint]
    batches: int

    @property
    def digest(self) -> str:
        """The newest checkpoint's."""
        return self.checkpoints[-1].digest

    @property
    def reported(self) -> tuple[str, str, str]:
        """All that two equal runs have in common; as text, in which NaN equals NaN."""
        return self.digest, repr(self.training), repr(self.validation)

    def then(self, later: Run) -> Run:
        """This attempt followed by a later one."""
        return Run(
            later.outcome,
            self.training + later.training,
            self.validation + later.validation,
            self.events + later.events,
            self.checkpoints + later.checkpoints,
            later.batches,
        )


def write_trial(folder: Path, source: str, name: str = "trial.py") -> Path:
    """Writes a trial file; the source may be indented."""
    path = folder / name
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    return path


def make_spec(trial_file: Path | str, *, seed: int = 7, **config: Any) -> TrialSpec:
    """Returns the specification of a short run with 2 slots, unless the configuration says else.

    Args:
        trial_file: A path, or the name of a file in ``tests/trials``.
        seed: The trial's seed.
        config: Keys of the configuration.
    """
    defaults = {
        "slots": 2,
        "max_length": "8ba",
        "reporting_period": "3ba",
        "validation_period": "4ba",
        "checkpoint_period": None,
        "checkpoint_policy": "none",
    }
    return TrialSpec(
        trial_file=TRIALS / trial_file if isinstance(trial_file, str) else trial_file,
        trial_class=None,
        config=read_config({**defaults, **config}),
        seed=seed,
        intra_op_threads=1,
        metadata={},
    )


def new_session(
    spec: TrialSpec,
    *,
    collectives: Collectives | None = None,
    stop_request: StopRequest | None = None,
    journal: MemoryJournal | None = None,
    sink: FolderSink | None = None,
) -> TrialSession:
    """Returns a session on the CPU, in this process alone unless collectives are given."""
    return open_session(
        spec,
        collectives=collectives or SingleProcess(),
        device=torch.device("cpu"),
        stop_request=StopRequest() if stop_request is None else stop_request,
        journal=journal,
        sink=sink,
    )


def run_session(
    spec: TrialSpec,
    folder: Path,
    *,
    stop_upon: Event | None = None,
    collectives: Collectives | None = None,
) -> Run:
    """Runs one attempt; checkpoints go to the folder."""
    collectives = SingleProcess() if collectives is None else collectives
    stop_request = StopRequest()
    journal = MemoryJournal(stop_request, stop_upon)
    sink = FolderSink(folder)
    session = new_session(
        spec,
        collectives=collectives,
        stop_request=stop_request,
        journal=journal if collectives.is_chief else None,
        sink=sink if collectives.is_chief else None,
    )
    outcome = session.run()
    # Every process must know from where to go on.
    rows = [(str(saved.path), saved.batches, saved.digest, saved.metrics) for saved in sink.saved]
    return Run(
        outcome,
        journal.training,
        journal.validation,
        journal.events,
        [
            SavedCheckpoint(Path(path), batches, checksum, metrics)
            for path, batches, checksum, metrics in collectives.broadcast(rows, "checkpoints")
        ],
        session.batches_completed,
    )


def resume(spec: TrialSpec, run: Run) -> TrialSpec:
    """Returns the specification that goes on from a run's newest checkpoint."""
    return dataclasses.replace(spec, resume_from=run.checkpoints[-1].path)


def run_with_stops(
    spec: TrialSpec,
    folder: Path,
    stops: Sequence[Event],
    collectives: Collectives | None = None,
) -> Run:
    """Runs to the end in several attempts, each but the last stopped upon its event."""
    run: Run | None = None
    for stop_upon in (*stops, None):
        attempt_spec = spec if run is None else resume(spec, run)
        attempt = run_session(attempt_spec, folder, stop_upon=stop_upon, collectives=collectives)
        run = attempt if run is None else run.then(attempt)
        if attempt.outcome is Outcome.COMPLETED:
            break
    assert run is not None
    return run
