"""One run, stopped in every way that there is, ends with the bits of one that was never stopped."""

from __future__ import annotations

import random
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from trialrun.controller.bookkeeping import RunState, get_trial

from .workplace import CONFIG, NUM_BATCHES, Result, Running, Workplace, wait_for

SEED = 20


@dataclass
class Story:
    """What happened to the run: how each of its attempts ended, and what else was seen."""

    place: Workplace
    attempts: dict[str, Result] = field(default_factory=dict)
    commands: dict[str, Result] = field(default_factory=dict)
    states: dict[str, RunState] = field(default_factory=dict)
    orphans: list[psutil.Process] = field(default_factory=list)
    leftovers: list[Path] = field(default_factory=list)
    processes: list[psutil.Process] = field(default_factory=list)
    draws: random.Random = field(default_factory=lambda: random.Random(SEED))
    stops: dict[str, int] = field(default_factory=dict)

    def hold(self, way: str) -> int:
        """Draws the batch at which the next attempt will stand."""
        clock = get_trial(self.place.database, 1).batches_completed if self.stops else 0
        self.stops[way] = clock + self.draws.randint(1, 3)
        self.place.hold(self.stops[way])
        return self.stops[way]

    def start(self, way: str, *arguments: str) -> Running:
        """Starts an attempt and waits until it stands at a drawn batch."""
        stop = self.hold(way)
        attempt = self.place.start(*arguments)
        self.place.wait_until_held(stop, attempt)
        self.processes += attempt.descendants()
        return attempt

    def release(self, way: str) -> None:
        self.place.release(self.stops[way], slowly=True)

    def end(self, way: str, attempt: Running) -> None:
        self.attempts[way] = attempt.finish()
        self.states[way] = self.place.attempts()[-1].state


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    # Here each loss ends an attempt; that they are restarted is for test_restarts.
    config = f"{CONFIG}max_restarts: 0\n"
    place = Workplace(tmp_path_factory.mktemp("stopped"), config=config)
    story = Story(place)
    _ctrl_c(story)
    _sigterm_to_all(story)
    _pause(story)
    _lose_one_process(story)
    _lose_the_supervisor(story)
    _lose_everything(story)
    _kill(story)
    story.end("last", place.start("resume", "1", "--processes", "2"))
    return story


def _ctrl_c(story: Story) -> None:
    attempt = story.start("ctrl-c", "submit", "trial.py", "--processes", "2")
    attempt.interrupt()
    story.place.wait_until_stop_is_requested()
    story.release("ctrl-c")
    story.end("ctrl-c", attempt)


def _sigterm_to_all(story: Story) -> None:
    attempt = story.start("sigterm", "resume", "1", "--processes", "4")
    # As service managers do.
    attempt.signal_all(signal.SIGTERM)
    story.place.wait_until_stop_is_requested()
    story.release("sigterm")
    story.end("sigterm", attempt)


def _pause(story: Story) -> None:
    attempt = story.start("pause", "resume", "1", "--processes", "1")
    story.commands["list while running"] = story.place.run("list")
    logs = story.place.start("logs", "1", "-f")
    pause = story.place.start("pause", "1")
    story.place.wait_until_stop_is_requested()
    story.release("pause")
    story.end("pause", attempt)
    story.commands["pause"] = pause.finish()
    story.commands["logs -f"] = logs.finish()


def _lose_one_process(story: Story) -> None:
    stop = story.hold("process lost")
    both = [story.place.start("resume", "1", "--processes", "2") for _ in range(2)]
    story.place.wait_until_held(stop, *both)
    wait_for(lambda: not all(attempt.is_running() for attempt in both))
    refused, attempt = sorted(both, key=Running.is_running)
    story.commands["second resume"] = refused.finish()
    story.processes += attempt.descendants()
    attempt.training_processes()[1].kill()
    story.release("process lost")
    story.end("process lost", attempt)


