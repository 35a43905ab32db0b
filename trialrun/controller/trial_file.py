"""Finds the one Trial class in a user's file."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from typing_extensions import TypeIs

from trialrun._errors import InvalidTrialError, nearest_name
from trialrun._trial import Trial, require_complete


def load_trial_class(
    path: Path, class_name: str | None, working_directory: Path | None = None
) -> type[Trial]:
    """Imports a trial file and returns its Trial class.

    The file's folder comes first on ``sys.path``, so that it can import its neighbours, and then
    the folder in which it was submitted.

    Args:
        path: The file.
        class_name: Which class, where there are several.
        working_directory: Where it finds modules besides its own folder, if anywhere.

    Raises:
        InvalidTrialError: There is none, there are several, it is no Trial, or it lacks a required
            method; the message says what to write.
        Exception: Whatever the file raises when it is imported.
    """
    _search_first([path.parent] + ([] if working_directory is None else [working_directory]))
    try:
        module = _import_file(path)
    except ModuleNotFoundError as error:
        if working_directory is None or working_directory.is_dir():
            raise
        raise InvalidTrialError(
            f"{path.name} imports {error.name!r}, which is not found. It was submitted in "
            f"{working_directory}, below which modules are searched too, and that folder is gone: "
            "restore it, or move the module beside the file."
        ) from error
    classes = {
        name: value
        for name, value in vars(module).items()
        if _is_trial(value) and value.__module__ == module.__name__
    }
    if class_name is not None:
        trial_class = _named(path, module, classes, class_name)
        require_complete(trial_class, path.name)
        return trial_class
    # A class that another one in the file extends is a base, not a choice.
    leaves = {
        name: cls
        for name, cls in classes.items()
        if not any(cls in other.__mro__[1:] for other in classes.values())
    }
    if not leaves:
        raise InvalidTrialError(
            f"{path.name} defines no Trial. Write a class that derives from trialrun.Trial."
        )
    if len(leaves) > 1:
        # Nor is one that lacks what every trial must have, such as a base that a neighbour extends.
        complete = {name: cls for name, cls in leaves.items() if not inspect.isabstract(cls)}
        leaves = complete or leaves
    if len(leaves) > 1:
        raise InvalidTrialError(
            f"{path.name} defines several trials: {', '.join(sorted(leaves))}. Choose one, such as "
            f"{path.name}:{min(leaves)}."
        )
    (only,) = leaves.values()
    require_complete(only, path.name)
    return only


def _search_first(folders: list[Path]) -> None:
    """Puts folders on ``sys.path`` where they are not there yet: first, and in their order."""
    place = 0
    for name in map(str, folders):
        if name not in sys.path:
            sys.path.insert(place, name)
        # Behind it, also where it was there before, as a script's own folder is.
        place = sys.path.index(name) + 1


def _is_trial(value: object) -> TypeIs[type[Trial]]:
    return inspect.isclass(value) and issubclass(value, Trial)


def _import_file(path: Path) -> ModuleType:
    # Under its own name, so that loader workers that are spawned can import what it defines; under
    # another where an imported module has that name already.
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    name = path.stem if known is None else f"trialrun_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _named(
    path: Path, module: ModuleType, classes: dict[str, type[Trial]], name: str
) -> type[Trial]:
    value = getattr(module, name, None)
    if value is None:
        raise InvalidTrialError(f"{path.name} has no class {name!r}." + nearest_name(name, classes))
    if not _is_trial(value):
        raise InvalidTrialError(
            f"{name} in {path.name} is no Trial. Derive it from trialrun.Trial."
            + nearest_name(name, classes)
        )
    return value
