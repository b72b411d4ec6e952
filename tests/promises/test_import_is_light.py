"""`import ailab` loads msgspec and the standard library, and of the latter only what the first `log()` needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = frozenset((
    "PIL", "aiohttp", "anyio", "click", "duckdb", "fsspec", "git", "gitdb", "httpx", "joblib", "jwt", "litestar", "matplotlib",
    "mcp", "numpy", "openai", "pandas", "polars", "psutil", "pyarrow", "pydantic", "pynvml", "requests", "rich", "scipy",
    "sklearn", "tensorflow", "torch", "tqdm", "urllib3", "uvicorn", "wandb", "yaml",
))  # fmt: skip
NOT_FOR_LOGGING = frozenset((
    "argparse", "asyncio", "concurrent", "csv", "email", "getpass", "glob", "hashlib", "html", "http", "json", "logging",
    "multiprocessing", "pathlib", "pickle", "random", "shutil", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "tomllib",
    "traceback", "unicodedata", "urllib", "xml", "zipfile",
))  # fmt: skip
PROBE = """
import sys
import msgspec
before = set(sys.modules)
{statement}
print("\\n".join(sorted(set(sys.modules) - before)))
"""


class TooHeavyError(AssertionError):
    """A statement loaded what it must not; the text names it and holds the table of imports."""


def loaded_by(statement: str, environment: dict[str, str]) -> list[str]:
    """The modules that a statement loads in a new interpreter, beyond those of msgspec, if none of them is too heavy."""
    command = [sys.executable, "-X", "importtime", "-c", PROBE.format(statement=statement)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    tops = {name.partition(".")[0] for name in names}
    wrong = sorted(tops - sys.stdlib_module_names - {"ailab"} | tops & HEAVY | tops & NOT_FOR_LOGGING)
    if wrong:
        raise TooHeavyError(f"{statement!r} loads {', '.join(wrong)}\n{done.stderr}")
    return names


def test_import_is_light(scripts):
    """Nothing but msgspec, the writing half of ailab, and a few modules of the standard library."""
    names = loaded_by("import ailab", scripts.environment())
    ours = {name for name in names if name.startswith("ailab")}
    assert {"ailab", "ailab.recorder", "ailab.runs", "ailab.journal", "ailab.events"} <= ours
    assert not ours & {"ailab.views", "ailab.queries", "ailab.reading", "ailab.actions", "ailab.capture", "ailab.cli"}


@pytest.mark.parametrize(
    ("statement", "culprit"),
    [("import ailab.views", "duckdb"), ("import ailab; ailab.connect", "duckdb"), ("import ailab, subprocess", "subprocess")],
)
def test_a_heavy_import_is_caught(scripts, statement, culprit):
    """The same check fails when something heavy is loaded; it names the culprit and prints the table of imports."""
    with pytest.raises(TooHeavyError) as caught:
        loaded_by(statement, scripts.environment())
    message, table = str(caught.value).split("\n", 1)
    assert culprit in message
    assert any(line.split("|")[-1].strip() == culprit for line in table.splitlines() if line.startswith("import time:"))


def test_the_lists_of_the_check_are_what_they_say():
    """One list holds packages, the other modules of the standard library."""
    assert not HEAVY & sys.stdlib_module_names
    assert sys.stdlib_module_names >= NOT_FOR_LOGGING
