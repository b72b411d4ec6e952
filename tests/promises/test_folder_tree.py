"""The picture of the house in the README is the house: every path in it is there, and nothing that one should know is missing."""

from __future__ import annotations

import re

import pytest
from house import PACKAGES, ROOT, blocks, page, tracked

_GAP = re.compile(r"\s{2,}")


def picture(text: str) -> str:
    """The fenced block titled `The house`: behind the fence, or in the last line of text or heading before it."""
    for block in blocks(text):
        before = [line for line in text.splitlines()[: block.line - 1] if line.strip()]
        if "The house" in block.info or (before and re.search(r"\bThe house\b", before[-1])):
            return block.text
    raise AssertionError("README.md has no fenced block titled 'The house'")


def named(text: str) -> dict[str, str]:
    """The paths of a picture with their words; a path stands below the last folder that is indented less.

    A line is `path   words`; several paths may stand in one line, two blanks apart.
    """
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        above = [(deep, folder) for deep, folder in above if deep < indent]
        folder = above[-1][1] if above else ""
        first, *rest = _GAP.split(line.strip())
        paths = [first]
        while rest and _is_path(folder, rest[0]):
            paths.append(rest.pop(0))
        for path in paths:
            found[folder + path] = " ".join(rest)
            if path.endswith("/"):
                above.append((indent, folder + path))
    return found


def _is_path(folder: str, word: str) -> bool:
    """Whether what stands behind a path is another one, not the first of its words."""
    return " " not in word and (bool(re.search(r"\w[./]|^\.", word)) or (ROOT / folder / word).exists())


def parts() -> dict[str, str]:
    """What a picture must name: what git tracks at the top, and the modules and folders of the packages (with their folder)."""
    top = {path.partition("/")[0] + ("/" if "/" in path else ""): "" for path in tracked()}
    inside = {
        path.relative_to(ROOT).as_posix() + ("/" if path.is_dir() else ""): package.relative_to(ROOT).as_posix() + "/"
        for package in PACKAGES
        for path in package.iterdir()
        if (path.suffix == ".py" and not path.stem.startswith("__")) or (path / "__init__.py").is_file()
    }
    return {**top, **inside}


def test_every_path_in_the_picture_is_there():
    """Nobody is sent to a file that does not exist, and a folder is written with a slash."""
    assert [path for path in named(picture(page("README.md"))) if not _is_there(path)] == []


def _is_there(path: str) -> bool:
    if "*" in path:
        return any(ROOT.glob(path.rstrip("/")))
    return (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()


def test_everything_stands_in_the_picture():
    """What is tracked at the top is named, and so is every module: on a line of its own, or among the words of its folder."""
    shown = named(picture(page("README.md")))
    missing = []
    for part, folder in parts().items():
        words = re.findall(r"[a-z_]+", shown.get(folder, ""))
        if (
            not any(path.startswith(part) for path in shown)
            and part.rstrip("/").rpartition("/")[2].removesuffix(".py") not in words
        ):
            missing.append(part)
    assert missing == []


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("a/   the a\n  b.py   the b\n  c/   the c\n    d.py   d\ne.md   e", ["a/", "a/b.py", "a/c/", "a/c/d.py", "e.md"]),
        ("a/b.py   one  with more words\nMakefile  LICENSE", ["a/b.py", "Makefile", "LICENSE"]),
        ("Makefile   build things\n.ci/run   runs them\na.toml  b.toml   settings", ["Makefile", ".ci/run", "a.toml", "b.toml"]),
    ],
)
def test_a_picture_is_read_as_people_read_it(text, paths):
    """Indented paths belong to the folder above them; words are not paths."""
    assert list(named(text)) == paths