def _lose_the_supervisor(story: Story) -> None:
    attempt = story.start("supervisor lost", "resume", "1", "--processes", "2")
    training = attempt.training_processes()
    assert len(training) == 2
    attempt.signal_supervisor(signal.SIGKILL)
    # The trial still stands at its gate: its processes end for the supervisor's sake alone.
    story.orphans = psutil.wait_procs(training, timeout=60)[1]
    story.release("supervisor lost")
    story.commands["list after the supervisor"] = story.place.run("list", "--json")
    story.end("supervisor lost", attempt)


def _lose_everything(story: Story) -> None:
    attempt = story.start("all lost", "resume", "1", "--processes", "4")
    attempt.signal_all(signal.SIGKILL)
    story.release("all lost")
    story.attempts["all lost"] = attempt.finish()
    checkpoints = Path(story.place.checkpoints()[0].path).parent
    story.leftovers = [
        checkpoints / ".partial-0b54d1c4-8be1-4d5f-a2b5-9b3c6fd0a3f1",
        checkpoints / "6a2f41b7-0c3a-4c2e-8b56-0f8f6d1f7d11",
    ]
    for folder in story.leftovers:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half of it")
    story.commands["list after all"] = story.place.run("list")
    story.states["all lost"] = story.place.attempts()[-1].state


def _kill(story: Story) -> None:
    attempt = story.start("kill", "resume", "1", "--processes", "1")
    story.commands["kill"] = story.place.run("kill", "1")
    story.place.release(story.stops["kill"])
    story.end("kill", attempt)


def test_stopped_in_every_way_equals_straight_run(
    story: Story, straight: tuple[Workplace, Result]
) -> None:
    place, result = straight
    assert result.code == 0, result.err
    assert story.attempts["last"].code == 0, story.attempts["last"].err
    expected, found = place.digests(), story.place.digests()
    assert NUM_BATCHES in found
    assert {batch: found[batch] for batch in expected} == expected
    assert story.place.metrics() == place.metrics()


def test_reports_come_in_the_order_of_batches(straight: tuple[Workplace, Result]) -> None:
    place, result = straight
    reports = re.findall(r"^batch (\d+)/\d+ \S+ \S+: (validated)?", result.out, re.MULTILINE)
    expected = [(str(batches), kind == "validation") for kind, batches, _ in place.metrics()]
    assert [(batches, bool(word)) for batches, word in reports] == expected


def test_straight_run_is_not_trivial(straight: tuple[Workplace, Result]) -> None:
    place, _ = straight
    digests, metrics = place.digests(), place.metrics()
    # Reports every 3 batches, validations every 5, checkpoints every 4; the last comes at the end.
    assert list(digests) == list(range(4, NUM_BATCHES + 1, 4))
    assert len(set(digests.values())) == len(digests)
    training = [batches for kind, batches, _ in metrics if kind == "training"]
    assert training == [*range(3, NUM_BATCHES, 3), NUM_BATCHES]
    validation = [batches for kind, batches, _ in metrics if kind == "validation"]
    assert validation == list(range(5, NUM_BATCHES + 1, 5))
    assert len({str(values) for _, _, values in metrics}) == len(metrics)


@pytest.mark.parametrize("way", ["ctrl-c", "sigterm", "pause"])
def test_stop_request_pauses_at_the_next_boundary(story: Story, way: str) -> None:
    result = story.attempts[way]
    assert result.code == 3, result.err
    assert story.states[way] is RunState.PAUSED
    assert result.lines[-1] == "trialrun resume 1"
    match = re.fullmatch(r"Paused experiment 1 after (\d+) batches\. Go on with:", result.lines[-2])
    assert match is not None
    assert story.stops[way] < int(match[1]) < NUM_BATCHES
    assert int(match[1]) in story.place.digests()


def test_pause_waits_and_says_how_to_go_on(story: Story) -> None:
    result = story.commands["pause"]
    assert result.code == 0, result.err
    assert result.lines == story.attempts["pause"].lines[-2:]


def test_list_shows_a_running_experiment(story: Story) -> None:
    header, row = story.commands["list while running"].lines
    values = dict(zip(header.split("\t"), row.split("\t"), strict=True))
    assert values["state"] == "RUNNING"
    assert values["of"] == str(NUM_BATCHES)


