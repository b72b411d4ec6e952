"""The wheel: two packages at its top and nothing else, all they need inside, and it works from a folder of its own."""

from __future__ import annotations

import ast
import email
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from typing import TYPE_CHECKING

import pytest
from house import PACKAGES, ROOT, sources

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

BASE = frozenset(
    ("click", "duckdb", "gitpython", "h11", "litestar", "msgspec", "multipart", "psutil", "pyarrow", "rich", "uvicorn")
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the checkout, built without a network."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel):
    """Paths of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_top_is_two_packages(names):
    """`ailab`, `ailab_api` and the metadata; a generic name such as `api` or `events` would shadow users' modules."""
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ailab", "ailab_api"}
    assert len(tops) == 3


def test_it_holds_the_packages_whole(names):
    """Every source file, the views' SQL and the marker of types are in it; caches and tests are not."""
    inside = {f"{package.name}/{path.relative_to(package).as_posix()}" for package in PACKAGES for path in package.rglob("*.py")}
    kept = {name for name in names if ".dist-info/" not in name}
    assert inside <= kept
    assert {"ailab/views/views.sql", "ailab/py.typed"} <= kept
    assert not [name for name in kept if "__pycache__" in name or name.endswith((".pyc", ".ts", ".tsx")) or "/test" in name]


def test_its_metadata_says_what_it_needs(wheel, names):
    """Name, version, Python, licence, each dependency and each extra are those of pyproject.toml."""
    (path,) = [name for name in names if name.endswith(".dist-info/METADATA")]
    with zipfile.ZipFile(wheel) as archive:
        said = email.message_from_bytes(archive.read(path))
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "ailab" / "__init__.py").read_text(), re.MULTILINE)
    assert version
    assert (said["Name"], said["Version"]) == ("ailab", version[1])
    assert (said["Requires-Python"], said["License-Expression"]) == (PROJECT["requires-python"], PROJECT["license"])
    required = said.get_all("Requires-Dist") or []
    always = sorted(_plain(text) for text in required if "extra ==" not in text)
    assert always == sorted(_plain(text) for text in PROJECT["dependencies"])
    assert set(said.get_all("Provides-Extra") or []) == set(PROJECT["optional-dependencies"])
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_what_the_code_imports_is_declared():
    """The base dependencies are these, and every import that is not guarded by `try` or `TYPE_CHECKING` is one of them."""
    assert {re.match(r"[\w-]+", text)[0].lower() for text in PROJECT["dependencies"]} == BASE
    imported = set()
    for path in sources():
        for node in _unguarded(ast.parse(path.read_text(encoding="utf-8"))):
            imported |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else {node.module or ""} - {""}
    tops = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - {"ailab", "ailab_api"}
    assert {{"git": "gitpython"}.get(name, name) for name in tops} <= BASE
    assert {"msgspec", "duckdb", "litestar", "click"} <= tops


def _unguarded(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The absolute imports below a node that happen whatever is installed."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import) or (isinstance(child, ast.ImportFrom) and child.level == 0):
            yield child
        elif not isinstance(child, ast.Try) and not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from _unguarded(child)


def _plain(requirement: str) -> str:
    """A requirement without blanks, its limits in a fixed order, its name as indexes write it."""
    name, limits = re.fullmatch(r"([\w.-]+)\s*(.*)", requirement.partition(";")[0].strip()).groups()
    return name.lower().replace("_", "-") + ",".join(sorted(limits.replace(" ", "").split(",")))


def test_it_works_where_it_is_installed(wheel, tmp_path):
    """Installed into a folder by pip without an index, it logs, reads, serves its app and runs its command from elsewhere."""
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-compile", "--target", str(target), str(wheel)], check=True, capture_output=True)
    source = f"""
import ailab, ailab_api, ailab_api.app
assert ailab.__file__.startswith({str(target)!r}), ailab.__file__
assert ailab_api.__file__.startswith({str(target)!r}), ailab_api.__file__
with ailab.start_run("wheel", id="wheel", params={{"lr": 0.1}}) as run:
    run.log({{"loss": 0.5}}, step=1)
found = ailab.get_run("wheel")
assert (found.status, found.final_metrics, found.params) == ("completed", {{"loss": 0.5}}, {{"lr": 0.1}}), found
"""
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", source], check=False, cwd=elsewhere, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "ailab", "runs", "--json"]
    told = subprocess.run(command, check=False, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert '"run_id":"wheel"' in told.stdout.replace('": "', '":"')
