"""Places in the user's own files whose result no seed decides: the time, the system's entropy."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Sequence
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
    "hash": "an address in memory, for objects without a hash of their own",
    "id": "an address in memory",
    "os.cpu_count": "the number of cores",
    "platform.node": "the machine's name",
    "threading.get_ident": "the thread's number",
    "torch.distributed.get_rank": "the process's rank, which is not the slot",
    "torch.distributed.get_world_size": "the number of processes, which is not that of slots",
    "concurrent.futures.as_completed": "the order in which threads end",
}
_ENVIRONMENT = "os.environ"
_WRITING = {"torch.save", "numpy.save", "pickle.dump", "json.dump"}
_WRITING_METHODS = {"write_text", "write_bytes"}
_WRITING_MODES = set("wax+")
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
    """One call, or one look at the environment.

    Args:
        file: Where it is.
        line: Counted from 1.
        call: As it is named in full, such as ``numpy.random.default_rng``.
        reads: What its result depends on; empty where it writes a file.
    """

    file: Path
    line: int
    call: str
    reads: str

    def __str__(self) -> str:
        call = self.call if self.call == _ENVIRONMENT else f"{self.call}()"
        does = f"reads {self.reads}" if self.reads else "writes a file"
        return f"{self.file.name}, line {self.line}: {call} {does}"

    @property
    def cause(self) -> str:
        """What may be behind runs that differ, as a sentence."""
        if self.reads:
            return f"{self}, so no seed decides it."
        return f"{self}: if the trial reads it again, a stop has not taken back what it holds."


def find_suspects(trial_file: Path, *folders: Path) -> list[Suspect]:
    """Returns the suspects in a trial's file and in the neighbours that it imports, in order.

    Args:
        trial_file: The file; one that cannot be parsed has none.
        folders: Where else, besides the file's folder, its neighbours may be.
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
        for neighbour in _neighbours((trial_file.parent, *folders), file, tree):
            if neighbour not in seen:
                seen.add(neighbour)
                files.append(neighbour)
    # The files that it reads itself are the likelier ones.
    return sorted(found, key=lambda suspect: (not suspect.reads, suspect))


def _suspects(file: Path, tree: ast.Module) -> Iterator[Suspect]:
    aliases = _aliases(tree)
    called = set()
    for node in ast.walk(tree):  # a call comes before its parts
        if isinstance(node, ast.Call):
            called.update({node.func, getattr(node.func, "value", None)})
            name = _full_name(node.func, aliases)
            reads = _reads(name, has_arguments=bool(node.args or node.keywords))
            if reads is not None:
                yield Suspect(file=file, line=node.lineno, call=name, reads=reads)
            elif _writes(name, node):
                yield Suspect(file=file, line=node.lineno, call=name, reads="")
        elif isinstance(node, ast.Attribute | ast.Name) and node not in called:
            if _full_name(node, aliases) == _ENVIRONMENT and isinstance(node.ctx, ast.Load):
                reads = "the environment"
                yield Suspect(file=file, line=node.lineno, call=_ENVIRONMENT, reads=reads)


def _writes(name: str, call: ast.Call) -> bool:
    if name in _WRITING or name.rpartition(".")[2] in _WRITING_METHODS:
        return True
    if name != "open" and not name.endswith(".open"):
        return False
    # A file's own method has no argument for the path.
    position = 1 if name == "open" else 0
    modes = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    modes += call.args[position : position + 1]
    return any(
        isinstance(mode, ast.Constant) and bool(_WRITING_MODES & set(str(mode.value)))
        for mode in modes
    )


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


def _neighbours(folders: Sequence[Path], file: Path, tree: ast.Module) -> Iterator[Path]:
    for node in ast.walk(tree):
        names: list[str] = []
        places = folders
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module, *(f"{module}.{name.name}".strip(".") for name in node.names)]
            if node.level:  # from its own package, or one around it
                places = [file.parents[node.level - 1]]
        for name in filter(None, names):
            for folder in places:
                path = folder.joinpath(*name.split("."))
                for candidate in (path.with_suffix(".py"), path / "__init__.py"):
                    if candidate.is_file():
                        yield candidate
