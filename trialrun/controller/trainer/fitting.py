"""``trialrun.Trainer``: trains a trial that the user's own script has made."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trialrun._construction import Construction
from trialrun._context import TrialContext
from trialrun._errors import InvalidTrialError, RunConflictError
from trialrun._run_record import RunRecord
from trialrun._trial import Trial, require_signatures
from trialrun._units import Unit
from trialrun._wording import count, type_of
from trialrun.controller.checkpoints.contents import read_contents
from trialrun.controller.config import CheckpointPolicy, ExperimentConfig, read_config
from trialrun.controller.engine.determinism import named_operation
from trialrun.controller.engine.loop import Outcome
from trialrun.controller.engine.parallel.slots import SlotError
from trialrun.controller.engine.rehearsal import rehearse_with
from trialrun.controller.engine.reports.tensorboard_log import CheckpointWriter
from trialrun.controller.engine.runtime import Runtime
from trialrun.controller.engine.session import TrialSession, begin_with_weights
from trialrun.controller.engine.stopping import StopRequest
from trialrun.controller.trainer.arguments import (
    AS_CONFIGURED,
    AsConfigured,
    fit_configuration,
)
from trialrun.controller.trainer.attempts import ScriptTrial, TrialClass
from trialrun.controller.trainer.chief import on_chief
from trialrun.controller.trainer.chief_attempt import ChiefAttempt
from trialrun.controller.trainer.initialization import Surroundings, open_surroundings
from trialrun.controller.trainer.process_state import threads
from trialrun.controller.trainer.progress import ProgressLines, say
from trialrun.controller.trainer.signals import ScriptSignals
from trialrun.controller.trainer.starting import CheckpointName, Start
from trialrun.controller.warm_start import find_weights

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a fit ended.

    Args:
        experiment: The experiment's number on record; None for a rehearsal.
        batches: Batches completed.
        is_completed: Whether the trial has reached its length, or has ended itself early; False
            where it was paused.
        checkpoint: The folder of the newest checkpoint, from which a later fit goes on.
    """

    experiment: int | None
    batches: int
    is_completed: bool
    checkpoint: Path | None


