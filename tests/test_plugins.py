"""Reducers of installed packages: found by name, made anew each time, mistakes named by package."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plugin_packages import write_package

from trialrun import InvalidTrialError, MetricReducer
from trialrun._plugins import find_reducer_plugin, reducer_plugins
from trialrun._wrapping_reducers import make_wrapped_reducer

MODULE = '''
"""A module that says when it is imported."""
import sys
sys.imported_plugins = getattr(sys, "imported_plugins", 0) + 1

from trialrun import MetricReducer


class Above(MetricReducer):
    """Counts values above a threshold.

    And more about it.
    """

    def __init__(self, threshold=0.5):
        self.threshold = threshold

    def reset(self):
        self.count = 0

    def per_slot_reduce(self):
        return self.count

    def cross_slot_reduce(self, per_slot_metrics):
        return sum(per_slot_metrics)

    @classmethod
    def of_one(cls):
        """Counts values above 1."""
        return cls(1.0)


def mean():
    import torchmetrics

    return torchmetrics.MeanMetric()


def number():
    """Makes something else."""
    return 3.0


constant = 5
'''


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    (folder / "counters").mkdir(parents=True)
    (folder / "counters" / "__init__.py").write_text("from counters.above import Above\n")
    (folder / "counters" / "above.py").write_text(MODULE, encoding="utf-8")
    (folder / "broken.py").write_text("import no_such_package\n", encoding="utf-8")
    write_package(
        folder,
        "our-counters",
        "1.2",
        {
            "above": "counters.above:Above",
            "above_one": "counters.above:Above.of_one",
            "broken": "broken:Reducer",
            "constant": "counters.above:constant",
            "mean": "counters.above:mean",
            "number": "counters.above:number",
            "reexported": "counters:Above",
        },
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "imported_plugins", 0, raising=False)
    return folder


def wrap(name: Any, options: Any = None) -> Any:
    import torch

    return make_wrapped_reducer(
        name,
        name="metric",
        for_training=True,
        for_validation=True,
        options=options,
        device=torch.device("cpu"),
    ).given


def message(call: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(InvalidTrialError) as caught:
        call(*arguments)
    return str(caught.value)


def test_listing_reads_summaries_and_imports_nothing(site: Path) -> None:
    found = {
        plugin.name: (plugin.owner, plugin.reference, plugin.summary())
        for plugin in reducer_plugins()
        if plugin.package == "our-counters"
    }
    first = "Counts values above a threshold."
    assert found == {
        "above": ("our-counters 1.2", "counters.above:Above", first),
        "above_one": ("our-counters 1.2", "counters.above:Above.of_one", "Counts values above 1."),
        "broken": ("our-counters 1.2", "broken:Reducer", None),
        "constant": ("our-counters 1.2", "counters.above:constant", None),
        "mean": ("our-counters 1.2", "counters.above:mean", None),
        "number": ("our-counters 1.2", "counters.above:number", "Makes something else."),
        "reexported": ("our-counters 1.2", "counters:Above", None),
    }
    assert sys.imported_plugins == 0  # type: ignore[attr-defined]
    assert "counters" not in sys.modules


def test_a_module_that_is_gone_or_no_python_has_no_summary(site: Path) -> None:
    names = {"gone": "no_such_module.part:X", "compiled": "math:X", "odd": "odd:X"}
    write_package(site, "odd-ones", "0.1", names)
    (site / "odd.py").write_text("def broken(:\n", encoding="utf-8")
    for name in names:
        assert find_reducer_plugin(name).summary() is None


def test_a_plugin_is_made_anew_for_each_metric_with_its_options(site: Path) -> None:
    first, second = wrap("above"), wrap("above", {"threshold": 0.75})
    assert isinstance(first, MetricReducer) and first is not second
    assert (first.threshold, second.threshold) == (0.5, 0.75)  # type: ignore[attr-defined]
    assert type(wrap("mean")).__name__ == "MeanMetric"
    assert wrap("above_one").threshold == 1.0
    assert sys.imported_plugins == 1  # type: ignore[attr-defined]


def test_an_unknown_name_is_answered_with_the_nearest_and_all(site: Path) -> None:
    names = ", ".join(sorted(plugin.name for plugin in reducer_plugins()))
    rest = (
        f" Installed: {names}. Install the package that has it where this trial runs; trialrun "
        "reducers lists what there is."
    )
    assert message(wrap, "abov") == f"There is no reducer 'abov'. Did you mean 'above'?{rest}"
    assert message(wrap, "zzz") == f"There is no reducer 'zzz'.{rest}"


def test_a_name_without_any_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trialrun._plugins.reducer_plugins", list)
    assert message(wrap, "roc_auc") == (
        "There is no reducer 'roc_auc': no installed package brings any, in its entry points of "
        "the group trialrun.reducers. Install the package that has it where this trial runs."
    )


def test_two_packages_with_one_name_are_both_named(site: Path) -> None:
    write_package(site, "their-counters", "0.3", {"above": "theirs:Above"})
    assert message(wrap, "above") == (
        "The reducer 'above' is brought by several packages: our-counters 1.2 and their-counters "
        "0.3. Uninstall all but one of them, or import the class that you want and wrap an object "
        "of it."
    )
    assert wrap("above_one").threshold == 1.0


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        (
            "broken",
            None,
            "cannot be imported from broken:Reducer: ModuleNotFoundError: No module named "
            "'no_such_package'. Repair or uninstall our-counters.",
        ),
        (
            "constant",
            None,
            "is counters.above:constant, an int, which cannot be called. The package must register "
            "a class or function that makes a new reducer.",
        ),
        (
            "number",
            None,
            "made a float with counters.above:number. It must make a trialrun.MetricReducer or a "
            "torchmetrics metric.",
        ),
        (
            "above",
            {"level": 0.5},
            "could not be made with Above(level=0.5): TypeError: Above.__init__() got an "
            "unexpected keyword argument 'level'. It takes (threshold=0.5).",
        ),
    ],
)
def test_a_plugin_that_fails_is_named_with_its_package(
    site: Path, name: str, options: Any, expected: str
) -> None:
    assert message(wrap, name, options) == (
        f"The reducer {name!r} of the package our-counters 1.2 {expected}"
    )


@pytest.mark.parametrize("options", [[("threshold", 0.5)], {1: 2}, "threshold=1"])
def test_options_are_keyword_arguments(site: Path, options: Any) -> None:
    assert message(wrap, "above", options) == (
        f"wrap_reducer got options={options!r} for the reducer 'above'. Give a dictionary of "
        "keyword arguments, such as {'threshold': 0.5}."
    )
