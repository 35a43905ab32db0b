"""One training process: joins the others, trains its slots, and says how it ended.

The supervisor forks it from a server that has this module, and so torch, loaded already.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from trialrun._errors import CheckpointError, TrialrunError
from trialrun.controller.bookkeeping import Database, Recorder, get_attempt
from trialrun.controller.checkpoints.retention import CheckpointKeeper
from trialrun.controller.checkpoints.store import CheckpointStore
from trialrun.controller.engine.collectives import (
    Collectives,
    PeerLostError,
    ProcessGroup,
    SingleProcess,
)
from trialrun.controller.engine.devices import prepare_device
from trialrun.controller.engine.loop import Outcome
from trialrun.controller.engine.reducers import ReducerError
from trialrun.controller.engine.rehearsal import rehearse
from trialrun.controller.engine.session import TrialSession, TrialSpec, open_session
from trialrun.controller.engine.slots import SlotError
from trialrun.controller.engine.stopping import StopRequest
from trialrun.controller.launch.bell import BellListener
from trialrun.controller.launch.failures import Failure, FailureKind
from trialrun.controller.launch.lock import TrialLock
from trialrun.controller.order_arrays import OrderArrays

logger = logging.getLogger(__name__)

_COLLECTIVE_TIMEOUT = datetime.timedelta(hours=1)
_GRACE_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """Where the chief records an attempt."""

    database_url: str
    attempt_id: int
    checkpoints: Path
    order_arrays: Path


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
    """

    spec: TrialSpec
    num_processes: int
    attempt_folder: Path
    recording: Recording | None
    lock: TrialLock | None
    bell: BellListener


def log_file(attempt_folder: Path, process: int) -> Path:
    """Returns where a process's output goes."""
    return attempt_folder / f"process-{process}.log"


def train_process(assignment: Assignment) -> str:
    """Trains this process's slots: the entry point of a process under torch's elastic agent.

    Args:
        assignment: What to train.

    Returns:
        The name of the outcome. A failure is left in the attempt's folder, and the process exits
        with 1.
    """
    # Set by the agent, which starts every process with its place.
    rank = int(os.environ["RANK"])
    local_rank = int(os.environ["LOCAL_RANK"])
    _redirect_output(log_file(assignment.attempt_folder, rank))
    stop_request = StopRequest()
    _hear_signals(stop_request)
    if assignment.lock is not None:
        assignment.lock.keep_from_children()
    process = _Process(assignment, stop_request, rank, local_rank)
    _listen(stop_request, assignment.bell, on_dead=process.end)
    try:
        return process.train().name
    except BaseException as error:  # such as SystemExit
        failure = process.explain(error)
        failure.write(assignment.attempt_folder)
        if failure.kind is not FailureKind.PEER_LOST:
            print(failure.traceback or failure.message, file=sys.stderr)
        sys.exit(1)
    finally:
        process.has_ended.set()


