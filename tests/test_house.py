"""The checks that look at the whole house: style, types and import contracts."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
CHECKS = {
    "style": ("ruff", "check", "."),
    "format": ("ruff", "format", "--check", "."),
    "types": ("mypy",),
    "imports": ("lint-imports",),
}


@pytest.mark.parametrize("name", CHECKS)
def test_whole_house_passes(name: str) -> None:
    command, *arguments = CHECKS[name]
    done = subprocess.run([BIN / command, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_library_alembic_is_not_hidden_by_the_folder() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_no_import_cycle_anywhere() -> None:
    packages = ("secateur", "api", "workers", "search", "latency_probes", "jobs")
    graph = grimp.build_graph(*packages, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    order = TopologicalSorter(imports)
    order.prepare()  # raises CycleError, which names the modules of a cycle


SOURCES = sorted((ROOT / "search").rglob("*.py"))
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 350, 50


def test_files_and_functions_of_the_library_stay_short() -> None:
    """Docstrings do not count for functions: they hold the arguments, shapes and errors."""
    texts = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in SOURCES}
    long_files = [path for path, text in texts.items() if text.count("\n") > MOST_LINES]
    functions = [
        (path, node)
        for path, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
    ]
    long_functions = [
        f"{path}:{node.name}"
        for path, node in functions
        if (node.end_lineno or 0) - _first_line(node) >= MOST_LINES_OF_A_FUNCTION
    ]
    assert (long_files, long_functions) == ([], [])


def _first_line(function: ast.FunctionDef) -> int:
    """Of the body, behind the docstring."""
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    return statements[0].lineno if statements else function.lineno
