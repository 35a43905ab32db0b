"""Trains a recorded stretch again, in a home of its own, and compares it at each checkpoint.

Nothing is written where the experiment is recorded: the replay is an experiment in a temporary
home, with the submitted code and configuration, that begins at the recorded checkpoint.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trialrun._errors import CheckpointError
from trialrun.controller.bookkeeping import (
    CheckpointRow,
    CheckpointState,
    Database,
    checkpoints_of_trial,
    get_attempt,
    request_stop,
)
from trialrun.controller.checkpoints.comparison import Comparison, compare_checkpoints
from trialrun.controller.checkpoints.contents import read_contents
from trialrun.controller.checkpoints.digest import digest_like
from trialrun.controller.checkpoints.digest_text import version_of
from trialrun.controller.checkpoints.identity import RunIdentity
from trialrun.controller.checkpoints.manifest import verify
from trialrun.controller.claiming import claimed_attempt, locked_trial
from trialrun.controller.config import CheckpointGcConfig
from trialrun.controller.engine.environment import Environment
from trialrun.controller.engine.schedule import Stretch
from trialrun.controller.engine.session import TrialSpec
from trialrun.controller.experiments import PreparedAttempt, submit_experiment
from trialrun.controller.home import Home, make_home
from trialrun.controller.launch.supervisor import AttemptResult
from trialrun.controller.replay_plan import ReplayPlan
from trialrun.controller.running import run_attempt, trial_spec
from trialrun.controller.trial_source import working_directory_of
from trialrun.controller.warm_start import weights_folder

# So many may be written before a difference is seen, whose files are then still there.
_KEPT = CheckpointGcConfig(save_trial_latest=10)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """A recorded checkpoint, and what the replay has at its batch.

    Args:
        recorded: Its record.
        digest: The replay's, in the version of the recorded one.
    """

    recorded: CheckpointRow
    digest: str

    @property
    def is_equal(self) -> bool:
        """Whether the same was learned, to the bit."""
        return self.digest == self.recorded.digest


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayResult:
    """How a replay went.

    Args:
        compared: All that was compared, the oldest first; only the last may be unequal.
        missing: Recorded checkpoints to whose batch the replay did not come.
        end: How the training ended.
        environment: A sentence for each difference to the recorded run that may change bits.
        difference: Where the tensors of the first unequal checkpoint differ; None where its files
            are gone, or all are equal.
    """

    compared: list[Compared]
    missing: list[CheckpointRow]
    end: AttemptResult
    environment: list[str]
    difference: Comparison | None

    @property
    def is_equal(self) -> bool:
        """Whether every recorded checkpoint of the stretch came again."""
        return not self.missing and all(each.is_equal for each in self.compared)

    @property
    def parted_at(self) -> Compared | None:
        """The first checkpoint that is not equal."""
        return next((each for each in self.compared if not each.is_equal), None)


def run_replay(
    database: Database,
    plan: ReplayPlan,
    num_processes: int,
    on_compared: Callable[[Compared], None],
    on_kill: Callable[[], None],
) -> ReplayResult:
    """Trains the stretch and compares each of its checkpoints, until one differs.

    Args:
        database: Where the experiment is recorded; it is only read.
        plan: The stretch.
        num_processes: P.
        on_compared: Called with each comparison as soon as it is made, on another thread.
        on_kill: Called when the user wants it to end at once; it ends this process.
    """
    with tempfile.TemporaryDirectory(prefix="trialrun-replay-") as name:
        folder = Path(name)
        home = Home(folder=folder / "home", database_url=f"sqlite:///{folder}/home/trialrun.db")
        make_home(home)
        records = Database.open(home.database_url)
        weights = None
        if plan.first is None and plan.config.from_checkpoint is not None:
            weights = weights_folder(plan.experiment)
        config = plan.config.model_copy(
            update={"checkpoint_gc": _KEPT, "from_checkpoint": None}
            | {"from_checkpoint_partial": False}
        )
        trial_file = plan.staged(folder)
        _, trial = submit_experiment(
            records,
            home,
            trial_file=trial_file,
            trial_class=plan.experiment.trial_class or None,
            config=config,
            working_directory=working_directory_of(plan.experiment),
        )
        with (
            locked_trial(records, trial.id) as locked,
            claimed_attempt(
                records,
                locked,
                num_processes=num_processes,
                first_batch=plan.first_batch,
                resumed_from=plan.first.uuid if plan.first else None,
            ) as attempt,
        ):
            prepared = PreparedAttempt(
                experiment=locked.experiment,
                trial=locked.trial,
                attempt=attempt,
                config=plan.config.model_copy(update={"checkpoint_gc": _KEPT}),
                folder=locked.folder,
                lock=locked.lock,
                checkpoint=plan.first,
                warnings=[],
            )
            spec = _spec(trial_spec(prepared), plan, trial_file, weights)
            watch = _Watch(records, plan, trial.id, attempt.id, on_compared)
            end = run_attempt(records, prepared, on_tick=watch.look, on_kill=on_kill, spec=spec)
            watch.look()
        recorded_plan = get_attempt(database, plan.last.attempt_id).plan
        return ReplayResult(
            compared=watch.compared,
            missing=watch.missing,
            end=end,
            environment=_differences(get_attempt(records, attempt.id).plan, recorded_plan),
            difference=watch.difference(),
        )


class _Watch:
    """Compares the replay's checkpoints as they are recorded; stops it at the first difference."""

    def __init__(
        self,
        records: Database,
        plan: ReplayPlan,
        trial_id: int,
        attempt_id: int,
        on_compared: Callable[[Compared], None],
    ) -> None:
        self.compared: list[Compared] = []
        self.missing = list(plan.recorded)
        self._parted: tuple[CheckpointRow, Path] | None = None
        self._records = records
        self._trial_id = trial_id
        self._attempt_id = attempt_id
        self._on_compared = on_compared

    def look(self) -> None:
        """Compares what is new, the oldest first."""
        rows = reversed(checkpoints_of_trial(self._records, self._trial_id))
        replayed = {row.batches: row for row in rows}
        while self.missing and self.missing[0].batches in replayed:
            recorded = self.missing[0]
            row = replayed[recorded.batches]
            compared = Compared(recorded=recorded, digest=_digest_as(recorded.digest, row))
            self.missing.pop(0)
            self.compared.append(compared)
            self._on_compared(compared)
            if not compared.is_equal:
                # What comes after it differs as a matter of course.
                self.missing.clear()
                self._parted = (recorded, Path(row.path))
                request_stop(self._records, self._attempt_id)

    def difference(self) -> Comparison | None:
        """Returns where the first unequal checkpoint differs, if both have their files."""
        if self._parted is None:
            return None
        recorded, replayed = self._parted
        if recorded.state is not CheckpointState.COMPLETED or not replayed.is_dir():
            return None
        try:
            verify(Path(recorded.path), recorded.files)
        except CheckpointError:  # said by trialrun checkpoint verify; the digests differ anyway
            return None
        return compare_checkpoints(Path(recorded.path), replayed)


