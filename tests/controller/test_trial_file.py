from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import write_trial

from trialrun import InvalidTrialError
from trialrun._trial import near_misses
from trialrun.controller.trial_file import load_trial_class
from trialrun.controller.trial_target import split_target

COMPLETE = """
    def __init__(self, context): ...
    def build_training_data_loader(self): ...
    def build_validation_data_loader(self): ...
    def train_batch(self, batch, epoch_idx, batch_idx): ...
    def evaluate_batch(self, batch, batch_idx): ...
"""


def message(path: Path, class_name: str | None = None) -> str:
    with pytest.raises(InvalidTrialError) as caught:
        load_trial_class(path, class_name)
    return str(caught.value)


def trial(name: str, base: str = "Trial") -> str:
    return f"class {name}({base}):{COMPLETE}\n"


def test_the_one_trial_of_a_file_is_found(tmp_path: Path) -> None:
    source = "from trialrun import Trial\nimport trialrun\n" + trial("Digits")
    path = write_trial(tmp_path, source)
    assert load_trial_class(path, None).__name__ == "Digits"
    assert load_trial_class(path, "Digits") is load_trial_class(path, None)


def test_a_file_without_a_trial_is_refused(tmp_path: Path) -> None:
    path = write_trial(tmp_path, "from trialrun import Trial\nclass Model: ...\n")
    assert message(path) == (
        "trial.py defines no Trial. Write a class that derives from trialrun.Trial."
    )


def test_several_trials_need_a_choice(tmp_path: Path) -> None:
    source = "from trialrun import Trial\n" + trial("Second") + trial("First")
    path = write_trial(tmp_path, source)
    assert message(path) == (
        "trial.py defines several trials: First, Second. Choose one, such as trial.py:First."
    )
    assert load_trial_class(path, "Second").__name__ == "Second"


def test_an_incomplete_trial_beside_a_complete_one_is_no_choice(tmp_path: Path) -> None:
    loader = "class Tabular(Trial):\n    def build_training_data_loader(self): ...\n"
    source = "from trialrun import Trial\n" + loader + trial("Digits")
    path = write_trial(tmp_path, source)
    assert load_trial_class(path, None).__name__ == "Digits"
    assert message(path, "Tabular").startswith("Tabular in trial.py lacks what every Trial must")
    alone = write_trial(tmp_path, "from trialrun import Trial\n" + loader, "alone.py")
    assert message(alone).startswith("Tabular in alone.py lacks what every Trial must have.")


def test_a_base_of_another_trial_in_the_file_is_no_choice(tmp_path: Path) -> None:
    source = "from trialrun import Trial\n" + trial("Base") + "class Digits(Base): ...\n"
    path = write_trial(tmp_path, source)
    assert load_trial_class(path, None).__name__ == "Digits"
    assert load_trial_class(path, "Base").__name__ == "Base"


def test_a_wrong_class_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    source = "from trialrun import Trial\n" + trial("Digits") + "class Model: ...\n"
    path = write_trial(tmp_path, source)
    assert message(path, "Digit") == "trial.py has no class 'Digit'. Did you mean 'Digits'?"
    assert message(path, "Model") == (
        "Model in trial.py is no Trial. Derive it from trialrun.Trial. Known: Digits."
    )


def test_what_a_trial_lacks_is_told_as_signatures(tmp_path: Path) -> None:
    path = write_trial(
        tmp_path,
        """
        from trialrun import Trial

        class Digits(Trial):
            def __init__(self, context): ...
            def build_training_data_loader(self): ...
            def evaluate_batch(self, batch, batch_idx): ...
        """,
    )
    assert message(path) == (
        "Digits in trial.py lacks what every Trial must have. Write:\n"
        "    def build_validation_data_loader(self): ...\n"
        "    def train_batch(self, batch, epoch_idx, batch_idx): ..."
    )


def test_what_a_missing_method_may_be_called_is_told(tmp_path: Path) -> None:
    source = """
        from trialrun import Trial

        class Digits(Trial):
            def __init__(self, context): ...
            def build_training_data_loader(self): ...
            def build_val_data_loader(self): ...
            def build_data_loader(self): ...
            def train_batches(self, batch, epoch_idx, batch_idx): ...
            def eval_batch(self, batch): ...
        """
    assert message(write_trial(tmp_path, source)) == (
        "Digits in trial.py lacks what every Trial must have. Write:\n"
        "    def build_validation_data_loader(self): ...\n"
        "    def evaluate_batch(self, batch, batch_idx): ...\n"
        "    def train_batch(self, batch, epoch_idx, batch_idx): ...\n"
        "If build_val_data_loader is meant to be build_validation_data_loader, rename it.\n"
        "If eval_batch is meant to be evaluate_batch, rename it.\n"
        "If train_batches is meant to be train_batch, rename it."
    )


