"""No import cycle in code that no layer contract covers: the cluster tool, and the SDK.

import-linter reads installed packages only. `hack` is none: its programs run before an environment exists.
"""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _module(path: Path, base: Path) -> str:
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path, base: Path, modules: set[str]) -> set[str]:
    """The modules of a package that a file imports, at the top, inside functions, or for types alone."""
    package = path.parent.relative_to(base).parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join((*above, *filter(None, [node.module])))
            # `from package import name` imports the module of that name, if there is one, else the package.
            names = [f"{origin}.{alias.name}" for alias in node.names]
            names = [name if name in modules else origin for name in names]
        else:
            continue
        found.update(name for name in names if name in modules)
    return found


def _graph(folder: Path, base: Path) -> dict[str, set[str]]:
    files = {_module(path, base): path for path in folder.rglob("*.py") if "__main__" not in path.name}
    graph = {name: _imports(path, base, set(files)) for name, path in files.items()}
    # A package's `__init__` only re-exports: modules that import each other do so by their own names.
    return {name: found - {name} for name, found in graph.items()}


@pytest.mark.parametrize("folder", ["hack/cluster", "sdk/perdure_agent"])
def test_a_package_has_no_import_cycle(folder: str) -> None:
    graph = _graph(ROOT / folder, (ROOT / folder).parent)
    assert sum(map(len, graph.values())) > len(graph), "the imports are found"
    graphlib.TopologicalSorter(graph).prepare()


def test_a_cycle_is_found(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from . import two\n")
    (package / "two.py").write_text("def late():\n    from .one import name\n")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(_graph(package, tmp_path)).prepare()
