"""The make targets are those that are promised, each with its words in `make help`; CI runs the README's test command."""

from __future__ import annotations

import re
import subprocess

import pytest
from house import ROOT, blocks, page

TARGETS = ("demo", "test", "test-all", "check", "bench", "serve", "build", "help")


def described() -> dict[str, str]:
    """Targets with the words behind their `##`."""
    return dict(re.findall(r"^([a-z-]+):[^\n]*?## (.+)$", page("Makefile"), re.MULTILINE))


def test_every_promised_target_is_there():
    """Each has a line of words, and each is declared to be no file."""
    (phony,) = re.findall(r"^\.PHONY: (.+)$", page("Makefile"), re.MULTILINE)
    assert set(described()) == set(TARGETS) == set(phony.split())


def test_make_help_lists_each_target_with_its_words():
    """`make help` and `make` alone print every target and what it does, and nothing else."""
    for command in (["make", "help"], ["make"]):
        told = subprocess.run(
            ["make", "--no-print-directory", *command[1:]], check=True, cwd=ROOT, capture_output=True, text=True
        )
        lines = [re.fullmatch(r"\s*(?:make )?([a-z-]+)\s+(.+)", line) for line in told.stdout.splitlines()]
        assert {line[1]: line[2] for line in lines if line} == described()
        assert all(lines)


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_can_be_planned(target):
    """`make --dry-run` finds a way to every target from nothing."""
    command = ["make", "--dry-run", "--no-print-directory", "VENV=no-such-environment", target]
    planned = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.strip()


def test_ci_runs_the_test_command_of_the_readme():
    """`.ci/run` is executable, goes to the top of the checkout and runs what the README says tests are run with."""
    path = ROOT / ".ci" / "run"
    assert path.stat().st_mode & 0o111
    lines = [line.strip() for line in path.read_text().splitlines()]
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert len(commands) == 1
    told = [
        line.removeprefix("$ ").partition("#")[0].strip()
        for block in blocks(page("README.md"))
        if block.language in {"sh", "console", "bash"}
        for line in block.text.splitlines()
    ]
    assert commands[0] in told
    assert commands[0] == "make test"


def test_ci_stops_at_the_first_error():
    """A command that fails fails the whole."""
    assert "set -euo pipefail" in page(".ci/run")