def test_logs_follow_a_running_experiment_to_its_end(story: Story) -> None:
    result = story.commands["logs -f"]
    assert result.code == 0, result.err
    stop = story.stops["pause"]
    assert f"[attempt 3, process 0] training batch {stop - 1}" in result.lines
    assert f"[attempt 3, process 0] training batch {stop}" in result.lines
    assert "[attempt 1, process 1] training batch 0" in result.lines


def test_second_of_two_resumes_at_once_is_refused(story: Story) -> None:
    result = story.commands["second resume"]
    assert result.code == 2
    assert result.err == (
        "Error: Experiment 1 runs already. Pause it first (trialrun pause 1), or look at it "
        "(trialrun show 1).\n"
    )


def test_killed_process_fails_the_attempt_and_is_named(story: Story) -> None:
    result = story.attempts["process lost"]
    assert result.code == 1
    assert story.states["process lost"] is RunState.ERROR
    lines = result.err.splitlines()
    assert lines[0] == "Process 1 was killed by SIGKILL. The others are being ended."
    how = "Process 1 was killed by SIGKILL. Its output is in "
    assert lines[1].startswith(f"Experiment 1 failed: {how}")
    advice = r"When it is mended, go on from batch \d+ with: trialrun resume 1\n$"
    assert re.search(advice, result.err)


def test_training_processes_end_with_their_supervisor(story: Story) -> None:
    assert story.orphans == []
    assert story.states["supervisor lost"] is RunState.DEAD
    result = story.commands["list after the supervisor"]
    assert "Attempt 5 of trial 1 is dead: its process is gone." in result.err
    assert [row["state"] for row in result.json] == ["DEAD"]


def test_next_command_buries_what_was_killed_and_removes_its_leftovers(story: Story) -> None:
    assert story.attempts["all lost"].code == -signal.SIGKILL
    result = story.commands["list after all"]
    assert result.code == 0
    assert result.err == (
        "Attempt 6 of trial 1 is dead: its process is gone. It is marked so, and can be resumed.\n"
    )
    assert "\tDEAD\t" in result.lines[1]
    assert story.states["all lost"] is RunState.DEAD
    assert len(story.leftovers) == 2
    assert not any(folder.exists() for folder in story.leftovers)
    assert all(Path(row.path).is_dir() for row in story.place.checkpoints())


def test_kill_ends_at_once_and_says_how_to_go_on(story: Story) -> None:
    assert story.attempts["kill"].code == -signal.SIGKILL
    assert story.states["kill"] is RunState.KILLED
    result = story.commands["kill"]
    assert result.code == 0, result.err
    assert result.lines == [
        "Killed experiment 1. Go on from its newest checkpoint with:",
        "trialrun resume 1",
    ]


def test_resume_says_from_where(story: Story) -> None:
    last = story.attempts["last"]
    newest = max(batch for batch in story.place.digests() if batch <= story.stops["kill"])
    (row,) = [row for row in story.place.checkpoints() if row.batches == newest]
    assert last.lines[0].startswith("Experiment 1 (trial): seed 11, 4 slots on 2 processes, ")
    assert last.lines[3] == f"Resumes: at batch {newest}, checkpoint {row.uuid}"


def test_no_process_is_left(story: Story) -> None:
    assert len(story.processes) > 15
    assert psutil.wait_procs(story.processes, timeout=60)[1] == []


def test_completed_experiment_is_not_resumed(story: Story) -> None:
    result = story.place.run("resume", "1")
    assert result.code == 2
    assert result.err == (
        f"Error: Experiment 1 is complete, after {NUM_BATCHES} batches: there is nothing to "
        "resume. To train longer, submit a new one.\n"
    )
    assert len(story.place.attempts()) == 8


@pytest.mark.parametrize("command", ["pause", "kill"])
def test_what_does_not_run_is_not_stopped(story: Story, command: str) -> None:
    result = story.place.invoke(command, "1")
    assert result.code == 2
    assert result.err == "Error: Experiment 1 does not run: it is COMPLETED.\n"
