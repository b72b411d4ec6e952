"""The changelog follows the version: its top is what is not released yet, or what the package calls itself."""

from __future__ import annotations

import re

from house import page

import ailab

SECTIONS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def versions() -> list[str]:
    """The versions that have a heading, newest first."""
    return re.findall(
        r"^## \[?(Unreleased|\d+\.\d+\.\d+)\]?(?: - (?:\d{4}-\d{2}-\d{2}|unreleased))?$", page("CHANGELOG.md"), re.MULTILINE
    )


def test_the_top_is_this_version_or_what_is_not_released():
    """Nobody releases a version whose changes nobody wrote down."""
    assert versions()[0] in {"Unreleased", ailab.__version__}
    numbered = [version for version in versions() if version != "Unreleased"]
    assert ailab.__version__ in numbered[:1] or versions()[0] == "Unreleased"


def test_versions_fall_and_every_heading_is_known():
    """Every second-level heading is a version, newest first, and what is below it stands in the sections of Keep a Changelog."""
    text = page("CHANGELOG.md")
    assert len(re.findall(r"^## ", text, re.MULTILINE)) == len(versions())
    numbered = [tuple(map(int, version.split("."))) for version in versions() if version != "Unreleased"]
    assert numbered == sorted(set(numbered), reverse=True)
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= set(SECTIONS)
    assert re.search(r"^- ", text, re.MULTILINE)
