"""Reads ``FILE.py[:CLASS]``, without importing the file."""

from __future__ import annotations

from pathlib import Path

from trialrun._errors import InvalidTrialError, nearest_name


def split_target(target: str) -> tuple[Path, str | None]:
    """Splits ``FILE.py[:CLASS]``.

    Returns:
        The absolute path and the class name, if one was given.

    Raises:
        InvalidTrialError: There is no such file, or it is no Python file.
    """
    name, separator, class_name = target.rpartition(":")
    if not separator:
        name, class_name = target, ""
    path = Path(name).expanduser().absolute()
    if not path.is_file():
        raise InvalidTrialError(
            f"There is no file {name}. Give the path of a Python file that defines a Trial."
            + nearest_name(path.name, _python_files(path.parent))
        )
    if path.suffix != ".py":
        raise InvalidTrialError(f"{name} is not a Python file: its name does not end in .py.")
    return path, class_name or None


def _python_files(folder: Path) -> list[str]:
    return [file.name for file in folder.glob("*.py")] if folder.is_dir() else []
