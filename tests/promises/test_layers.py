"""The layers of the house hold, and import-linter, which says so, would notice if one did not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest
from house import PACKAGES, ROOT

if TYPE_CHECKING:
    from pathlib import Path

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LINT = "import sys; from importlinter.cli import lint_imports_command as lint; lint(sys.argv[1:])"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of a copy of the house."""
    paths = os.pathsep.join([str(folder), str(folder / "api")])
    command = [sys.executable, "-P", "-c", LINT, "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": paths, "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, env=environment)


@pytest.fixture
def copy(tmp_path):
    """A copy of the two packages and of the contracts."""
    house = tmp_path / "house"
    for package in PACKAGES:
        shutil.copytree(package, house / package.relative_to(ROOT), ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", house)
    return house


def test_the_layers_hold(copy):
    """Every contract is kept by the code as it is."""
    done = lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in done.stdout


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("queries", "import duckdb", "DuckDB is imported in one folder"),
        ("actions", "def later():\n    import litestar", "Litestar is imported in one folder"),
        ("journal", "import pyarrow", "The training side imports msgspec and the standard library"),
        ("events", "from . import journal", "Data flows one way"),
        ("views/fold", "from .. import queries", "Data flows one way"),
    ],
)
def test_a_wrong_import_is_caught(copy, module, statement, contract):
    """One import that a layer forbids, at the top or inside a function, breaks the contract that names it."""
    path = copy / "ailab" / f"{module}.py"
    path.write_text(f"{path.read_text()}\n{statement}\n")
    done = lint(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract} BROKEN" in done.stdout


def modules() -> set[str]:
    """The modules and folders right below `ailab`, by their dotted names."""
    found = {path.stem for path in PACKAGES[0].glob("*.py")} | {path.parent.name for path in PACKAGES[0].glob("*/__init__.py")}
    return {f"ailab.{name}" for name in found - {"__init__"}}


def test_every_module_stands_in_a_layer():
    """No module of the package is outside the picture, and the picture names none that is gone."""
    (contract,) = [c for c in CONTRACTS if c["type"] == "layers"]
    named = [part.strip() for layer in contract["layers"] for part in layer.replace(":", "|").split("|")]
    assert sorted(named) == sorted({*modules(), "ailab_api"})


def test_every_module_but_the_views_is_kept_from_duckdb():
    """The list of modules that may not import DuckDB has all of them."""
    (contract,) = [c for c in CONTRACTS if c["forbidden_modules" if "forbidden_modules" in c else "type"] == ["duckdb"]]
    assert sorted(contract["source_modules"]) == sorted({*modules() - {"ailab.views"}, "ailab_api"})
