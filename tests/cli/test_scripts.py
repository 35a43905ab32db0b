"""One script, stopped and started again by hand, by torchrun and as srun would: the same bits."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from trialrun.controller.bookkeeping import RunState, get_trial

from .workplace import NUM_BATCHES, Result, Running, Workplace, wait_for

SCRIPT = """
import sys
from pathlib import Path
import trialrun
from trial import Waves

with trialrun.init(exp_conf="trial.yaml", name="script") as context:
    result = trialrun.Trainer(Waves(context), context).fit(latest_checkpoint="latest")
    # In one piece: processes under torchrun write to the same pipe.
    sys.stdout.write(f"The script goes on: {result.is_completed} {result.batches}\\n")
    sys.stdout.flush()

# Threads of torch that were still there could call into an interpreter that is no more.
names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
if any("gloo" in name for name in names):
    sys.exit(f"Threads are left: {names}")
"""


WITHOUT_FILE = """
import trialrun
from trial import Waves

class Here(Waves):
    pass

with trialrun.init(slots=2) as context:
    trialrun.Trainer(Here(context), context).fit(max_length="3ba")
"""


def start(place: Workplace, *arguments: str, **environment: str) -> Running:
    """Starts Python as the leader of a process group, as one typed in a terminal is."""
    return Running(
        *arguments,
        folder=place.folder,
        environment=place.environment | environment,
        is_forked=arguments[0] != "-c",
    )


def start_as_srun(place: Workplace) -> list[Running]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [
        start(
            place,
            "script.py",
            SLURM_JOB_ID="12",
            SLURM_STEP_ID="0",
            SLURM_PROCID=str(rank),
            SLURM_LOCALID=str(rank),
            SLURM_NTASKS="2",
            SLURM_NNODES="1",
            SLURM_JOB_NODELIST="node1",
            MASTER_PORT=port,
        )
        for rank in range(2)
    ]


class Story:
    """How each attempt of the script ended."""

    def __init__(self, place: Workplace) -> None:
        self.place = place
        self.results: dict[str, list[Result]] = {}
        self.resume = Result(0, "", "")

    def killed(self) -> None:
        self.place.hold(7)
        script = start(self.place, "script.py")
        self.place.wait_until_held(7, script)
        wait_for(self.place.checkpoints)  # that of batch 4, which is written meanwhile
        script.signal_all(signal.SIGKILL)
        self.results["killed"] = [script.finish()]
        self.place.release(7)

    def interrupted(self) -> None:
        self.place.hold(13)
        script = start(self.place, "script.py")
        self.place.wait_until_held(13, script)
        script.interrupt()
        self.place.release(13, slowly=True)
        self.results["interrupted"] = [script.finish()]

    def paused_under_torchrun(self) -> None:
        self.place.hold(27)
        script = start(
            self.place,
            *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            "script.py",
        )
        self.place.wait_until_held(27, script)
        self.place.invoke("pause", "1", "--no-wait")
        self.place.release(27, slowly=True)
        self.results["torchrun"] = [script.finish()]
        self.resume = self.place.invoke("resume", "1")

    def completed_as_by_srun(self) -> None:
        self.place.hold(NUM_BATCHES - 1)
        scripts = start_as_srun(self.place)
        self.place.wait_until_held(NUM_BATCHES - 1, *scripts)
        self.place.release(NUM_BATCHES - 1)
        self.results["srun"] = [script.finish() for script in scripts]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    place = Workplace(tmp_path_factory.mktemp("script"))
    (place.folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    story = Story(place)
    story.killed()
    story.interrupted()
    story.paused_under_torchrun()
    story.completed_as_by_srun()
    return story


def test_the_digests_and_metrics_are_those_of_a_submission_without_a_stop(
    story: Story, straight: tuple[Workplace, Result]
) -> None:
    submitted, _ = straight
    digests = submitted.digests()
    assert len(digests) == NUM_BATCHES / 4
    assert {batches: story.place.digests()[batches] for batches in digests} == digests
    assert story.place.metrics() == submitted.metrics()


def test_every_attempt_is_on_record(story: Story) -> None:
    attempts = story.place.attempts()
    assert [(attempt.state, attempt.num_processes) for attempt in attempts] == [
        (RunState.DEAD, 1),
        (RunState.PAUSED, 1),
        (RunState.PAUSED, 2),
        (RunState.COMPLETED, 2),
    ]
    firsts = [attempt.first_batch for attempt in attempts]
    assert firsts[:2] == [0, 4]
    assert 13 < firsts[2] < 27 < firsts[3] < NUM_BATCHES
    assert get_trial(story.place.database, 1).batches_completed == NUM_BATCHES


def test_ctrl_c_ends_the_script_and_a_pause_lets_it_go_on(story: Story) -> None:
    (interrupted,) = story.results["interrupted"]
    assert interrupted.code == -signal.SIGINT
    assert "The script goes on" not in interrupted.out
    assert "Paused experiment 1 after " in interrupted.out
    (torchrun,) = story.results["torchrun"]
    assert torchrun.code == 0, torchrun.err
    assert torchrun.out.count("The script goes on: False") == 2  # in each process


def test_only_the_first_process_prints_progress(story: Story) -> None:
    first, second = story.results["srun"]
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    assert f"Completed experiment 1 after {NUM_BATCHES} batches." in first.out
    goes_on = f"The script goes on: True {NUM_BATCHES}"
    assert second.out.splitlines()[-1] == first.out.splitlines()[-1] == goes_on
    assert "loss" in first.out and "loss" not in second.out


def test_the_command_resume_names_the_other_way(story: Story) -> None:
    assert story.resume.code != 0
    assert "Experiment 1 was trained by a script of yours" in story.resume.err


def test_a_script_without_a_file_can_train(tmp_path: Path) -> None:
    place = Workplace(tmp_path / "work")
    result = start(place, "-c", WITHOUT_FILE).finish()
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1] == "Completed experiment 1 after 3 batches."
    shown = place.invoke("show", "1", "--json").json
    assert (shown["trial_file"], shown["trial_class"]) == (None, "__main__:Here")
