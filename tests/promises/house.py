"""What the promises ask about the checkout: its root, the files that git tracks, the packages' modules, blocks of its pages."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (ROOT / "ailab", ROOT / "api" / "ailab_api")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL)
_NO_TEST = re.compile(r"<!-- no test:(?P<reason>.*?)-->\s*$", re.DOTALL)


@cache
def tracked() -> tuple[str, ...]:
    """Paths of the files that git tracks and that are there, from the root, with forward slashes."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], check=True, capture_output=True).stdout.decode()
    return tuple(path for path in listed.split("\0") if path and (ROOT / path).is_file())


def sources() -> list[Path]:
    """Every Python file of the two packages."""
    return sorted(path for package in PACKAGES for path in package.rglob("*.py"))


def environment() -> dict[str, str]:
    """The environment of a person who has the two packages and none of our settings; warnings are errors."""
    ours = ("AILAB_", "MODELLAB_", "PROJECT_NAME", "WANDB_", "OPENAI_")
    paths = [str(ROOT), str(ROOT / "api"), os.environ.get("PYTHONPATH", "")]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**plain, "PYTHONPATH": os.pathsep.join(path for path in paths if path), "PYTHONWARNINGS": "error"}


def page(name: str) -> str:
    """The text of a page of the checkout."""
    return (ROOT / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: `info` stands behind the fence, `line` is where it begins."""

    info: str
    text: str
    line: int
    no_test: str | None

    @property
    def language(self) -> str:
        """The first word behind the fence."""
        return self.info.partition(" ")[0]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page in order; `no_test` is the reason given in a comment right before the block, if any."""
    found = []
    for fence in _FENCE.finditer(text):
        lines = fence["text"].splitlines(keepends=True)
        body = "".join(line.removeprefix(fence["indent"]) for line in lines)
        said = _NO_TEST.search(text[: fence.start()])
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(fence["info"].strip(), body, line, said["reason"].strip() if said else None))
    return found
