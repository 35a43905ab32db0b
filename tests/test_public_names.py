"""The public face: what each package promises to export, and what importing it must not load."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import trialrun
from trialrun._errors import TrialrunError, nearest_name


def modules_with_all() -> list[ModuleType]:
    names = [m.name for m in pkgutil.walk_packages(trialrun.__path__, "trialrun.")]
    # Alembic executes these, with a context that only it can give.
    names = [name for name in names if ".migrations." not in name]
    modules = [trialrun, *map(importlib.import_module, names)]
    return [module for module in modules if hasattr(module, "__all__")]


def test_every_face_is_sorted_and_every_name_on_it_exists() -> None:
    modules = modules_with_all()
    assert {"trialrun", "trialrun.samplers", "trialrun.controller.bookkeeping"} <= {
        module.__name__ for module in modules
    }
    for module in modules:
        assert module.__all__ == sorted(set(module.__all__)), module.__name__
        for name in module.__all__:
            assert getattr(module, name) is not None, f"{module.__name__}.{name}"


def test_the_lazy_names_and_the_promised_ones_are_the_same() -> None:
    assert set(trialrun._HOMES) | {"samplers"} == set(trialrun.__all__)
    assert set(trialrun.__all__) <= set(dir(trialrun))
    for name in trialrun._HOMES:
        assert getattr(trialrun, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'trialrun' has no attribute 'Trail'$"):
        _ = trialrun.Trail  # type: ignore[attr-defined]


def test_all_errors_have_one_parent() -> None:
    errors = [getattr(trialrun, name) for name in trialrun.__all__ if name.endswith("Error")]
    assert len(errors) == 9
    assert all(issubclass(error, TrialrunError) for error in errors)


def test_a_wrong_name_is_answered_with_the_nearest_or_with_all() -> None:
    assert nearest_name("slot", ["seed", "slots"]) == " Did you mean 'slots'?"
    assert nearest_name("xyz", ["seed", "slots"]) == " Known: seed, slots."
    assert nearest_name("slot", ["seed", "slots"], lists_all=True) == (
        " Did you mean 'slots'? Known: seed, slots."
    )
    assert nearest_name("xyz", []) == ""


def test_what_trains_nothing_does_not_import_torch() -> None:
    modules = ["trialrun"] + [
        f"trialrun.cli.{name}"
        for name in (
            *("_main", "read", "checkpoint", "control", "logs"),
            *("inference", "reducers", "run"),
        )
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_units_and_errors_are_handed_on_without_torch() -> None:
    code = "import sys, trialrun; trialrun.Batch, trialrun.TrialrunError; "
    check = "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code + check], check=True)
