"""Sizes of Python files, functions and parameter lists, in every tracked hand-written file."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from platform_tools.checkout import ROOT

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
MOST_PARAMETERS = 7
TABLES = {
    "load-testing/src/load_testing/bench/systems.py": "envoy_config",
    "services/observability/src/observability/rules/alerts.py": "_limits",
    "services/observability/src/observability/rules/verdict.py": "recording_groups",
}
"""Functions that are mostly rows of literals: splitting them would separate rows that belong together."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files() -> Iterator[Path]:
    """Yield every tracked Python file, programs without a suffix included.

    Raises:
        subprocess.CalledProcessError: this is not a git checkout.
    """
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and not path.is_symlink() and is_python(path):
            yield path


def is_python(path: Path) -> bool:
    """Return whether a file is Python by its suffix or, without one, by its first line."""
    if path.suffix:
        return path.suffix == ".py"
    with path.open("rb") as file:
        first = file.readline(200)
    return first.startswith(b"#!") and b"python" in first


def oversized(name: str, text: str) -> Iterator[str]:
    """Yield each size above its limit in ``text``, the content of the file ``name``."""
    lines = len(text.splitlines())
    if lines > LONGEST_FILE:
        yield f"{name}: {lines} lines; at most {LONGEST_FILE}: split the file by meaning"
    tree = ast.parse(text)
    methods = {item for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for item in node.body}
    for node in ast.walk(tree):
        if not isinstance(node, Function):
            continue
        where = f"{name}:{node.lineno}: {node.name}"
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > LONGEST_FUNCTION and TABLES.get(name) != node.name:
            yield f"{where}: {length} lines; at most {LONGEST_FUNCTION}: split the function by meaning"
        count = parameters(node, method=node in methods)
        if count > MOST_PARAMETERS:
            yield f"{where}: {count} parameters; at most {MOST_PARAMETERS}: group them in a dataclass"


def parameters(function: Function, *, method: bool) -> int:
    """Return how many named parameters a caller can pass; a method's ``self`` or ``cls`` is not one of them."""
    arguments = function.args
    count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
    static = any(isinstance(item, ast.Name) and item.id == "staticmethod" for item in function.decorator_list)
    return count - (method and not static)


def test_every_file_and_function_is_within_the_bounds() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: the tracked files are unknown")
    found = [
        problem
        for path in python_files()
        for problem in oversized(path.relative_to(ROOT).as_posix(), path.read_text())
    ]
    assert found == [], "\n".join(["over the bounds:", *found])


@pytest.mark.parametrize(("name", "function"), TABLES.items())
def test_every_exempt_table_is_one_and_needs_the_exemption(name: str, function: str) -> None:
    """A table has few statements for its length: its lines are rows of literals."""
    (node,) = (
        node
        for node in ast.walk(ast.parse((ROOT / name).read_text()))
        if isinstance(node, Function) and node.name == function
    )
    lines = (node.end_lineno or 0) - node.lineno + 1
    statements = sum(isinstance(inner, ast.stmt) for inner in ast.walk(node)) - 1
    assert lines > LONGEST_FUNCTION, "it needs no exemption"
    assert lines > 4 * statements


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = 1\n" * 401, "x.py: 401 lines"),
        ("def f():\n" + "    a = 1\n" * 60, "x.py:1: f: 61 lines"),
        ("class C:\n    async def f(self):\n" + "        a = 1\n" * 60, "x.py:2: f: 61 lines"),
        ("def f(a, b, c, d, e, f, g, h): ...\n", "x.py:1: f: 8 parameters"),
        ("def f(a, b, c, /, d, *, e, f, g, h): ...\n", "x.py:1: f: 8 parameters"),
        ("class C:\n    @staticmethod\n    def f(a, b, c, d, e, f, g, h): ...\n", "x.py:3: f: 8 parameters"),
    ],
)
def test_each_kind_of_excess_is_found(text: str, problem: str) -> None:
    (found,) = oversized("x.py", text)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    "text",
    [
        "a = 1\n" * 400,
        "def f():\n" + "    a = 1\n" * 59,
        "class C:\n    def f(self, a, b, c, d, e, f, g): ...\n",
        "def f(a, b, c, d, e, f, g, *more, **named): ...\n",
    ],
)
def test_what_is_just_within_the_bounds_is_allowed(text: str) -> None:
    assert list(oversized("x.py", text)) == []
