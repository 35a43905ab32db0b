"""What users get wrong is named, with the rule and what to do, and nothing is lost."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from trialrun.controller.bookkeeping import Database

from .workplace import TRIAL, Workplace

# Mistakes that are found before anything is recorded.


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["trail.py"],
            "There is no file trail.py. Give the path of a Python file that defines a Trial. "
            "Did you mean 'trial.py'?",
        ),
        (
            ["trial.yaml"],
            "trial.yaml is not a Python file: its name does not end in .py.",
        ),
        (
            ["trial.py", "--config", "other.yaml"],
            "There is no configuration file other.yaml.",
        ),
        (
            ["trial.py", "--processes", "3"],
            "4 slots cannot be executed by 3 processes: the number of processes must divide the "
            "slots. Choose one of 1, 2, 4.",
        ),
        (
            ["trial.py", "--hp", "global_batch_size=10"],
            "global_batch_size=10 is not divisible by 4 slots. Choose a multiple of 4, such as 12.",
        ),
        (
            ["trial.py", "--hp", "lr"],
            "--hp 'lr' is not of the form NAME=VALUE, such as lr=0.1.",
        ),
        (
            ["trial.py", "--max-length", "20"],
            "Configuration key 'max_length' is '20': '20' is not a length. Write a whole number of "
            "batches or epochs, or a time, with its unit: 5000ba, 20ep, 90min, 2h.",
        ),
        (
            ["trial.py", "--slots", "0"],
            "Configuration key 'slots' is 0: Input should be greater than or equal to 1",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_refused(
    workplace: Workplace,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(workplace.folder)
    result = workplace.invoke("submit", *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err == f"Error: {message}\n"
    assert not workplace.home.exists()


@pytest.mark.parametrize(
    "lines, message",
    [
        ("slotz: 4", "Unknown configuration key 'slotz'. Did you mean 'slots'?"),
        (
            "searcher: {metrik: loss}",
            "Unknown configuration key 'searcher.metrik'. Did you mean 'metric'?",
        ),
        (
            "checkpoint_policy: worst",
            "Configuration key 'checkpoint_policy' is 'worst': Input should be 'best', 'all' or "
            "'none'",
        ),
        (
            "",
            "The configuration key 'max_length' is missing. Set it in trial.yaml or by a flag, "
            "such as --max-length 20ep.",
        ),
        (
            "- slots",
            "trial.yaml holds a list; it must hold keys and values, such as 'max_length: 20ep'.",
        ),
        ("slots: [", "trial.yaml cannot be read as YAML: "),
    ],
)
def test_wrong_configuration_is_refused(workplace: Workplace, lines: str, message: str) -> None:
    (workplace.folder / "trial.yaml").write_text(lines, encoding="utf-8")
    flags = ["--max-length", "1ep"] if lines else []
    result = workplace.invoke("submit", str(workplace.trial_file), *flags)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert not workplace.home.exists()


def test_unknown_hyperparameter_is_refused_with_the_nearest_name(workplace: Workplace) -> None:
    with (workplace.folder / "trial.yaml").open("a", encoding="utf-8") as file:
        file.write("hyperparameters: {dropout: 0.1, hidden: 8}\n")
    result = workplace.invoke("submit", str(workplace.trial_file), "--hp", "hiden=16")
    assert result.code == 2
    assert result.err == (
        "Error: There is no hyperparameter 'hiden' in the configuration. Did you mean 'hidden'?\n"
    )


# Mistakes in the home and the database.


def test_home_below_a_file_is_refused(workplace: Workplace) -> None:
    workplace.home.write_text("a file", encoding="utf-8")
    result = workplace.invoke("submit", str(workplace.trial_file))
    assert result.code == 2
    assert result.err == (
        f"Error: The home {workplace.home} cannot be written: Not a directory. Choose another "
        "with --home or TRIALRUN_HOME.\n"
    )
    assert workplace.home.read_text(encoding="utf-8") == "a file"


@pytest.fixture
def file(workplace: Workplace) -> Path:
    workplace.home.mkdir()
    return workplace.home / "trialrun.db"


def test_database_of_a_newer_version_is_refused(workplace: Workplace, file: Path) -> None:
    Database.open(f"sqlite:///{file}")
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    result = workplace.invoke("list")
    assert result.code == 2
    assert result.err.startswith(
        f"Error: The database {file} was made by a newer trialrun (schema 9999; this version knows "
    )
    assert result.err.endswith("Upgrade trialrun, or name another database with --db.\n")


def test_file_that_is_no_database_is_refused(workplace: Workplace, file: Path) -> None:
    text = "These are notes, and no database at all. " * 50
    file.write_text(text, encoding="utf-8")
    result = workplace.invoke("list")
    assert result.code == 2
    assert str(file) in result.err
    assert "not a database" in result.err
    assert "Name another database with --db." in result.err
    assert file.read_text(encoding="utf-8") == text


def test_database_of_another_program_is_refused(workplace: Workplace, file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    result = workplace.invoke("list")
    assert result.code == 2
    assert "belongs to another program: it holds the tables songs." in result.err


@pytest.mark.parametrize(
    "command", ["show", "logs", "metrics", "pause", "kill", "resume", "checkpoint list"]
)
def test_unknown_experiment_is_refused(workplace: Workplace, file: Path, command: str) -> None:
    Database.open(f"sqlite:///{file}")
    result = workplace.invoke(*command.split(), "7")
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        f"Error: There is no experiment 7. The database {workplace.home}/trialrun.db has none yet: "
        "`trialrun submit` makes the first.\n"
    )


def test_reading_a_home_that_does_not_exist_makes_none(workplace: Workplace) -> None:
    result = workplace.invoke("show", "7")
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        f"Error: There is no trialrun database at {workplace.home}/trialrun.db. `trialrun submit` "
        "makes one; --home or --db names another.\n"
    )
    assert not workplace.home.exists()


@pytest.mark.parametrize("command", ["show", "verify"])
def test_unknown_checkpoint_is_refused(workplace: Workplace, file: Path, command: str) -> None:
    Database.open(f"sqlite:///{file}")
    result = workplace.invoke("checkpoint", command, "abcdef")
    assert (result.code, result.out) == (2, "")
    assert "abcdef" in result.err
    assert "`trialrun checkpoint list`" in result.err


def test_unknown_command_is_refused(workplace: Workplace) -> None:
    result = workplace.invoke("lst")
    assert result.code == 2
    assert "No such command 'lst'" in result.err


# Mistakes in the trial file, found when it is imported or trained: the experiment is on record.

NO_METHOD = TRIAL.replace("def evaluate_batch", "def evaluate")
IN_TRAIN_BATCH = "        loss = nn.functional.mse_loss(self.model(inputs + "
AT_INIT = "        self.context = context\n"


@pytest.mark.parametrize(
    "source, message, traceback",
    [
        pytest.param(
            "import torch\n",
            "trial.py defines no Trial. Write a class that derives from trialrun.Trial.",
            "",
            id="no Trial",
        ),
        pytest.param(
            TRIAL + "\n\nclass Other(Waves):\n    pass\n\n\nclass Another(Waves):\n    pass\n",
            "trial.py defines several trials: Another, Other. Choose one, such as "
            "trial.py:Another.",
            "",
            id="several Trials",
        ),
        pytest.param(
            NO_METHOD,
            "Waves in trial.py lacks what every Trial must have. Write:\n"
            "    def evaluate_batch(self, batch, batch_idx): ...",
            "",
            id="missing method",
        ),
        pytest.param(
            TRIAL.replace("make_records(37)", "make_records(0)"),
            "The dataset (TensorDataset) is empty: there is nothing to load. Check the path or the "
            "split that it reads.",
            "",
            id="empty dataset",
        ),
        pytest.param(
            TRIAL.replace('return {"loss": loss}', 'return {"loss": loss, "note": "good"}'),
            "Metric 'note' returned by train_batch is a str ('good'), not a number. Return one "
            "number for each metric; use a MetricReducer for anything larger. (At batch 0.)",
            "",
            id="training metric",
        ),
        pytest.param(
            TRIAL.replace('return {"loss": nn.', 'return {"logits": inputs, "loss": nn.'),
            "Metric 'logits' returned by evaluate_batch is a Tensor of shape (",
            "",
            id="validation metric",
        ),
        pytest.param(
            TRIAL.replace("import time\n", "import time\nimport no_such_package\n"),
            "ModuleNotFoundError while the trial was set up: No module named 'no_such_package'",
            "import no_such_package\n",
            id="exception at import",
        ),
        pytest.param(
            TRIAL.replace(AT_INIT, AT_INIT + '        raise OSError("no such data")\n'),
            "OSError while the trial was set up: no such data",
            'raise OSError("no such data")\n',
            id="exception in __init__",
        ),
    ],
)
def test_mistake_in_the_trial_is_named_and_on_record(
    tmp_path: Path, source: str, message: str, traceback: str
) -> None:
    place = Workplace(tmp_path / "work", source)
    result = place.run("submit", "trial.py", "--processes", "2", "--max-length", "5ba")
    assert result.code == 1
    assert f"Experiment 1 failed: {message}" in result.err
    # Both processes have said so in their logs; the user reads it once.
    assert (result.out + result.err).count(message.splitlines()[0]) == 1
    logs = place.invoke("logs", "1").out
    assert (traceback or message.splitlines()[0]) in logs
    if "returned by evaluate_batch" in message:  # after the checkpoint at batch 4
        advice = "When it is mended, go on from batch 4 with: trialrun resume 1"
    else:
        advice = (
            "Nothing was trained: mend it, and submit it again. To be rid of this record: trialrun "
            "delete 1"
        )
    assert result.err.endswith(f"\n{advice}\n")
    # Only errors of the user's own code come with a traceback, and it shows the user's line.
    assert "Traceback" not in result.out
    assert result.err.count("Traceback") == bool(traceback)
    assert traceback in result.err
    if traceback:
        first_frame = result.err.partition("Traceback (most recent call last):\n")[2]
        assert first_frame.startswith(f'  File "{place.trial_file}", line ')
    experiment = place.invoke("show", "1", "--json").json
    assert experiment["state"] == "ERROR"
    assert experiment["attempts"][0]["error"].startswith(message)
    assert traceback in (experiment["attempts"][0]["error_traceback"] or "")


def test_exception_names_slot_and_batch_and_the_mended_trial_is_resumed(
    workplace: Workplace,
) -> None:
    # Slot 2 alone fails, as a bad record would do it; two slots share its process.
    bad = "        if batch_idx == 6 and self.context.slot == 2:\n            1 / 0\n"
    mended = workplace.trial_file.read_text(encoding="utf-8")
    workplace.trial_file.write_text(
        mended.replace(IN_TRAIN_BATCH, bad + IN_TRAIN_BATCH), encoding="utf-8"
    )
    arguments = ("--processes", "2", "--max-length", "8ba", "--max-restarts", "0")
    result = workplace.run("submit", "trial.py", *arguments)
    assert result.code == 1
    message = "ZeroDivisionError in slot 2 at batch 6: division by zero"
    assert f"Experiment 1 failed: {message}\n" in result.err
    # The traceback begins in the user's file.
    assert (
        f'Traceback (most recent call last):\n  File "{workplace.trial_file}", line ' in result.err
    )
    assert "1 / 0" in result.err
    assert workplace.invoke("show", "1", "--json").json["attempts"][0]["error"] == message
    assert list(workplace.digests()) == [4]

    workplace.trial_file.write_text(mended, encoding="utf-8")
    resumed = workplace.run("resume", "1")
    assert resumed.code == 0, resumed.err
    assert resumed.err.startswith(
        f"Warning: {workplace.trial_file} has changed since experiment 1 was submitted: results "
        "may differ from an uninterrupted run. The submitted text is in "
    )
    assert resumed.lines[3].startswith("Resumes: at batch 4, checkpoint ")
    assert list(workplace.digests()) == [4, 8]


def test_numbers_that_are_none_and_a_small_dataset_are_warned_of_and_recorded(
    workplace: Workplace,
) -> None:
    source = TRIAL.replace("make_records(37)", "make_records(3)")
    source = source.replace('return {"loss": loss}', 'return {"loss": loss * float("nan")}')
    source = source.replace(
        'return {"loss": nn.', 'return {"worst": 1e999, "loss": 0 * 1e999 * nn.'
    )
    workplace.trial_file.write_text(source, encoding="utf-8")
    result = workplace.run("submit", "trial.py", "--processes", "1", "--max-length", "4ba")
    assert result.code == 0, result.err
    assert (
        "WARNING: The training data has 3 records, fewer than the 8 of one batch: each batch holds "
        "records of several passes.\n" in result.out
    )
    assert (
        "WARNING: The training metric 'loss' is nan at batch 3. It is recorded so; later batches "
        "are not warned of.\n" in result.out
    )
    assert "The validation metric 'worst' is inf at batch 1." in result.out
    # What is not a number is not the best of anything.
    assert "Best checkpoint" not in result.out
    rows = workplace.invoke("metrics", "1", "--json").json
    values = {(row["kind"], row["batches"]): row["metrics"] for row in rows}
    assert values["training", 3] == {"loss": "NaN"}
    assert values["validation", 1] == {"worst": "Infinity", "loss": "NaN"}
    for command in (["list"], ["show", "1"], ["checkpoint", "list"], ["logs", "1"]):
        assert workplace.invoke(*command, "--json").json