def evaluating(*methods: str) -> str:
    source = (
        "from trialrun import Trial\nclass Digits(Trial):\n    def __init__(self, context): ...\n"
    )
    names = ["build_training_data_loader", "build_validation_data_loader", "train_batch", *methods]
    return source + "".join(f"    def {name}(self, *items, **named): ...\n" for name in names)


def test_one_way_to_evaluate_is_required(tmp_path: Path) -> None:
    assert message(write_trial(tmp_path, evaluating(), name="none.py")) == (
        "Digits in none.py lacks what every Trial must have. Write:\n"
        "    def evaluate_batch(self, batch, batch_idx): ..."
    )
    both = evaluating("evaluate_batch", "evaluate_full_dataset")
    assert message(write_trial(tmp_path, both, name="both.py")) == (
        "Digits in both.py has both evaluate_batch and evaluate_full_dataset. Write "
        "evaluate_batch, which all slots share, or evaluate_full_dataset, which slot 0 executes "
        "alone."
    )
    for method in ("evaluate_batch", "evaluate_full_dataset"):
        path = write_trial(tmp_path, evaluating(method), name=f"with_{method}.py")
        assert load_trial_class(path, None).__name__ == "Digits"


@pytest.mark.parametrize(
    ("method", "parameters", "expected"),
    [
        (
            "train_batch",
            "self, batch, batch_idx",
            "Digits.train_batch does not take the arguments (batch, epoch_idx, batch_idx) by name: "
            "got an unexpected keyword argument 'epoch_idx'. Write: "
            "def train_batch(self, batch, epoch_idx, batch_idx): ...",
        ),
        (
            "train_batch",
            "self, data, epoch_idx, batch_idx",
            "Digits.train_batch does not take the arguments (batch, epoch_idx, batch_idx) by name: "
            "missing a required argument: 'data'. Write: "
            "def train_batch(self, batch, epoch_idx, batch_idx): ...",
        ),
        (
            "evaluate_batch",
            "self, batch, epoch_idx, batch_idx",
            "Digits.evaluate_batch does not take the arguments (batch, batch_idx) by name: missing "
            "a required argument: 'epoch_idx'. Write: def evaluate_batch(self, batch, batch_idx): "
            "...",
        ),
        (
            "evaluate_batch",
            "self",
            "Digits.evaluate_batch does not take the arguments (batch): too many positional "
            "arguments. Write: def evaluate_batch(self, batch, batch_idx): ...",
        ),
        (
            "evaluate_batch",
            "self, a, b, c",
            "Digits.evaluate_batch does not take the arguments (batch, batch_idx): missing a "
            "required argument: 'c'. Write: def evaluate_batch(self, batch, batch_idx): ...",
        ),
    ],
)
def test_other_arguments_than_a_method_gets_are_refused(
    tmp_path: Path, method: str, parameters: str, expected: str
) -> None:
    source = "from trialrun import Trial\n" + trial("Digits")
    source += f"    def {method}({parameters}): ...\n"
    assert message(write_trial(tmp_path, source)) == expected


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("train_batch", "self, batch, **indices"),
        ("train_batch", "self, epoch_idx, batch, batch_idx, scale=0.5"),
        ("evaluate_batch", "self, examples"),
        ("evaluate_batch", "self, examples, number"),
        ("evaluate_batch", "self, *arguments"),
        ("evaluate_batch", "self, batch_idx, batch, scale=0.5"),
    ],
)
def test_arguments_may_be_written_in_other_ways(
    tmp_path: Path, method: str, parameters: str
) -> None:
    source = "from trialrun import Trial\n" + trial("Digits")
    source += f"    def {method}({parameters}): ...\n"
    assert load_trial_class(write_trial(tmp_path, source), None).__name__ == "Digits"


def test_static_methods_get_no_self(tmp_path: Path) -> None:
    source = "from trialrun import Trial\n" + trial("Digits")
    source += "    @staticmethod\n    def evaluate_batch(batch): ...\n"
    path = write_trial(tmp_path, source)
    assert load_trial_class(path, None).__name__ == "Digits"


def test_a_near_miss_of_an_optional_method_is_told(tmp_path: Path) -> None:
    names = ["build_callback", "pred_batch", "build_data_loader", "train_batches"]
    source = "from trialrun import Trial\n" + trial("Digits")
    source += "".join(f"    def {name}(self): ...\n" for name in names)
    assert near_misses(load_trial_class(write_trial(tmp_path, source), None)) == [
        "Digits.build_callback is not a method that trialrun calls. If it is meant to be "
        "build_callbacks, rename it.",
        "Digits.pred_batch is not a method that trialrun calls. If it is meant to be "
        "predict_batch, rename it.",
    ]
    source += "    def build_callbacks(self): ...\n    def predict_batch(self, batch): ...\n"
    path = write_trial(tmp_path, source, name="whole.py")
    assert near_misses(load_trial_class(path, None)) == []