class _Process:
    def __init__(
        self, assignment: Assignment, stop_request: StopRequest, rank: int, local_rank: int
    ) -> None:
        self._assignment = assignment
        self._stop_request = stop_request
        self._rank = rank
        self._device = prepare_device(local_rank)
        self._session: TrialSession | None = None
        self._store: CheckpointStore | None = None
        # Once training is over: the chief's checkpoints, records and failure may take their time.
        self._is_ending = False
        self.has_ended = threading.Event()

    def train(self) -> Outcome:
        with _joined(self._assignment.num_processes, self._device) as collectives:
            recording = self._assignment.recording
            if recording is None:
                rehearse(self._assignment.spec, collectives, self._device)
                return Outcome.COMPLETED
            if not collectives.is_chief:
                return self._run(self._new_session(collectives, None, None))
            return self._train_as_chief(collectives, recording)

    def _train_as_chief(self, collectives: Collectives, recording: Recording) -> Outcome:
        database = Database.open(recording.database_url, create=False)
        attempt = get_attempt(database, recording.attempt_id)
        with Recorder(database, attempt, on_stop=lambda _: self._stop_request.set()) as recorder:
            config = self._assignment.spec.config
            keeper = CheckpointKeeper(database, attempt.trial_id, recorder, config)
            store = self._store = CheckpointStore(recording.checkpoints, keeper.stored)
            try:
                session = self._new_session(collectives, recorder, store)
                arrays = OrderArrays(recording.order_arrays, writer=str(attempt.trial_id))
                recorder.plan(
                    {**session.plan.to_json(), "data": session.describe_data(arrays.keep)},
                    total_batches=session.plan.total_batches,
                    device=_describe_device(self._device),
                )
                recorder.training_started()
                return self._run(session)
            finally:
                self._is_ending = True
                # The newest checkpoint is finished also when the trial has failed.
                failure = store.close()
                if failure is not None and sys.exc_info()[0] is None:
                    raise CheckpointError(
                        f"The last checkpoint could not be written: {failure}. The older ones are "
                        "whole; make room and resume."
                    ) from failure

    def _new_session(
        self,
        collectives: Collectives,
        recorder: Recorder | None,
        store: CheckpointStore | None,
    ) -> TrialSession:
        return open_session(
            self._assignment.spec,
            collectives=collectives,
            device=self._device,
            stop_request=self._stop_request,
            journal=recorder,
            sink=store,
        )

    def _run(self, session: TrialSession) -> Outcome:
        self._session = session
        return session.run()

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
        place = "while the trial was set up"
        if self._session is not None:
            place = f"at batch {self._session.batches_completed}"
        if isinstance(error, SlotError) and error.__cause__ is not None:
            place = f"in slot {error.slot} {place}"
            cause: BaseException = error.__cause__
        else:
            cause = error
        if isinstance(cause, PeerLostError):
            kind, message, trace = FailureKind.PEER_LOST, str(cause), None
        elif isinstance(cause, TrialrunError):
            kind, message, trace = FailureKind.RULE, str(cause), None
            if self._session is not None:
                message = f"{message} (At batch {self._session.batches_completed}.)"
            if isinstance(cause, ReducerError) and cause.__cause__ is not None:
                trace = self._traceback(cause.__cause__)
        else:
            kind = FailureKind.USER_CODE
            message = f"{type(cause).__name__} {place}: {cause}"
            if isinstance(cause, SystemExit):
                argument = "" if cause.code is None else repr(cause.code)
                message = (
                    f"The trial called sys.exit({argument}) {place}. To end it, call "
                    "context.set_stop_requested(True), or raise an exception."
                )
            trace = self._traceback(cause)
        return Failure(kind=kind, message=message, traceback=trace, process=self._rank)

    def _traceback(self, error: BaseException) -> str:
        """Returns the traceback from the user's first line on; all of it where there is none."""
        folder = self._assignment.spec.trial_file.parent
        frame = error.__traceback__
        while frame is not None and folder not in Path(frame.tb_frame.f_code.co_filename).parents:
            frame = frame.tb_next
        lines = traceback.format_exception(type(error), error, frame or error.__traceback__)
        return "".join(lines).rstrip("\n")


@contextlib.contextmanager
def _joined(num_processes: int, device: torch.device) -> Iterator[Collectives]:
    if num_processes == 1:
        yield SingleProcess()
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        device_id=device if device.type == "cuda" else None,
        # The agent notices processes that have ended. One that only waits, as for a slow disk, is
        # none of them.
        timeout=_COLLECTIVE_TIMEOUT,
    )
    yield ProcessGroup(device)
    # Not after a failure: then peers are gone, and the process ends anyway.
    dist.destroy_process_group()


def _describe_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _redirect_output(path: Path) -> None:
    """Sends all output, of C libraries too, to the process's log file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a real file
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO, force=True)
    # What the trial logs is for its author; what libraries log is not, unless it warns.
    for library in ("torch", "sqlalchemy", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)


def _hear_signals(stop_request: StopRequest) -> None:
    # The terminal sends SIGINT to everybody; what it means is for the supervisor to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Service managers send SIGTERM to everybody, and mean the same for all.
    signal.signal(signal.SIGTERM, lambda *_: stop_request.set())


def _listen(stop_request: StopRequest, bell: BellListener, on_dead: Callable[[], None]) -> None:
    """Hears stop requests, and that the supervisor, or another process, is gone."""

    def listen() -> None:
        while bell.wait():
            stop_request.set()
        on_dead()

    threading.Thread(target=listen, name="supervisor-watch", daemon=True).start()
