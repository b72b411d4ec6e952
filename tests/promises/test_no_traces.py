"""No file of the checkout tells of the machine that it was written on."""

from __future__ import annotations

import re

import pytest
from house import ROOT, tracked

PLACES = re.compile("|".join(f"/{name}/" for name in ("work", "root", "tmp/w")))  # written so that this file is no trace itself
HOSTS = re.compile(r"(?:https?://|@)[\w.-]+\.(?:internal|corp|lan|intranet|localdomain)\b")


def texts() -> list[tuple[str, str]]:
    """Tracked files that are text, with their text."""
    found = []
    for path in tracked():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            found.append((path, content.decode("utf-8")))
    return found


def traces(text: str) -> list[str]:
    """What a text tells of a machine."""
    return [match[0] for pattern in (PLACES, HOSTS) for match in pattern.finditer(text)]


def test_no_tracked_file_names_a_place_of_one_machine():
    """No absolute path of somebody's checkout or home, and no name of a private host."""
    assert {path: found for path, text in texts() if (found := traces(text))} == {}
    assert len(texts()) > 20


@pytest.mark.parametrize("text", ["see /{}/main", "in '/{}/x'", "http://mirror.{}/simple", "git@code.{}:lab"])
@pytest.mark.parametrize("word", ["work", "root", "corp", "internal"])
def test_a_trace_is_found(text, word):
    """The check tells what it is there to tell, and no more."""
    place = "/{}" in text
    assert bool(traces(text.format(word))) is (place == (word in {"work", "root"}))
