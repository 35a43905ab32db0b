"""The public face of the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trialrun import samplers


def test_names_are_sorted_and_all_exist() -> None:
    assert samplers.__all__ == sorted(samplers.__all__)
    assert set(samplers.__all__) == set(samplers._HOMES)
    for name in samplers.__all__:
        assert getattr(samplers, name).__name__ == name
        assert name in dir(samplers)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="^module 'trialrun.samplers' has no attribute 'Foo'"):
        _ = samplers.Foo  # type: ignore[attr-defined]


def test_the_package_itself_imports_no_torch() -> None:
    code = (
        "import sys; from trialrun.samplers import AddressBook, Permutation, RecordOrder, Stream; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
