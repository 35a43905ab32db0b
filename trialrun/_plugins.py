"""Reducers that installed packages bring: entry points of the group ``trialrun.reducers``.

A package names a class or function, which makes a new reducer each time that it is called::

    [project.entry-points."trialrun.reducers"]
    roc_auc = "our_metrics:RocAuc"

To list plugins imports none of them, and not torch.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib.metadata
import inspect
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from trialrun._errors import InvalidTrialError
from trialrun._wording import type_of

GROUP = "trialrun.reducers"
"""The entry-point group that packages register in."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReducerPlugin:
    """One reducer of an installed package, not imported yet.

    Args:
        name: How ``wrap_reducer`` finds it.
        package: The package that brings it.
        version: The package's version.
        reference: What makes the reducer, as ``module:attribute``.
    """

    name: str
    package: str
    version: str
    reference: str

    @property
    def owner(self) -> str:
        """The package with its version, for messages."""
        return f"{self.package} {self.version}"

    def summary(self) -> str | None:
        """Returns the first line of the docstring, read from the source without executing it.

        Returns:
            The line; None where the module is not found, is no Python source, or only hands on what
            another module defines.
        """
        module, _, attribute = self.reference.partition(":")
        source = _source_of(module)
        if source is None:
            return None
        try:
            body: Sequence[ast.stmt] = ast.parse(source.read_bytes()).body
        except (OSError, SyntaxError):
            return None
        for part in attribute.split("."):
            found = [
                node
                for node in body
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == part
            ]
            if not found:
                return None
            body = found[-1].body
        text = ast.get_docstring(found[-1]) or ""
        return text.partition("\n")[0] or None

    def make(self, options: Mapping[str, Any]) -> Any:
        """Imports the plugin and makes a reducer.

        Args:
            options: Keyword arguments for what the package registered.

        Raises:
            InvalidTrialError: It cannot be imported, or raises; the message names the package.
        """
        label = f"The reducer {self.name!r} of the package {self.owner}"
        entry_point = importlib.metadata.EntryPoint(self.name, self.reference, GROUP)
        try:
            factory = entry_point.load()
        except Exception as error:  # a plugin's module may raise anything
            raise InvalidTrialError(
                f"{label} cannot be imported from {self.reference}: {type(error).__name__}: "
                f"{error}. Repair or uninstall {self.package}."
            ) from error
        if not callable(factory):
            raise InvalidTrialError(
                f"{label} is {self.reference}, {type_of(factory)}, which cannot be called. "
                "The package must register a class or function that makes a new reducer."
            )
        try:
            return factory(**options)
        except Exception as error:
            raise InvalidTrialError(
                f"{label} could not be made with {_call_of(self.reference, options)}: "
                f"{type(error).__name__}: {error}{_takes(factory)}"
            ) from error


def reducer_plugins() -> list[ReducerPlugin]:
    """Returns every reducer that an installed package registers, by name and package."""
    found = []
    for distribution_entry in importlib.metadata.entry_points(group=GROUP):
        distribution = distribution_entry.dist
        assert distribution is not None, "entry points are read from distributions"
        found.append(
            ReducerPlugin(
                name=distribution_entry.name,
                package=distribution.metadata["Name"],
                version=distribution.version,
                reference=distribution_entry.value.replace(" ", ""),
            )
        )
    return sorted(found, key=lambda plugin: (plugin.name, plugin.package))


def find_reducer_plugin(name: str) -> ReducerPlugin:
    """Returns the plugin of a name.

    Raises:
        InvalidTrialError: No package, or more than one, brings a reducer of that name.
    """
    plugins = reducer_plugins()
    named = [plugin for plugin in plugins if plugin.name == name]
    if len(named) == 1:
        return named[0]
    if named:
        owners = " and ".join(plugin.owner for plugin in named)
        raise InvalidTrialError(
            f"The reducer {name!r} is brought by several packages: {owners}. Uninstall all but one "
            "of them, or import the class that you want and wrap an object of it."
        )
    if not plugins:
        raise InvalidTrialError(
            f"There is no reducer {name!r}: no installed package brings any, in its entry points "
            f"of the group {GROUP}. Install the package that has it where this trial runs."
        )
    names = sorted({plugin.name for plugin in plugins})
    matches = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{matches[0]}'?" if matches else ""
    raise InvalidTrialError(
        f"There is no reducer {name!r}.{hint} Installed: {', '.join(names)}. Install the package "
        "that has it where this trial runs; trialrun reducers lists what there is."
    )


def _source_of(module: str) -> Path | None:
    """Returns a module's file; importlib's own search would import the packages it lies in."""
    spec: ModuleSpec | None = None
    path: Sequence[str] | None = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
        specs = (finder.find_spec(name, path) for finder in finders)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None:
            return None
        path = spec.submodule_search_locations
        if path is None:
            path = []
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _call_of(reference: str, options: Mapping[str, Any]) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return f"{reference.partition(':')[2]}({arguments})"


def _takes(factory: Any) -> str:
    try:
        return f". It takes {inspect.signature(factory)}."
    except (TypeError, ValueError):  # a class written in C may have none
        return "."
