"""The server's README: every curl line is run as it stands, and every route has one."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from urllib.parse import urlsplit

import msgspec
import pytest
from live import ROOT

from ailab.bodies import LOGGED
from ailab.events import KINDS

README = (ROOT / "api" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SETUP, LINES = BLOCKS[0], [line for block in BLOCKS[1:] for line in block.splitlines()]


def asked(line):
    """(method, path without variables) of a curl line; one that sets a variable stands in $( )."""
    inner = re.fullmatch(r"[A-Z]+=\$\((curl .*?)( \| .*)?\)", line)
    words = shlex.split(inner[1] if inner else line)
    method = words[words.index("-X") + 1] if "-X" in words else "GET"
    return method, urlsplit(words[-1].replace("$URL", "http://x")).path


def fits(path, template):
    """Whether a path with variables asks the route of a template."""
    return re.fullmatch(re.sub(r"\\\{\w+\\\}", r"\\$\\w+", re.escape(template)), path) is not None


def test_every_route_has_a_curl_line(routes):
    """A route of the OpenAPI document without a line in the README is missing there, and a line without a route is a relic."""
    lines = [asked(line) for line in LINES]
    missing = [(verb, template) for verb, _, template, _ in routes if not any(v == verb and fits(p, template) for v, p in lines)]
    relics = [line for line in lines if not any(line[0] == verb and fits(line[1], template) for verb, _, template, _ in routes)]
    assert (missing, relics) == ([], [])


def test_a_missing_line_would_be_seen():
    """The comparison above tells routes apart."""
    assert fits("/runs/$RUN", "/runs/{run_id}")
    assert not fits("/runs/$RUN/note", "/runs/{run_id}")
    assert not fits("/runs/compare", "/runs/{run_id}")
    assert fits("/artifacts/$RUN/download/$FILE", "/artifacts/{run_id}/download/{path}")


def test_the_fields_of_events_are_those_of_their_kinds():
    """Each kind that one may post has a row, which names all of its fields and no other."""
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| (.*) \|$", README[README.index("| kind |") :], re.MULTILINE))
    assert tuple(kind for kind in rows if "." in kind) == LOGGED
    for kind in LOGGED:
        fields = {field.encode_name for field in msgspec.structs.fields(KINDS[kind])}
        named = re.findall(r"`([a-z_]+)`", re.sub(r"\([^)]*\)", "", rows[kind]))
        assert set(named) == fields, kind


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("full", [True, False])
def test_every_curl_line_runs(start, store, tmp_path, full):
    """The lines that set the variables, then all lines of the README, in one shell: all answer, with runs and without any."""
    if full:
        shutil.copytree(store, tmp_path / "copy", copy_function=os.link)  # a note is set; files never change, so links will do
    live = start(dir=tmp_path / "copy")
    assert all(line.startswith("curl ") or re.match(r"[A-Z]+=\$\(curl ", line) for line in LINES)
    script = 'curl() { command curl --fail-with-body --silent --show-error --globoff "$@"; }\n'
    script += SETUP.replace("http://127.0.0.1:8000", live.url)
    script += "".join(f"echo; echo '# {number}'; {line}\n" for number, line in enumerate(LINES))
    done = subprocess.run(["sh", "-eu", "-c", script], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done
    answers = re.split(r"^# \d+\n", done.stdout.decode(), flags=re.MULTILINE)[1:]
    assert len(answers) == len(LINES)
    assert [
        line
        for line, answer in zip(LINES, answers, strict=True)
        if not answer.strip() and line.startswith("curl ") and "-o /dev/null" not in line
    ] == []
