"""What ends a fit before its time, and what the records and the script hear of it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner

import trialrun
from trialrun.cli import main
from trialrun.controller.bookkeeping import RunState, get_experiment, request_stop

from .scripts import FIT, Scripts, load, pause_now


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal() -> Iterator[None]:
    """A test run in the background may have been told to ignore them."""
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def doing_at(batch: int, action: Callable[[Any], None]) -> Any:
    """Returns a trial class that does something in the first slot of one batch."""
    linear = load("linear")

    class Doing(linear):  # type: ignore[misc,valid-type]  # a class that mypy does not see
        def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> Any:
            if (batch_idx, self.context.slot) == (at, 0):
                action(self.context)
            return super().train_batch(batch, epoch_idx, batch_idx)

    at = batch
    Doing.__module__, Doing.__qualname__ = linear.__module__, linear.__qualname__
    return Doing


def sending(*numbers: signal.Signals) -> Callable[[Any], None]:
    """Returns what sends signals to this process, each when the one before was heard."""

    def send(context: trialrun.TrialContext) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)
            while not context.get_stop_requested():
                time.sleep(0.001)

    return send


@pytest.mark.parametrize("slots", [1, 2])
def test_ctrl_c_once_takes_a_checkpoint_and_then_interrupts_the_script(
    slots: int, scripts: Scripts, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    interrupted = doing_at(4, sending(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        scripts.train(interrupted, {"slots": slots})
    assert signal.getsignal(signal.SIGINT) is handler
    (attempt,) = scripts.attempts()
    assert (attempt.state, attempt.error) == (RunState.PAUSED, None)
    paused_at = scripts.checkpoints()[0].batches
    assert paused_at in (5, 6)
    assert capsys.readouterr().out.endswith(
        f"Paused experiment 1 after {paused_at} batches. To go on, run the script or notebook "
        'again, with trainer.fit(..., latest_checkpoint="latest").\n'
    )
    scripts.train(load("linear"), {"slots": slots}, latest_checkpoint="latest")
    scripts.train(load("linear"), {"slots": slots, "name": "straight"})
    assert scripts.digests(1)[10] == scripts.digests(2)[10]


@pytest.mark.parametrize("slots", [1, 2])
def test_ctrl_c_twice_stops_at_once_and_the_newest_checkpoint_is_good(
    slots: int, scripts: Scripts, capsys: pytest.CaptureFixture[str]
) -> None:
    num_threads = threading.active_count()
    interrupted = doing_at(4, sending(signal.SIGINT, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        scripts.train(interrupted, {"slots": slots})
    assert capsys.readouterr().out.endswith(
        "\nStopped experiment 1 at once. To go on, run the script or notebook again, with "
        'trainer.fit(..., latest_checkpoint="latest").\n'
    )
    assert threading.active_count() == num_threads
    (attempt,) = scripts.attempts()
    assert (attempt.state, attempt.error) == (RunState.KILLED, "Stopped at once by Ctrl-C.")
    assert scripts.checkpoints()[0].batches == 4
    scripts.train(load("linear"), {"slots": slots}, latest_checkpoint="latest")
    scripts.train(load("linear"), {"slots": slots, "name": "straight"})
    assert scripts.digests(1)[10] == scripts.digests(2)[10]


def test_sigterm_takes_a_checkpoint_and_ends_the_script(scripts: Scripts) -> None:
    with pytest.raises(SystemExit) as caught:
        scripts.train(doing_at(4, sending(signal.SIGTERM)))
    assert caught.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert scripts.attempts()[0].state is RunState.PAUSED


def test_a_handler_of_the_scripts_own_hears_the_signal_when_the_checkpoint_is_taken(
    scripts: Scripts,
) -> None:
    heard = []

    def hear(number: int, frame: object) -> None:
        heard.append((number, scripts.attempts()[0].state))

    before = signal.signal(signal.SIGTERM, hear)
    try:
        result = scripts.train(doing_at(4, sending(signal.SIGTERM, signal.SIGTERM)))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [(signal.SIGTERM, RunState.PAUSED)]
    assert not result.is_completed


def test_a_signal_that_the_script_ignores_stays_ignored(scripts: Scripts) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        hang_up = doing_at(4, lambda _: os.kill(os.getpid(), signal.SIGHUP))
        assert scripts.train(hang_up).is_completed
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_pause_from_elsewhere_lets_fit_return(scripts: Scripts) -> None:
    def pause(context: trialrun.TrialContext) -> None:
        request_stop(scripts.database, scripts.attempts()[0].id)
        while not context.get_stop_requested():
            time.sleep(0.01)

    result = scripts.train(doing_at(4, pause))
    assert not result.is_completed
    assert result.batches in (5, 6)
    assert scripts.attempts()[0].state is RunState.PAUSED
    assert scripts.train(load("linear"), latest_checkpoint="latest").is_completed


def test_a_stop_that_was_asked_for_once_does_not_stop_the_next_fit(scripts: Scripts) -> None:
    with scripts.init() as context:
        trainer = trialrun.Trainer(doing_at(4, lambda _: pause_now())(context), context)
        assert not trainer.fit(**FIT).is_completed
        assert trainer.fit(**FIT).is_completed


def test_a_trial_that_ends_itself_is_complete_until_another_length_is_asked_for(
    scripts: Scripts, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(context: trialrun.TrialContext) -> None:
        context.set_stop_requested(True)

    with scripts.init() as context:
        trainer = trialrun.Trainer(doing_at(4, ask)(context), context)
        first = trainer.fit(**FIT)
        assert (first.is_completed, first.batches) == (True, 6)
        ended = "Completed experiment 1 after 6 of 10 batches: the trial itself asked to end."
        assert capsys.readouterr().out.splitlines()[-1] == ended
        again = trainer.fit(**FIT)
        assert (again.is_completed, again.batches) == (True, 6)
        assert (
            "The trial itself asked to end at batch 6, and is complete: nothing is trained. Ask "
            "for another max_length than 10ba to go on."
        ) in caplog.messages
        longer = trainer.fit(**{**FIT, "max_length": "11ba"})
        assert (longer.is_completed, longer.batches) == (True, 11)
        assert (
            "The trial itself asked to end at batch 6. It goes on, since max_length is 11ba now."
        ) in caplog.messages


def test_resume_by_command_is_refused_and_says_what_to_do(scripts: Scripts) -> None:
    scripts.train(doing_at(4, lambda _: pause_now()))
    result = CliRunner().invoke(main, ["resume", "1", "--home", str(scripts.home)])
    assert result.exit_code != 0
    assert (
        "Experiment 1 was trained by a script of yours, which alone can make its trial. To go on, "
        'run the script or notebook again, with trainer.fit(..., latest_checkpoint="latest").'
    ) in result.output
    scripts.train(load("linear"), max_length="6ba", latest_checkpoint="latest")
    result = CliRunner().invoke(main, ["resume", "1", "--home", str(scripts.home)])
    assert result.stderr == (
        "Error: Experiment 1 is complete, after 6 batches: there is nothing to resume. To train "
        "longer, run the script or notebook again, with trainer.fit(max_length=..., "
        'latest_checkpoint="latest") and a larger max_length.\n'
    )


# Failures.


@pytest.mark.parametrize("slots", [1, 2])
def test_an_exception_of_the_trial_is_the_scripts_and_on_record(
    slots: int, scripts: Scripts
) -> None:
    mistake = LookupError("no such record")

    def fail(_: object) -> None:
        raise mistake from OSError("the disk")

    with pytest.raises(LookupError) as caught:
        scripts.train(doing_at(4, fail), {"slots": slots})
    assert caught.value is mistake
    assert str(caught.value.__cause__) == "the disk"
    assert caught.value.__notes__ == ["Raised in slot 0 of the trial."]
    (attempt,) = scripts.attempts()
    assert attempt.state is RunState.ERROR
    assert attempt.error == "LookupError in slot 0 at batch 4: no such record"
    assert attempt.error_traceback is not None and "raise mistake" in attempt.error_traceback
    assert scripts.train(load("linear"), {"slots": slots}, latest_checkpoint="latest").is_completed


def test_a_broken_rule_is_on_record_too(scripts: Scripts) -> None:
    class Wrapless(load("linear")):  # type: ignore[misc]  # a class that mypy does not see
        def __init__(self, context: trialrun.TrialContext) -> None:
            self.hparams = {"num_records": 12, "batch_size": 2, "num_workers": 0}

    with pytest.raises(trialrun.InvalidTrialError, match=r"^The trial wrapped no model\."):
        scripts.train(Wrapless)
    (attempt,) = scripts.attempts()
    assert attempt.state is RunState.ERROR
    assert (attempt.error or "").startswith("The trial wrapped no model.")


def test_sys_exit_in_a_trial_ends_the_script(scripts: Scripts) -> None:
    with pytest.raises(SystemExit) as caught:
        scripts.train(doing_at(4, lambda _: sys.exit(5)))
    assert caught.value.code == 5
    assert "The trial called sys.exit(5) in slot 0 at batch 4." in (
        scripts.attempts()[0].error or ""
    )


# Notebooks.


def test_it_trains_in_a_thread_that_hears_no_signals(scripts: Scripts) -> None:
    results = []
    handlers = []

    def run() -> None:
        results.append(scripts.train(load("conv")))

    def look(_: object) -> None:
        handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    scripts.train(load("conv"), {"name": "main thread"})
    assert results[0].is_completed
    assert scripts.digests(1) == scripts.digests(2)
    thread = threading.Thread(target=scripts.train, args=(doing_at(4, look),))
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def test_a_class_of_an_interactive_session_has_no_file_and_the_record_says_so(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("from trials.linear import Linear\nclass Cell(Linear): pass", namespace)
    scripts.train(doing_at(4, lambda _: pause_now()))
    result = scripts.train(namespace["Cell"])
    assert result.experiment == 2
    row = get_experiment(scripts.database, 2)
    assert (row.name, row.trial_file, row.trial_class) == ("Cell", "", "__main__:Cell")
    shown = CliRunner().invoke(main, ["show", "2", "--home", str(scripts.home)]).output
    assert "none: the class was defined in an interactive session" in shown
    again = scripts.train(namespace["Cell"], latest_checkpoint="latest")
    assert (again.experiment, again.batches) == (2, 10)


def test_commands_read_what_a_script_has_recorded(scripts: Scripts) -> None:
    scripts.train(load("linear"))
    home = ["--home", str(scripts.home)]
    for arguments in (
        ["list"],
        ["show", "1"],
        ["metrics", "1"],
        ["logs", "1"],
        ["checkpoint", "list", "1"],
        ["checkpoint", "verify", scripts.checkpoints()[0].uuid],
        ["data", "show", "1", "--batch", "7"],
        ["data", "find", "1", "--record", "3"],
    ):
        result = CliRunner().invoke(main, [*arguments, *home])
        assert result.exit_code == 0, (arguments, result.output)
    paused = CliRunner().invoke(main, ["pause", "1", *home])
    assert "Experiment 1 does not run: it is COMPLETED." in paused.output
