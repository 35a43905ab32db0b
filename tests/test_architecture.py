"""The layout is a rule: arrows point one way, files are short, the environment is read once."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import trialrun

ROOT = Path(trialrun.__file__).parent
LAYERS = ["cli", "compat", "controller", "", "samplers"]
"""From the top; "" is the API that users import. A module imports from its own or lower layers."""
MAX_LINES = 620


@dataclasses.dataclass(frozen=True)
class Import:
    source: str
    target: str
    is_at_module_level: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(name: str) -> Iterator[Import]:
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    yield from _imports_in(tree, name, is_at_module_level=True)


def _imports_in(parent: ast.AST, name: str, is_at_module_level: bool) -> Iterator[Import]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        for target in _targets(node):
            if target in FILES:
                yield Import(name, target, is_at_module_level)
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _imports_in(node, name, is_at_module_level and not is_function)


def _targets(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0 and node.module is not None, "imports are absolute"
        submodules = [f"{node.module}.{alias.name}" for alias in node.names]
        # ``from package import module`` imports the module; anything else is the package's.
        return [name if name in FILES else node.module for name in submodules]
    return []


def layer(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else ""


def test_the_walk_sees_imports_in_functions_but_none_for_types_alone() -> None:
    found = {(i.target, i.is_at_module_level) for i in imports_of("trialrun.cli.read")}
    assert ("trialrun.controller.bookkeeping", True) in found
    lazily = {i.target for i in imports_of("trialrun._trial") if not i.is_at_module_level}
    assert "trialrun._batch_contents" in lazily
    assert "trialrun._context" not in {i.target for i in imports_of("trialrun._trial")}


def test_arrows_point_from_cli_to_controller_to_api_to_samplers() -> None:
    wrong = [
        f"{arrow.source} imports {arrow.target}"
        for name in FILES
        for arrow in imports_of(name)
        if LAYERS.index(layer(arrow.target)) < LAYERS.index(layer(name))
    ]
    assert wrong == []


def test_samplers_import_nothing_else_of_trialrun() -> None:
    targets = {
        arrow.target for name in FILES if layer(name) == "samplers" for arrow in imports_of(name)
    }
    assert {target for target in targets if layer(target) != "samplers"} == set()
    assert "trialrun.samplers._checks" in targets


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        name: {arrow.target for arrow in imports_of(name) if arrow.is_at_module_level}
        for name in FILES
    }
    finished: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in finished:
            for target in sorted(graph[name]):
                walk(target, (*path, name))
            finished.add(name)

    for name in FILES:
        walk(name, ())
    assert finished == set(FILES)


def test_the_environment_is_read_in_one_place() -> None:
    readers: dict[str, set[str]] = {}
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv"):
                readers.setdefault(name, set())
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
                readers[name] = readers.get(name, set()) | {ast.unparse(node.slice)}
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                names = {alias.name for alias in node.names}
                assert not names & {"environ", "getenv"}, f"{name} imports it by name"
    assert readers.pop("trialrun.controller.home") == set()
    # What started a process tells it its place in this way; torch's agent is told that no signal
    # is its own; Python its order of hashes, and where it finds modules.
    assert readers.pop("trialrun.controller.launch.place") == set()
    # cuBLAS takes its workspace from there; what tells libraries to compute otherwise is recorded.
    assert readers == {
        "trialrun.controller.engine.determinism": {"CUBLAS_WORKSPACE"},
        "trialrun.controller.engine.environment": {"name"},
        "trialrun.controller.launch.agent": {"'TORCHELASTIC_SIGNALS_TO_HANDLE'"},
        "trialrun.controller.launch.server": {"name"},
        "trialrun.controller.launch._server_environment": {"SAFE_PATH"},
    }


def test_no_file_is_long() -> None:
    tests = Path(__file__).parent
    files = [*FILES.values(), *tests.rglob("*.py")]
    lines = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}
