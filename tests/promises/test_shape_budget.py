"""Files and functions stay of a size that a person reads in one go, and every module has a noun of its own for a name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from house import ROOT, sources, tracked

FILE_LINES = 800
FUNCTION_LINES = 80
NO_NOUNS = frozenset({"base", "common", "handler", "handlers", "helper", "helpers", "manager", "misc", "shared", "util", "utils"})


def long_functions(source: str) -> list[str]:
    """Functions of a source text above the limit, their docstrings not counted."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            said = ast.get_docstring(node, clean=False)
            text = node.body[0].end_lineno - node.body[0].lineno + 1 if said is not None else 0
            lines = node.end_lineno - node.lineno + 1 - text
            if lines > FUNCTION_LINES:
                found.append(f"{node.name}: {lines} lines")
    return found


@pytest.mark.parametrize("path", [str(path.relative_to(ROOT)) for path in sources()])
def test_each_file_is_within_its_budget(path):
    """At most 800 lines a file and 80 a function, and a docstring that says what the module is."""
    source = (ROOT / path).read_text(encoding="utf-8")
    lines = source.count("\n")
    assert lines <= FILE_LINES, f"{path} has {lines} lines; split it by its nouns"
    assert long_functions(source) == []
    assert ast.get_docstring(ast.parse(source)), f"{path} does not say what it is"


def test_every_module_has_a_noun():
    """No module is called after what it could not be called."""
    assert {path.stem for path in sources()} & NO_NOUNS == set()
    assert {folder.name for path in sources() for folder in path.relative_to(ROOT).parents} & NO_NOUNS == set()


def test_the_budget_can_be_overdrawn():
    """A function of 81 lines is found, one of 80 is not, and a docstring costs nothing."""
    body = "    x = 1\n" * 80
    assert long_functions(f"def f():\n{body}") == ["f: 81 lines"]
    assert long_functions(f"def f():\n{body[:-10]}") == []
    assert long_functions(f'def f():\n    """One.\n\n    Two.\n    """\n{body[:-10]}') == []


def test_tests_have_no_drawer_for_everything_either():
    """The same names are not used among tests."""
    assert {Path(path).stem for path in tracked() if path.startswith("tests/") and path.endswith(".py")} & NO_NOUNS == set()
