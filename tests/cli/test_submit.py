"""What ``submit`` says and shows: in a pipe, on a terminal, and when it only rehearses."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

import trialrun

from .workplace import TRIAL, Result, Terminal, Workplace

DIGITS = Path(trialrun.__file__).parents[1] / "examples" / "digits" / "trial.py"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, Result]:
    """The example, trained for two epochs as the README does it."""
    place = Workplace(tmp_path_factory.mktemp("digits"))
    return place, place.run("submit", str(DIGITS), "--slots", "4", "--max-length", "2ep")


def test_first_lines_say_what_runs_and_where(digits: tuple[Workplace, Result]) -> None:
    place, result = digits
    assert result.code == 0, result.err
    assert result.err == ""
    processes = place.attempts()[0].num_processes
    noun = "process" if processes == 1 else "processes"
    lines = result.lines
    threads = place.invoke("show", "1", "--json").json["config"]["intra_op_threads"]
    assert lines[0] == (
        f"Experiment 1 (digits): seed 7, 4 slots on {processes} {noun}, {threads} "
        f"{'thread' if threads == 1 else 'threads'} each"
    )
    assert lines[1] == f"Records: {place.home}/trialrun.db"
    assert lines[2] == f"Files: {place.home}/experiments/1"
    assert lines[3] == "Start: at batch 0"
    assert lines[4].startswith("Plan: 2 epochs x 23 batches = 46 batches, 2 validations, ")


def test_pipe_gets_one_plain_line_for_each_report(digits: tuple[Workplace, Result]) -> None:
    place, result = digits
    assert "\x1b" not in result.out and "\r" not in result.out
    position = r"^batch (\d+)/46 \(epoch \d\.\d\d\): "
    number = r"\d+(?:\.\d+)?(?:e-\d+)?"
    training = re.findall(
        position + rf"loss {number}, accuracy {number}, \d+ records/s.*$", result.out, re.MULTILINE
    )
    validation = re.findall(
        position + rf"validated 359 records: loss {number}, accuracy ({number}), accuracy_of_0 .*$",
        result.out,
        re.MULTILINE,
    )
    assert training == ["23", "46"]
    assert [batches for batches, _ in validation] == ["23", "46"]
    assert float(validation[-1][1]) > 0.9
    rows = place.metrics()
    assert [(kind, batches) for kind, batches, _ in rows] == [
        ("training", 23),
        ("validation", 23),
        ("training", 46),
        ("validation", 46),
    ]
    assert f"{rows[-1][2]['accuracy']:.6g}" == validation[-1][1]
    # Nothing but the start, the reports and the end: no library's warnings either.
    assert len(result.lines) == 5 + 4 + 3


def test_last_lines_say_where_the_checkpoints_are(digits: tuple[Workplace, Result]) -> None:
    place, result = digits
    newest = place.checkpoints()[0]
    assert newest.batches == 46
    assert result.lines[-3] == "Completed experiment 1 after 46 batches."
    assert result.lines[-2] == f"Latest checkpoint: {newest.path}"
    best = max(place.checkpoints(), key=lambda row: (row.metrics or {})["accuracy"])
    assert result.lines[-1] == (
        f"Best checkpoint (accuracy {(best.metrics or {})['accuracy']:.6g}): {best.path}"
    )
    assert (Path(newest.path) / "model.safetensors").is_file()


def test_the_example_predicts_what_it_evaluated(
    digits: tuple[Workplace, Result], tmp_path: Path
) -> None:
    place, _ = digits
    found = place.invoke("evaluate", "1", "--checkpoint", "latest", "--json").json
    assert found["metrics"] == place.metrics()[-1][2]
    output = str(tmp_path / "out")
    arguments = ("--checkpoint", "latest", "--format", "safetensors")
    place.invoke("predict", "1", "--output", output, *arguments)
    rows = load_file(tmp_path / "out" / "predictions-00000.safetensors")
    assert rows["record"].tolist() == list(range(359))
    labels = runpy.run_path(str(DIGITS))["load_data"]()[1].tensors[1]
    share = (rows["prediction"].argmax(dim=1) == labels).double().mean().item()
    assert share == pytest.approx(found["metrics"]["accuracy"], abs=1e-6)


def test_no_process_of_a_finished_run_is_left(digits: tuple[Workplace, Result]) -> None:
    place, _ = digits
    # Every process of the run has its home in the environment; strangers' may be unreadable.
    left = [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("TRIALRUN_HOME") == str(place.home)
    ]
    assert left == []


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Terminal, Result, Result]:
    """A run on a pseudo-terminal, looked at while it stands at batches 5 and 11."""
    place = Workplace(tmp_path_factory.mktemp("terminal"))
    place.hold(5)
    place.hold(11)
    run = Terminal(place, "submit", "trial.py", "--processes", "1")
    place.wait_until_held(5, run)
    run.wait_for_text(r"batch 5/60")
    place.release(5)
    place.wait_until_held(11, run)
    run.wait_for_text(r"batch 11/60 .* left")
    table = Terminal(place, "list").finish()
    place.release(11)
    return run, run.finish(), table


def test_terminal_shows_one_live_line(terminal: tuple[Terminal, Result, Result]) -> None:
    _, result, _ = terminal
    assert result.code == 0, result.out
    live = re.search(
        r"batch 11/60 \(epoch 2\.20\): loss \d+\.\d+, \d+ records/s, \d+:\d\d left", result.out
    )
    assert live is not None
    # Reports do not scroll by there, without a bar; validations and what the trial prints do.
    assert not re.search(r"left\r?\n", result.out)
    assert re.search(r"batch 10/60 \(epoch 2\.00\): validated 11 records: loss ", result.out)
    assert "training batch 11" in result.out
    assert "Completed experiment 1 after 60 batches." in result.out


def test_terminal_gets_a_table(terminal: tuple[Terminal, Result, Result]) -> None:
    _, _, table = terminal
    assert table.code == 0
    lines = [line.rstrip() for line in table.out.splitlines() if line.strip()]
    assert re.match(r" ?ID +Name +State +Batches +Of +Validation +Created", lines[0])
    assert set(lines[1].strip()) == {"─"}
    assert re.match(r" ?1 +trial +RUNNING +11 +60 +loss \d", lines[2])
    assert "\t" not in table.out


def test_rehearsal_of_a_good_trial_leaves_nothing(workplace: Workplace) -> None:
    result = workplace.run("submit", "trial.py", "--processes", "2", "--test-mode")
    assert result.code == 0, result.err
    assert result.out.startswith("training batch 0\n"), "what the trial prints is shown"
    assert result.out.endswith(
        "The rehearsal on 4 slots and 2 processes went well: training, validation, a checkpoint, "
        "and a restore into a fresh trial that goes on to the same bits.\n"
    )
    assert workplace.invoke("list", "--json").json == []
    assert not workplace.home.exists()


def test_rehearsal_finds_state_that_no_checkpoint_holds(workplace: Workplace) -> None:
    source = TRIAL.replace(
        "        self.context = context\n",
        "        self.context = context\n        self.calls = 1\n",
    ).replace(
        "        self.context.backward(loss)\n",
        "        self.calls += 1\n        self.context.backward(loss * self.calls**3)\n",
    )
    workplace.trial_file.write_text(source, encoding="utf-8")
    result = workplace.run("submit", "trial.py", "--processes", "1", "--test-mode")
    assert result.code == 1
    assert "The trial does not resume exactly" not in result.out
    match = re.search(
        r"The rehearsal failed: The trial does not resume exactly: 2 batches give the digest "
        r"(v2-[0-9a-f]{12}) straight and (v2-[0-9a-f]{12}) with a restore between them\. The first "
        r"tensor that differs is (\S+) \(.*\) at \[.*\]: .* apart; .* Usual causes: ",
        result.err,
    )
    assert match is not None, result.err
    assert match[1] != match[2]
    assert match[3].startswith("model.0.")
    assert workplace.invoke("list", "--json").json == []


def test_files_with_names_of_other_modules_do_not_break_the_start(workplace: Workplace) -> None:
    # Python or torch loads them all; each, in the folder of the command, would be found first.
    for name in ("queue", "numbers", "secrets"):
        (workplace.folder / f"{name}.py").write_text("raise SystemExit('the wrong file')\n")
    (workplace.folder / "neighbour.py").write_text("value = 1\n", encoding="utf-8")
    source = workplace.trial_file.read_text(encoding="utf-8")
    # A program that the trial starts finds its own neighbours, too.
    imports = (
        "import neighbour, subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'import neighbour'], check=True)\n"
    )
    source = source.replace("import time\n", f"import time\n{imports}")
    workplace.trial_file.write_text(source, encoding="utf-8")
    result = workplace.run("submit", "trial.py", "--max-length", "2ba", "--processes", "1")
    assert (result.code, result.err) == (0, "")
    assert "Completed experiment 1 after 2 batches." in result.lines