class Trainer:
    """Trains a trial in this process, or in all processes that a launcher has started.

    The loop, the records and the numbers are those of ``trialrun submit``: for the same trial,
    configuration and seed both end with the same bits.

    Args:
        trial: The trial, made with the context.
        context: What ``trialrun.init`` gave.

    Raises:
        InvalidTrialError: The trial was made with another context, is no Trial, or
            its methods for batches do not take what they are called with.
        RunConflictError: No ``init`` is open.
    """

    def __init__(self, trial: Trial, context: TrialContext) -> None:
        self._context = context
        self._surroundings = self._require_open()
        self._trial = trial
        self._construction = _require_made_with(self._surroundings.runtime, trial)
        require_signatures(type(trial))
        self._surroundings.runtime.execution.trial_is_built()
        # Another Trainer of the trial, as in a notebook's next cell, goes on where this one ended.
        if not (known := self._surroundings.script_trials):
            known.append(ScriptTrial(self._surroundings.home, TrialClass.of(trial)))
        self._records = known[0]
        self._session: TrialSession | None = None
        self._fitting = threading.Lock()

    def fit(
        self,
        checkpoint_period: Unit | str | None | AsConfigured = AS_CONFIGURED,
        validation_period: Unit | str | None | AsConfigured = AS_CONFIGURED,
        max_length: Unit | str | None = None,
        reporting_period: Unit | str | AsConfigured = AS_CONFIGURED,
        checkpoint_policy: CheckpointPolicy | str | AsConfigured = AS_CONFIGURED,
        latest_checkpoint: CheckpointName = None,
        step_zero_validation: bool | AsConfigured = AS_CONFIGURED,
        test_mode: bool = False,
    ) -> TrainingResult:
        """Trains until the trial has its length, or somebody stops it.

        Lengths and periods are ``Epoch(5)``, ``Batch(500)``, ``Time(7200)``, or text such as
        ``"5ep"``. Those that are left out are as in ``exp_conf`` of ``trialrun.init``, else as
        ``docs/configuration.md`` says. A second fit goes on where the first ended, also one of
        another Trainer of the same trial.

        Args:
            checkpoint_period: How often a checkpoint is taken. None: only as
                ``checkpoint_policy`` says, at stops and at the end.
            validation_period: How often the validation data is evaluated. None: only at the end.
            max_length: When the trial is complete, counted from its start.
            reporting_period: How often training metrics are reported.
            checkpoint_policy: Which validations are followed by a checkpoint: ``"best"``,
                ``"all"`` or ``"none"``.
            latest_checkpoint: Where to go on: ``"latest"``, the newest checkpoint of this script's
                newest experiment with the same ``init``, if there is one; the uuid, path or row of
                a checkpoint; None: at the start, or where this trial's last fit ended.
            step_zero_validation: Whether to validate before the first batch.
            test_mode: Whether to rehearse only: a few batches, a checkpoint, and a restore into a
                fresh trial, which must go on to the same bits. Nothing is recorded.

        Returns:
            How it ended.

        Raises:
            ConfigurationError: An argument is wrong, or there is no length.
            TrialrunError: The trial breaks a rule, or the checkpoint does not fit it.
            KeyboardInterrupt: Ctrl-C. Once: when a checkpoint is taken. Twice: at once.
            SystemExit: SIGTERM or SIGHUP, when a checkpoint is taken.
            Exception: Whatever the user's code raises, as it is.
        """
        surroundings = self._require_open()
        config = fit_configuration(
            surroundings.config_data,
            test_mode=test_mode,
            checkpoint_period=checkpoint_period,
            validation_period=validation_period,
            max_length=AS_CONFIGURED if max_length is None else max_length,
            reporting_period=reporting_period,
            checkpoint_policy=checkpoint_policy,
            step_zero_validation=step_zero_validation,
        )
        with self._alone():
            if test_mode:
                with _user_errors():
                    return self._rehearse(config)
            stop_request = surroundings.runtime.stop_request
            stop_request.clear()
            signals = ScriptSignals(stop_request)
            with _user_errors(), signals.held_back():
                result = self._train(config, latest_checkpoint)
            signals.hand_on()
            return result

    def _require_open(self) -> Surroundings:
        surroundings = open_surroundings()
        if surroundings is None:
            raise RunConflictError(
                "A Trainer trains within the block of trialrun.init, and none is open. Write: with "
                "trialrun.init(...) as context: Trainer(MyTrial(context), context).fit(...)"
            )
        if surroundings.runtime.context is not self._context:
            raise InvalidTrialError(
                "The Trainer's context is not that of the trialrun.init that is open now. Make the "
                "trial and the Trainer with the context of this with block."
            )
        return surroundings

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._fitting.acquire(blocking=False):
            raise RunConflictError(
                "This Trainer trains already. Wait for that fit to return before the next."
            )
        try:
            yield
        finally:
            self._session = None
            self._fitting.release()

    # A rehearsal.

    def _rehearse(self, config: ExperimentConfig) -> TrainingResult:
        runtime = self._surroundings.runtime
        named, max_length = config.from_checkpoint, config.max_length
        weights = None
        if named is not None:
            home = self._surroundings.home
            weights = on_chief(
                runtime.collectives, lambda: str(find_weights(named, home).folder), "weights"
            )

        def open_fresh(
            *,
            config: ExperimentConfig,
            resume_from: Path | None,
            sink: CheckpointWriter | None,
            tensorboard: Path,
        ) -> TrialSession:
            fresh = Runtime(
                dataclasses.replace(
                    runtime.settings, tensorboard_path=tensorboard, max_length=max_length
                ),
                collectives=runtime.collectives,
                device=runtime.device,
                stop_request=StopRequest(),
            )
            trial = self._construction.repeat(fresh.context)
            if weights is not None and resume_from is None:
                begin_with_weights(fresh, Path(weights), config.from_checkpoint_partial)
            return TrialSession(
                fresh,
                trial,
                config=config,
                metadata={},
                contents=None if resume_from is None else read_contents(resume_from),
                journal=None,
                sink=sink,
                max_validation_rounds=1,
            )

        with threads(runtime.settings.intra_op_threads):
            rehearse_with(open_fresh, config, runtime.collectives)
        self._say(
            f"The rehearsal on {count(config.slots, 'slot')} went well: training, validation, a "
            "checkpoint, and a restore into a fresh trial that goes on to the same bits."
        )
        return TrainingResult(experiment=None, batches=0, is_completed=True, checkpoint=None)

    # Training.

    def _train(self, config: ExperimentConfig, latest_checkpoint: CheckpointName) -> TrainingResult:
        runtime = self._surroundings.runtime
        with contextlib.ExitStack() as stack:
            chief = ChiefAttempt(self._records, stack) if runtime.collectives.is_chief else None
            stack.enter_context(self._said_when_interrupted(chief))

            def claim() -> dict[str, Any]:
                assert chief is not None  # called there alone
                return chief.claim(
                    config,
                    latest_checkpoint,
                    num_processes=runtime.collectives.size,
                    check=self._require_startable,
                    batches=self._batches_completed,
                )

            begun = on_chief(runtime.collectives, claim, "begin of the attempt")
            config = read_config(begun["config"])
            runtime.compute_with_threads(config.intra_op_threads or 1)
            with threads(runtime.settings.intra_op_threads):
                outcome = self._run(config, begun, chief)

            def conclude() -> dict[str, Any]:
                assert chief is not None  # called there alone
                return chief.conclude(outcome)

            ended = on_chief(runtime.collectives, conclude, "end of the attempt")
        result = TrainingResult(
            experiment=ended["experiment"],
            batches=ended["batches"],
            is_completed=outcome is Outcome.COMPLETED,
            checkpoint=None if ended["checkpoint"] is None else Path(ended["checkpoint"]),
        )
        self._say(ended["text"])
        return result

    @contextlib.contextmanager
    def _said_when_interrupted(self, chief: ChiefAttempt | None) -> Iterator[None]:
        """Says how to go on when Ctrl-C has ended the attempt at once."""
        try:
            yield
        except KeyboardInterrupt:
            line = None if chief is None else chief.closing_line()
            if line is not None:
                self._say(line)
            raise

    def _run(
        self, config: ExperimentConfig, begun: dict[str, Any], chief: ChiefAttempt | None
    ) -> Outcome:
        runtime = self._surroundings.runtime
        records = None if chief is None else chief.record(runtime.stop_request)
        lines = None
        if records is not None and self._surroundings.prints_progress:
            lines = ProgressLines(records.recorder)
            for line in begun["lines"]:
                say(line)
        for remark in begun["remarks"] if runtime.collectives.is_chief else ():
            logger.warning(remark)
        metadata = begun["metadata"]
        record = RunRecord(
            experiment_config=config.to_json(),
            experiment_id=metadata["experiment"],
            trial_id=metadata["trial"],
        )
        runtime.run_begins(record, Path(begun["tensorboard"]))
        if begun["weights"] is not None:
            begin_with_weights(runtime, Path(begun["weights"]), config.from_checkpoint_partial)
        path = begun["checkpoint"]
        session = TrialSession(
            runtime,
            self._trial,
            config=config,
            metadata=metadata,
            contents=None if path is None else read_contents(Path(path)),
            journal=lines or (records.recorder if records else None),
            sink=records.store if records else None,
        )
        if lines is not None:
            lines.plan = session.plan
            say(f"Plan: {session.plan.describe()}")
        if records is not None:
            self._warn_of_short_length(session)
            records.training_starts(session, runtime.device)
        self._session = session
        self._records.has_trained = True
        return session.run()

    def _warn_of_short_length(self, session: TrialSession) -> None:
        total, clock = session.plan.total_batches, session.batches_completed
        if total is not None and clock > total:
            logger.warning(
                "max_length is %s, which is %s, and %d are complete already: nothing is "
                "trained. Ask for a longer one, or go on from an older checkpoint.",
                session.plan.max_length,
                count(total, "batch"),
                clock,
            )

    def _batches_completed(self) -> int | None:
        return None if self._session is None else self._session.batches_completed

    def _require_startable(self, start: Start) -> None:
        if self._records.has_trained and start.point is None:
            raise RunConflictError(
                "The trial has been trained since it was made, and there is no checkpoint to go "
                "back to. Make trial and Trainer anew, in a new block of trialrun.init."
            )

    def _say(self, text: str) -> None:
        surroundings = self._surroundings
        if surroundings.prints_progress and surroundings.runtime.collectives.is_chief:
            say(text)


@contextlib.contextmanager
def _user_errors() -> Iterator[None]:
    """Lets an exception of the user's code go on as it is, with a note of where it was raised."""
    try:
        yield
    except SlotError as error:
        assert error.__cause__ is not None  # the user's
        raised = named_operation(error.__cause__)
        raised.add_note(f"Raised in slot {error.slot} of the trial.")
    except RuntimeError as error:
        raised = named_operation(error)
    else:
        return
    raise raised


def _require_made_with(runtime: Runtime, trial: Trial) -> Construction:
    if not isinstance(trial, Trial):
        what = type_of(trial) if isinstance(trial, type) else repr(trial)
        raise InvalidTrialError(
            f"Trainer got {what} as its trial. Give it an object of your Trial's class: "
            "Trainer(MyTrial(context), context)."
        )
    construction = runtime.execution.construction
    if construction is None or construction.trial is not trial:
        name = type(trial).__name__
        raise InvalidTrialError(
            f"This {name} was not the first trial to be made with the context of the "
            f"trialrun.init that is open now. Make one trial in each block: Trainer({name}("
            "context), context)."
        )
    return construction
