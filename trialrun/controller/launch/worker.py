"""One training process: joins the others, trains its slots, and says how it ended.

The supervisor forks it from a server that has this module, and so torch, loaded already.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time
from pathlib import Path

from trialrun.controller.checkpoints.store import CheckpointStore
from trialrun.controller.engine.devices import prepare_device
from trialrun.controller.engine.loop import Outcome
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.rehearsal import rehearse
from trialrun.controller.engine.session import TrialSession, TrialSpec, open_session
from trialrun.controller.engine.stopping import StopRequest
from trialrun.controller.launch.bell import BellListener
from trialrun.controller.launch.child import (
    listen,
    log_file,
    redirect_output,
    start_children_as_usual,
)
from trialrun.controller.launch.explaining import explain
from trialrun.controller.launch.failures import Failure, FailureKind
from trialrun.controller.launch.hanging import tell_stacks
from trialrun.controller.launch.heartbeats import Heartbeats
from trialrun.controller.launch.joining import join, leave
from trialrun.controller.launch.lock import TrialLock
from trialrun.controller.launch.place import Place
from trialrun.controller.launch.recording import AttemptRecords, Recording, recorded

_GRACE_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assignment:
    """What the supervisor hands to every process of an attempt.

    Args:
        spec: The trial.
        num_processes: P.
        attempt_folder: Where processes leave their output and failures.
        recording: Where the chief records; None for a rehearsal, which leaves no records.
        lock: Held as long as any process lives; None for a rehearsal.
        bell: Rings when the supervisor wants a stop; goes dead with it, or with another process.
        heartbeats: Where each process says that it goes on.
    """

    spec: TrialSpec
    num_processes: int
    attempt_folder: Path
    recording: Recording | None
    lock: TrialLock | None
    bell: BellListener
    heartbeats: Heartbeats


def train_process(assignment: Assignment) -> str:
    """Trains this process's slots: the entry point of a process under torch's elastic agent.

    Args:
        assignment: What to train.

    Returns:
        The name of the outcome. A failure is left in the attempt's folder, and the process exits
        with 1.
    """
    place = Place.from_environment()  # set by the agent
    redirect_output(log_file(assignment.attempt_folder, place.rank))
    start_children_as_usual()
    tell_stacks()
    stop_request = StopRequest()
    _hear_signals(stop_request)
    if assignment.lock is not None:
        assignment.lock.keep_from_children()
    process = _Process(assignment, stop_request, place)
    listen(stop_request, assignment.bell, on_dead=process.end)
    try:
        return process.train().name
    except BaseException as error:  # such as SystemExit
        failure = process.explain(error)
        failure.write(assignment.attempt_folder)
        if failure.kind is not FailureKind.PEER_LOST:
            print(failure.text, file=sys.stderr)
        sys.exit(1)
    finally:
        process.has_ended.set()


class _Process:
    def __init__(self, assignment: Assignment, stop_request: StopRequest, place: Place) -> None:
        self._assignment = assignment
        self._stop_request = stop_request
        self._place = place
        self._device = prepare_device(
            place.local_rank, assignment.spec.config.deterministic, warns=place.rank == 0
        )
        self._session: TrialSession | None = None
        self._store: CheckpointStore | None = None
        # Once training is over: the chief's checkpoints, records and failure may take their time.
        self._is_ending = False
        self.has_ended = threading.Event()

    def train(self) -> Outcome:
        collectives = join(self._place, self._device)
        recording = self._assignment.recording
        if recording is None:
            rehearse(self._assignment.spec, collectives, self._device)
            outcome = Outcome.COMPLETED
        elif collectives.is_chief:
            outcome = self._train_as_chief(collectives, recording)
        else:
            outcome = self._run(self._new_session(collectives, None))
        # Not after a failure: then peers are gone, and the process ends anyway.
        collectives.close()
        leave(collectives)
        return outcome

    def _train_as_chief(self, collectives: Collectives, recording: Recording) -> Outcome:
        config = self._assignment.spec.config
        with recorded(recording, config, self._stop_request, self._beat) as records:
            self._store = records.store
            try:
                session = self._new_session(collectives, records)
                records.training_starts(session, self._device)
                return self._run(session)
            finally:
                self._is_ending = True

    def _new_session(
        self, collectives: Collectives, records: AttemptRecords | None
    ) -> TrialSession:
        return open_session(
            self._assignment.spec,
            collectives=collectives,
            device=self._device,
            stop_request=self._stop_request,
            journal=records.recorder if records else None,
            sink=records.store if records else None,
            on_progress=self._beat,
        )

    def _run(self, session: TrialSession) -> Outcome:
        self._session = session
        self._beat()
        return session.run()

    def _beat(self) -> None:
        if self._session is not None:
            batches = self._session.batches_completed
            self._assignment.heartbeats.beat(self._place.rank, batches)

    def end(self) -> None:
        """Ends this process while it computes; a checkpoint that is being written is finished."""
        # One that misses another process finds that out by itself, if it does not compute.
        time.sleep(_GRACE_SECONDS)
        if self._is_ending:
            self.has_ended.wait()
        elif self._store is not None:
            self._store.wait()
        os._exit(1)

    def explain(self, error: BaseException) -> Failure:
        return explain(
            error,
            batches=None if self._session is None else self._session.batches_completed,
            process=self._place.rank,
            user_folder=self._assignment.spec.trial_file.parent,
        )


def _hear_signals(stop_request: StopRequest) -> None:
    # The terminal sends SIGINT to everybody; what it means is for the supervisor to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Service managers send SIGTERM to everybody, and mean the same for all.
    signal.signal(signal.SIGTERM, lambda *_: stop_request.set())
