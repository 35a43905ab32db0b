"""Calls in the user's own files whose result no seed decides: the time, the system's entropy."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

_ALWAYS = {
    "time.time": "the time",
    "time.time_ns": "the time",
    "time.monotonic": "the time",
    "time.perf_counter": "the time",
    "datetime.datetime.now": "the time",
    "datetime.datetime.utcnow": "the time",
    "datetime.datetime.today": "the time",
    "datetime.date.today": "the time",
    "os.urandom": "the system's entropy",
    "uuid.uuid1": "the system's entropy",
    "uuid.uuid4": "the system's entropy",
    "random.SystemRandom": "the system's entropy",
    "torch.seed": "the system's entropy",
    "os.getpid": "the process's number",
    "os.getenv": "the environment",
    "os.environ.get": "the environment",
    "socket.gethostname": "the machine's name",
    "hash": "a number that is another one in each process, for text",
    "id": "an address in memory",
}
_WITHOUT_ARGUMENTS = {
    "numpy.random.default_rng": "the system's entropy",
    "numpy.random.RandomState": "the system's entropy",
    "random.Random": "the system's entropy",
    "random.seed": "the system's entropy",
    "numpy.random.seed": "the system's entropy",
}
_MODULES = {"secrets": "the system's entropy"}


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Suspect:
    """One call.

    Args:
        file: Where it is.
        line: Counted from 1.
        call: As it is named in full, such as ``numpy.random.default_rng``.
        reads: What its result depends on.
    """

    file: Path
    line: int
    call: str
    reads: str

    def __str__(self) -> str:
        return f"{self.file.name}, line {self.line}: {self.call}() reads {self.reads}"


def find_suspects(trial_file: Path) -> list[Suspect]:
    """Returns the calls in a trial's file and in the neighbours that it imports, in order.

    Args:
        trial_file: The file; one that cannot be parsed has none.
    """
    found: set[Suspect] = set()
    files, seen = [trial_file], {trial_file}
    while files:
        file = files.pop()
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        found.update(_suspects(file, tree))
        for neighbour in _neighbours(trial_file.parent, tree):
            if neighbour not in seen:
                seen.add(neighbour)
                files.append(neighbour)
    return sorted(found)


def _suspects(file: Path, tree: ast.Module) -> Iterator[Suspect]:
    aliases = _aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = _full_name(node.func, aliases)
            reads = _reads(name, has_arguments=bool(node.args or node.keywords))
            if reads is not None:
                yield Suspect(file=file, line=node.lineno, call=name, reads=reads)


def _reads(name: str, *, has_arguments: bool) -> str | None:
    if name in _ALWAYS:
        return _ALWAYS[name]
    if not has_arguments and name in _WITHOUT_ARGUMENTS:
        return _WITHOUT_ARGUMENTS[name]
    return _MODULES.get(name.partition(".")[0]) if "." in name else None


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Returns the full name of what each imported name stands for."""
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.asname:
                    aliases[name.asname] = name.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                aliases[name.asname or name.name] = f"{node.module}.{name.name}"
    return aliases


def _full_name(node: ast.expr, aliases: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = _full_name(node.value, aliases)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def _neighbours(folder: Path, tree: ast.Module) -> Iterator[Path]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
        for name in names:
            path = folder.joinpath(*name.split("."))
            for candidate in (path.with_suffix(".py"), path / "__init__.py"):
                if candidate.is_file():
                    yield candidate