def _digest_as(recorded: str, row: CheckpointRow) -> str:
    """Returns a replayed checkpoint's digest in the version of the recorded one."""
    if version_of(recorded) == version_of(row.digest):
        return row.digest
    contents = read_contents(Path(row.path))
    state = contents.state
    return digest_like(
        recorded, contents.models, state["optimizers"], state["non_persistent_buffers"]
    )


def _spec(spec: TrialSpec, plan: ReplayPlan, trial_file: Path, weights: Path | None) -> TrialSpec:
    """Returns what processes must know: as they would of the recorded trial itself."""
    recorded = {
        "experiment": plan.experiment.id,
        "trial": plan.trial.id,
        "git_commit": plan.experiment.git_commit,
    }
    return dataclasses.replace(
        spec,
        trial_file=trial_file,
        seed=plan.trial.seed,
        metadata=spec.metadata | recorded,
        warm_start_from=weights,
        stretch=Stretch(checkpoints=tuple(sorted({row.batches for row in plan.recorded}))),
    )


def _differences(here: dict[str, Any] | None, recorded: dict[str, Any] | None) -> list[str]:
    """Compares what the attempts computed with; an older version recorded nothing of it."""
    if not here or not recorded or "environment" not in recorded:
        return []
    environment = Environment(**here["environment"])
    return [
        *RunIdentity(**here["identity"]).differences(recorded["identity"]),
        *environment.differences(recorded["environment"]),
    ]