def test_a_trial_imports_its_neighbours(tmp_path: Path) -> None:
    write_trial(tmp_path, "WIDTH = 17\n", name="neighbour_of_trial.py")
    source = "from trialrun import Trial\nimport neighbour_of_trial\n" + trial("Digits")
    source += "Digits.width = neighbour_of_trial.WIDTH\n"
    loaded = load_trial_class(write_trial(tmp_path, source), None)
    assert loaded.width == 17  # type: ignore[attr-defined]


def test_a_trial_that_another_file_defines_is_not_this_files_choice(tmp_path: Path) -> None:
    write_trial(tmp_path, "from trialrun import Trial\n" + trial("Base"), name="base_of_trial.py")
    source = "from base_of_trial import Base\nclass Digits(Base): ...\n"
    path = write_trial(tmp_path, source)
    assert load_trial_class(path, None).__name__ == "Digits"


def test_a_file_named_like_a_module_replaces_none(tmp_path: Path) -> None:
    path = write_trial(tmp_path, "from trialrun import Trial\n" + trial("Digits"), name="json.py")
    before = sys.modules["json"]
    assert load_trial_class(path, None).__module__ == "trialrun_user_json"
    assert sys.modules["json"] is before


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder, name in (("a", "First"), ("b", "Second")):
        (tmp_path / folder).mkdir()
        path = write_trial(tmp_path / folder, "from trialrun import Trial\n" + trial(name))
        assert load_trial_class(path, None).__name__ == name


def test_an_error_in_the_file_is_the_users_and_leaves_no_half_module(tmp_path: Path) -> None:
    path = write_trial(tmp_path, "raise ZeroDivisionError('mine')\n", name="broken_trial.py")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="^mine$"):
            load_trial_class(path, None)
    assert "broken_trial" not in sys.modules


# FILE.py[:CLASS]


def test_a_target_is_a_file_and_perhaps_a_class(tmp_path: Path) -> None:
    path = write_trial(tmp_path, "")
    assert split_target(str(path)) == (path, None)
    assert split_target(f"{path}:Digits") == (path, "Digits")


def test_a_missing_file_is_answered_with_its_nearest_neighbour(tmp_path: Path) -> None:
    write_trial(tmp_path, "", name="digits.py")
    with pytest.raises(InvalidTrialError) as caught:
        split_target(f"{tmp_path}/digit.py")
    assert str(caught.value) == (
        f"There is no file {tmp_path}/digit.py. Give the path of a Python file that defines a "
        "Trial. Did you mean 'digits.py'?"
    )


def test_a_target_is_a_python_file(tmp_path: Path) -> None:
    path = write_trial(tmp_path, "", name="trial.txt")
    with pytest.raises(InvalidTrialError) as caught:
        split_target(str(path))
    assert str(caught.value) == f"{path} is not a Python file: its name does not end in .py."


def test_modules_below_the_working_directory_come_after_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "places").mkdir()
    write_trial(tmp_path, "WHERE = 'above'\n", "both_places_have_it.py")
    write_trial(tmp_path / "places", "WHERE = 'beside'\n", "both_places_have_it.py")
    write_trial(tmp_path / "places", "WHERE = 'package'\n", "inner_part.py")
    source = (
        "from trialrun import Trial\nimport both_places_have_it\nfrom places import inner_part\n"
    )
    path = write_trial(tmp_path / "places", source + trial("Placed"), "placed_trial.py")
    load_trial_class(path, None, tmp_path)
    assert sys.path[:2] == [str(tmp_path / "places"), str(tmp_path)]
    module = sys.modules["placed_trial"]
    assert module.both_places_have_it.WHERE == "beside"
    assert module.inner_part.WHERE == "package"


def test_the_folder_of_the_file_comes_first_also_where_it_is_searched_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = tmp_path / "src"
    beside.mkdir()
    path = write_trial(beside, "from trialrun import Trial\n" + trial("Known"), "known_trial.py")
    monkeypatch.setattr(sys, "path", ["/first", str(beside), "/last"])
    load_trial_class(path, None, tmp_path)
    assert sys.path == ["/first", str(beside), str(tmp_path), "/last"]
    load_trial_class(path, None, tmp_path)
    assert sys.path == ["/first", str(beside), str(tmp_path), "/last"]


def test_a_working_directory_that_is_gone_matters_only_where_it_is_needed(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    path = write_trial(tmp_path, "from trialrun import Trial\n" + trial("Alone"), "alone_trial.py")
    assert load_trial_class(path, None, gone).__name__ == "Alone"
    path = write_trial(tmp_path, "import nowhere_at_all\n", "needing_trial.py")
    with pytest.raises(InvalidTrialError) as caught:
        load_trial_class(path, None, gone)
    assert str(caught.value) == (
        f"needing_trial.py imports 'nowhere_at_all', which is not found. It was submitted in {gone}"
        ", below which modules are searched too, and that folder is gone: restore it, or move the "
        "module beside the file."
    )
    with pytest.raises(ModuleNotFoundError, match="No module named 'nowhere_at_all'"):
        load_trial_class(path, None, tmp_path)
