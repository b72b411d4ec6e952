"""What `ailab redact` promises: the data are in no file of the store any more, what happened stays, and what waits is said."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from ailab import blobs, claims, cli, events, journal, store, verification
from ailab.errors import FilterError, NotFoundError, RefusedError
from ailab.removal import parse_event, redact
from ailab.views import restore
from ailab.views.compact import compact

SECRET = b"hunter2"


@pytest.fixture
def place(tmp_path):
    return store.open_store(str(tmp_path / "store"), create=True)


def training(place, *, seal=True):
    writer = journal.Writer(place, run="r1")
    writer.append(events.RunStarted(name="x"))
    writer.append(events.NoteChanged(note=SECRET.decode()))
    writer.append(events.MetricsLogged({"loss": 0.5}, 1))
    if seal:
        writer.seal()
    return writer


def holding(place):
    """Files of the store that have the secret, in the clear or in lines that tables give back."""
    from ailab import commits

    found = [p.name for p in Path(place.path).rglob("*") if p.is_file() and SECRET in p.read_bytes()]
    for name, commit in commits.load(place)[0].items():
        found += [name for row in restore.restored(place, name, commit) if SECRET in row.line]
    return found


@pytest.mark.parametrize("compacted", [False, True])
def test_redacted_data_are_in_no_file(place, compacted):
    """From segments and from tables; seq, time and checksum of the line stay, and the chain holds."""
    name = training(place).name
    if compacted:
        compact(place)
    assert holding(place)
    done = redact(place, [(name, 2)], reason="a password")
    assert (done.events, done.left) == ([f"{name}:2"], [])
    assert holding(place) == []
    said = verification.verify(place)
    assert (said.sound, said.redacted) == (True, 1)
    assert redact(place, [(name, 2)], reason="again").events == [f"{name}:2"]


def test_what_a_living_writer_holds_is_said_and_goes_later(place):
    writer = training(place, seal=False)
    done = redact(place, [(writer.name, 2)], reason="test")
    assert (done.events, [one.name for one in done.left]) == ([], [writer.name])
    assert holding(place)
    writer.seal()
    compact(place)
    assert holding(place) == []


def test_while_a_compaction_works_the_event_is_kept_and_the_next_one_does_it(place):
    name = training(place).name
    with claims.take(place, "compaction"):
        done = redact(place, [(name, 2)], reason="test")
    assert [one.name for one in done.left] == ["compaction"]
    compact(place)
    assert holding(place) == []


def test_a_blob_goes_at_once(place):
    digest = blobs.put_bytes(place, SECRET)
    done = redact(place, [], digests=[digest], reason="test")
    assert (done.blobs, done.bytes) == ([digest], len(SECRET))
    assert not os.path.exists(place.blob_path(digest))
    assert verification.verify(place).findings == []


def test_what_is_not_there_or_must_stay_is_refused_and_nothing_is_said(place):
    """A segment, a line, a header, a digest: the store is as it was."""
    name = training(place).name
    before = {path: path.read_bytes() for path in Path(place.path).rglob("*") if path.is_file()}
    for line, error in (((name, 99), NotFoundError), (("nowhere", 1), NotFoundError), ((name, 0), RefusedError)):
        with pytest.raises(error):
            redact(place, [(name, 2), line], reason="test")
    with pytest.raises(FilterError):
        redact(place, [], digests=["../../x"], reason="test")
    assert {path: path.read_bytes() for path in Path(place.path).rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("text", ["", "x", "x:", ":1", "x:-1", "x:1.5", "x:²"])
def test_an_event_is_a_segment_and_a_number(text):
    with pytest.raises(FilterError, match="SEGMENT:SEQ"):
        parse_event(text)


def test_the_verb_asks_first(place):
    """Off a terminal only with --yes; a reason is needed."""
    name = training(place).name
    run = CliRunner()
    assert run.invoke(cli.main, ["redact", f"{name}:2", "--dir", place.path, "--yes"]).exit_code == 2
    assert run.invoke(cli.main, ["redact", "--reason", "x", "--dir", place.path, "--yes"]).exit_code == 2
    asked = run.invoke(cli.main, ["redact", f"{name}:2", "--reason", "x", "--dir", place.path])
    assert (asked.exit_code, "--yes" in asked.stderr) == (1, True)
    assert holding(place)
    done = run.invoke(cli.main, ["redact", f"{name}:2", "--reason", "x", "--yes", "--json", "--dir", place.path])
    assert json.loads(done.stdout)["events"] == [f"{name}:2"]
    assert holding(place) == []
    digest = hashlib.sha256(b"nothing").hexdigest()
    done = run.invoke(cli.main, ["redact", "--blob", digest, "--reason", "x", "--yes", "--dir", place.path])
    assert (done.exit_code, "there is no such blob here" in done.stdout) == (0, True)
    blobs.put_bytes(place, b"nothing")
    assert [one.kind for one in verification.verify(place).findings] != []


def test_the_verb_says_what_is_not_done_yet_with_its_exit_status(place):
    writer = training(place, seal=False)
    done = CliRunner().invoke(cli.main, ["redact", f"{writer.name}:2", "--reason", "x", "--yes", "--dir", place.path])
    assert (done.exit_code, "not done yet" in done.stdout) == (1, True)
    assert holding(place)
    writer.seal()
