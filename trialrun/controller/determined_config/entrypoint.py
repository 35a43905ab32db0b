"""What ``entrypoint`` of a Determined configuration names, compared with ``submit FILE[:CLASS]``.

The forms that Determined knows, as text or as a list of words:

    model_def:MyTrial                                             a class in a module
    python3 -m determined.launch.torch_distributed model_def:MyTrial
    python3 -m determined.launch.torch_distributed --trial model_def:MyTrial
    python3 train.py --epochs 5                                   a script, with or without launcher
    ./run.sh                                                      any command
"""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from trialrun._errors import ConfigurationError

_CLASS = re.compile(r"([A-Za-z_][\w.]*)?:([A-Za-z_][\w.]*)")
_LAUNCHERS = ("determined.launch.", "determined.exec.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entrypoint:
    """An entrypoint, read."""

    text: str
    file: PurePosixPath | None = None
    """The file of the class that it names, relative to a folder that only Determined knows."""
    trial_class: str | None = None
    """The class that it names; None: it is a command of another kind."""


def read_entrypoint(value: Any) -> Entrypoint:
    """Reads the value of ``entrypoint``.

    Raises:
        ConfigurationError: It is neither text nor a list of words.
    """
    if isinstance(value, list) and value and all(isinstance(word, str) for word in value):
        words, text = value, shlex.join(value)
    elif isinstance(value, str):
        text = " ".join(value.split())
        try:
            words = shlex.split(value)
        except ValueError:  # a quotation that does not end: some shell's text
            words = value.split()
    else:
        raise ConfigurationError(
            f"Configuration key 'entrypoint' is {value!r}: it must be text, such as "
            "model_def:MyTrial, or a list of words."
        )
    named = _class_in(words)
    if named is not None:
        module, trial_class = named
        path = f"{module.replace('.', '/')}.py" if module else "__init__.py"
        return Entrypoint(text=text, file=PurePosixPath(path), trial_class=trial_class)
    return Entrypoint(text=text)


def _class_in(words: Sequence[str]) -> tuple[str, str] | None:
    """Returns module and class, where the words are one of the forms that name them."""
    candidates = list(words) if len(words) == 1 else []
    launchers = [place for place, word in enumerate(words) if word.startswith(_LAUNCHERS)]
    if launchers:
        rest = words[launchers[0] + 1 :]
        candidates = [word.removeprefix("--trial=") for word in rest if word.startswith("--trial=")]
        candidates += [word for before, word in pairwise(rest) if before == "--trial"]
        # Behind a script, a word of this form is an argument of the script.
        if not any(Path(word).name.startswith("python") or word.endswith(".py") for word in rest):
            candidates += rest
    for word in candidates:
        match = _CLASS.fullmatch(word)
        if match:
            return match[1] or "", match[2]
    return None


def choose_class(
    entrypoint: Entrypoint, trial_file: Path, trial_class: str | None
) -> tuple[str | None, str]:
    """Decides which class of FILE is trained.

    FILE and CLASS of the command win. Where no CLASS is given, the entrypoint's is taken if the
    file has it.

    Args:
        entrypoint: From the configuration.
        trial_file: FILE.
        trial_class: CLASS, where one is given.

    Returns:
        The class, or None: the only one of the file. And a sentence that says what is otherwise
        than the entrypoint says, or "".
    """
    named = entrypoint.trial_class
    if named is None or entrypoint.file is None:
        return trial_class, (
            f"The command {entrypoint.text!r} is not run: the trial in {trial_file.name} is "
            "trained. What the command sets (lengths, periods, hyperparameters) belongs in this "
            "configuration."
        )
    has_class = named in set(_class_names(trial_file))
    chosen = trial_class or (named if has_class else None)
    if chosen == named and _ends_with(trial_file, entrypoint.file):
        return chosen, ""
    if chosen is None:
        return None, (
            f"It names {named} in {entrypoint.file}, but no class of {trial_file.name} has that "
            "name: the trial of the file is trained."
        )
    return chosen, (
        f"It names {named} in {entrypoint.file}, but {trial_file.name}:{chosen} is trained, as the "
        "command says."
    )


def _ends_with(path: Path, tail: PurePosixPath) -> bool:
    parts = [part for part in tail.parts if part not in (".", "/")]
    return list(path.parts[-len(parts) :]) == parts


def _class_names(path: Path) -> Iterator[str]:
    """Gives the classes that a file defines or imports by name, without importing it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # the error is told where the file is imported
    pending: list[ast.stmt] = list(tree.body)
    for statement in pending:
        if isinstance(statement, ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in statement.names)
        elif isinstance(statement, ast.If):
            pending += [*statement.body, *statement.orelse]
        elif isinstance(statement, ast.Try):
            pending += [*statement.body, *statement.orelse, *statement.finalbody]
