"""Runs a trial straight and in every other way, and compares all of it with the straight run."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trialrun._errors import InvalidTrialError, TrialrunError
from trialrun._units import Batch
from trialrun.controller.bookkeeping import (
    Database,
    TrialRow,
    attempts_of_trial,
    get_attempt,
    get_experiment,
)
from trialrun.controller.config import (
    CheckpointGcConfig,
    CheckpointPolicy,
    Deterministic,
    ExperimentConfig,
)
from trialrun.controller.experiments import prepared_attempt, submit_experiment
from trialrun.controller.home import DATABASE_FILE, Home, make_home
from trialrun.controller.launch.failures import FailureKind
from trialrun.controller.launch.supervisor import AttemptEnd
from trialrun.controller.running import run_attempt, trial_spec
from trialrun.controller.verification.causes import likely_causes
from trialrun.controller.verification.comparing import (
    Parting,
    RunRecords,
    find_parting,
    read_records,
)
from trialrun.controller.verification.kept_state import Change
from trialrun.controller.verification.observer import Observer
from trialrun.controller.verification.scenarios import (
    STRAIGHT,
    Combination,
    Ground,
    Leg,
    Scenario,
    plan_runs,
)
from trialrun.controller.verification.suspects import find_suspects

_STOP_MISSED = "it ended before the stop that was planned"


class InterruptedVerificationError(TrialrunError):
    """The user has stopped the verification; there is no result."""


class RunFailedError(TrialrunError):
    """A run ended with an error of its own, not with the stop that was planned."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What is verified.

    Args:
        trial_file: The user's file.
        trial_class: The class in it; None: its only one.
        config: The configuration; lengths and periods are chosen anew.
        num_batches: How long each run is, at least: it has four whole windows or more.
        processes: Every P that the machine can serve and that divides the slots, ascending.
    """

    trial_file: Path
    trial_class: str | None
    config: ExperimentConfig
    num_batches: int
    processes: tuple[int, ...]

    @property
    def total_batches(self) -> int:
        """The length of each run: a whole number of aggregation windows."""
        window = self.config.aggregation_frequency
        return max(-(-self.num_batches // window), 4) * window

    @property
    def validation_period(self) -> int:
        """In batches: about four validations in a run, each at a window's end."""
        window = self.config.aggregation_frequency
        return max(self.total_batches // 4 // window, 1) * window


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScenarioResult:
    """How one run compares with the straight one.

    Args:
        scenario: How it was made.
        parting: Where it differs; None where it failed.
        failure: Why it failed, if it did.
    """

    scenario: Scenario
    parting: Parting | None
    failure: str | None = None

    @property
    def holds(self) -> bool:
        """Whether it ended with the same bits."""
        return self.parting is not None and self.parting.is_nowhere

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON data."""
        return {
            "name": self.scenario.name,
            "processes": self.scenario.processes,
            "holds": self.holds,
            "failure": self.failure,
            "parting": None if self.parting is None else self.parting.to_json(),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a verification has found.

    Args:
        slots: S.
        batches: The length of the straight run.
        digest: Its last checkpoint's.
        results: One for each other run, in the order in which they were made.
        causes: What may be behind those that do not hold, the likeliest first.
        is_repeatable: Whether the straight run gives the same bits once more; if not, no other was
            made, as nothing could be seen in it.
    """

    slots: int
    batches: int
    digest: str
    results: list[ScenarioResult]
    causes: list[str]
    is_repeatable: bool

    @property
    def holds(self) -> bool:
        """Whether all runs ended with the same bits."""
        return all(result.holds for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON data."""
        return {
            "holds": self.holds,
            "slots": self.slots,
            "batches": self.batches,
            "digest": self.digest,
            "is_repeatable": self.is_repeatable,
            "scenarios": [result.to_json() for result in self.results],
            "causes": self.causes,
        }


class Verification:
    """Proves on one trial that it gives the same bits from any stop, on any processes.

    Args:
        subject: The trial.
        folder: Where runs are recorded; the caller deletes it.
        on_kill: Called when the user wants it to end at once; it does not return.
    """

    def __init__(self, subject: Subject, folder: Path, on_kill: Callable[[], None]) -> None:
        self._subject = subject
        self._folder = folder
        self._on_kill = on_kill
        database_url = f"sqlite:///{folder / DATABASE_FILE}"
        self._home = Home(folder=folder, database_url=database_url)
        make_home(self._home)
        self._database = Database.open(database_url, create=True)
        self._changed: set[Change] = set()

    def run(self, on_result: Callable[[ScenarioResult], None]) -> Report:
        """Makes all runs.

        Args:
            on_result: Called with each result as soon as it is there.

        Raises:
            InvalidTrialError: The straight run itself fails.
            InterruptedVerificationError: The user has stopped it.
        """
        try:
            straight, _ = self._records_of(STRAIGHT)
        except RunFailedError as error:
            raise InvalidTrialError(f"The straight run failed: {error}") from error
        results = []
        for combination in plan_runs(self._ground(straight)):
            for result in self._results_of(combination, straight):
                results.append(result)
                on_result(result)
            if not _is_repeatable(results):
                break
        return Report(
            slots=self._subject.config.slots,
            batches=straight.batches,
            digest=straight.digests[straight.batches],
            results=results,
            causes=self._causes(results, straight),
            is_repeatable=_is_repeatable(results),
        )

    def _ground(self, straight: RunRecords) -> Ground:
        subject = self._subject
        (attempt,) = attempts_of_trial(self._database, 1)
        return Ground(
            processes=subject.processes,
            total_batches=straight.batches,
            epoch_length=(attempt.plan or {}).get("epoch_length"),
            window=subject.config.aggregation_frequency,
            validation_period=subject.validation_period,
            validates=straight.diaries.num_validation_batches > 0,
            learns_from_validations=straight.diaries.learns_from_validations,
            num_workers=straight.diaries.num_workers,
        )

    def _results_of(
        self, combination: Combination, straight: RunRecords
    ) -> Iterator[ScenarioResult]:
        """Tries scenarios together, and where that does not hold each for itself."""
        scenarios = combination.scenarios
        together = self._result_of(combination.run, straight)
        if together.holds:
            for scenario in combination.as_run:
                yield dataclasses.replace(together, scenario=scenario)
            return
        if len(scenarios) == 1:
            yield dataclasses.replace(together, scenario=scenarios[0])
            return
        has_parted = False
        for scenario in scenarios:
            result = self._result_of(scenario, straight)
            has_parted |= not result.holds
            yield result
        # That stops come otherwise than planned says nothing about the trial.
        if not has_parted and together.failure != _STOP_MISSED:
            yield together

    def _result_of(self, scenario: Scenario, straight: RunRecords) -> ScenarioResult:
        try:
            records, trial = self._records_of(scenario)
        except RunFailedError as error:
            return ScenarioResult(scenario=scenario, parting=None, failure=str(error))
        same_validations = scenario.validation_period is None
        parting = find_parting(straight, records, same_validations=same_validations)
        self._changed |= set(records.diaries.changed)
        shutil.rmtree(get_experiment(self._database, trial.experiment_id).directory)
        return ScenarioResult(scenario=scenario, parting=parting)

    def _records_of(self, scenario: Scenario, **changes: Any) -> tuple[RunRecords, TrialRow]:
        _, trial = submit_experiment(
            self._database,
            self._home,
            trial_file=self._subject.trial_file,
            trial_class=self._subject.trial_class,
            config=self._config_of(scenario).model_copy(update=changes),
        )
        diaries = self._folder / f"diaries-{trial.id}"
        diaries.mkdir()
        ends = [self._run(trial, leg, scenario, diaries) for leg in scenario.legs]
        if ends[-1] is not AttemptEnd.COMPLETED:
            raise RunFailedError("it did not go on to its end")
        return read_records(self._database, trial.id, diaries), trial

    def _run(self, trial: TrialRow, leg: Leg, scenario: Scenario, diaries: Path) -> AttemptEnd:
        observer = Observer(
            folder=diaries,
            stop=leg.stop,
            num_workers=scenario.num_workers,
            last_batch=self._subject.total_batches - 1,
            watches_state=scenario == STRAIGHT or scenario.num_workers == 0,
        )
        with prepared_attempt(self._database, trial.id, leg.processes) as prepared:
            result = run_attempt(
                self._database,
                prepared,
                on_tick=lambda: None,
                on_kill=self._on_kill,
                spec=dataclasses.replace(trial_spec(prepared), observer=observer),
            )
        attempt = get_attempt(self._database, prepared.attempt.id)
        if attempt.stop_requested is not None:
            raise InterruptedVerificationError("Stopped: there is no result.")
        is_kill = leg.stop is not None and leg.stop.is_kill
        failure = result.failure
        # A run that fails by itself before it is killed has not come through that.
        if failure is not None and not (is_kill and failure.kind is FailureKind.LOST):
            raise RunFailedError(failure.message)
        if leg.stop is not None and result.end is AttemptEnd.COMPLETED:
            raise RunFailedError(_STOP_MISSED)
        return result.end

    def _config_of(self, scenario: Scenario) -> ExperimentConfig:
        subject = self._subject
        window, total = subject.config.aggregation_frequency, subject.total_batches
        return subject.config.model_copy(
            update={
                "name": scenario.name,
                "processes": None,
                "max_length": Batch(total),
                "reporting_period": Batch(max(total // 6, 1)),
                "validation_period": Batch(scenario.validation_period or subject.validation_period),
                "checkpoint_period": Batch(scenario.checkpoint_period or window),
                "checkpoint_policy": CheckpointPolicy.NONE,
                "checkpoint_gc": CheckpointGcConfig(save_trial_best=0, save_trial_latest=total),
                "tensorboard": False,
                "from_checkpoint": None,
                "from_checkpoint_partial": False,
            }
        )

    def _causes(self, results: list[ScenarioResult], straight: RunRecords) -> list[str]:
        partings = list(_partings(results))
        if not partings:
            return []
        return likely_causes(
            partings,
            changed=sorted({*straight.diaries.changed, *self._changed}),
            suspects=find_suspects(self._subject.trial_file, Path.cwd()),
            nondeterministic=self._refused_operation(),
        )

    def _refused_operation(self) -> str | None:
        """Returns what strict mode says of the trial; None where it refuses no operation."""
        try:
            self._records_of(STRAIGHT, deterministic=Deterministic.STRICT)
        except RunFailedError as error:
            return str(error) if "deterministic: strict" in str(error) else None
        return None


def _is_repeatable(results: list[ScenarioResult]) -> bool:
    """Returns whether a run in which nothing was changed has learned the same."""
    return not any(
        result.parting is not None and bool(result.parting.records or result.parting.weights)
        for result in results
        if result.scenario.is_repeat
    )


def _partings(results: list[ScenarioResult]) -> Iterator[tuple[Scenario, Parting]]:
    for result in results:
        if result.parting is not None and not result.parting.is_nowhere:
            yield result.scenario, result.parting
