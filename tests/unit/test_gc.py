"""What `ailab gc` promises: it removes what it said, nothing that is named, and loses nothing when it is killed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

import oracle
import pytest
from click.testing import CliRunner
from handmade import Pen

from ailab import blobs, claims, cli, collecting, commits, events, journal, store, verification, views
from ailab.errors import RefusedError
from ailab.views.compact import compact

OLD = time.time() - 100_000


@pytest.fixture
def place(tmp_path):
    return store.open_store(str(tmp_path / "store"), create=True)


def training(place, run="r1", *, content=b"model"):
    writer = journal.Writer(place, run=run)
    writer.append(events.RunStarted(name=run, project="p", params={"lr": 0.1}))
    digest = blobs.put_bytes(place, content)
    writer.append(events.ArtifactAdded(path="model.bin", logged="model.bin", size=len(content), sha256=digest))
    writer.append(events.MetricsLogged({"loss": 0.5}, 1))
    writer.append(events.RunFinished(status="completed"))
    writer.seal()
    return writer.name


def trash(place, *runs):
    writer = journal.Writer(place, via="cli")
    for run in runs:
        writer.append(events.RunTrashed(), run=run)
    writer.seal()


def collect(place, **how):
    lab = views.open_lab(place.path)
    try:
        return collecting.collect(lab, **how)
    finally:
        lab.close()


def files(place):
    """Sizes of all files but the cache's, by path."""
    root = Path(place.path)
    return {
        str(p.relative_to(root)): p.stat().st_size for p in root.rglob("*") if p.is_file() and not p.is_relative_to(place.cache)
    }


def sorts(done):
    return {one.sort: (one.count, one.bytes) for one in done.sorts if one.count}


def age(*paths):
    for path in paths:
        os.utime(path, (OLD, OLD))


@pytest.fixture
def littered(place):
    """One thing of every sort that may go, and beside each one that must stay."""
    training(place, "r1")
    training(place, "r2", content=b"another model")
    compact(place)
    writer = journal.Writer(place, run="r1")  # named by a segment that is not in tables
    kept = blobs.put_bytes(place, b"kept")
    writer.append(events.ArtifactAdded(path="kept", logged="kept", size=4, sha256=kept))
    writer.seal()
    lost = [blobs.put_bytes(place, content) for content in (b"lost", b"lost too")]
    young = blobs.put_bytes(place, b"young")
    age(*(p for p in Path(place.blobs).rglob("*") if p.is_file() and p.name != young))
    left = [Path(place.segments, ".tmp-1-a"), Path(place.blobs, ".tmp-1-b"), Path(place.compacted, ".tmp-1-c")]
    orphan = Path(place.compacted, "x.events.parquet")
    for path in (*left, orphan):
        path.write_bytes(b"some bytes")
        age(path)
    Path(place.blobs, ".tmp-2-young").write_bytes(b"at work")
    Path(place.compacted, "y.events.parquet").write_bytes(b"at work")
    return place, lost


def test_a_dry_run_says_what_is_then_removed(littered):
    """Names, counts and bytes are those of the files that are gone afterwards; the state is what it was."""
    place, lost = littered
    before, state = files(place), oracle.canonical(oracle.state(place.path))
    would = collect(place, dry_run=True, grace_s=0)
    assert files(place) == before
    done = collect(place, grace_s=0)
    assert [(one.sort, one.count, one.bytes, one.names) for one in done.sorts] == [
        (one.sort, one.count, one.bytes, one.names) for one in would.sorts
    ]
    after = files(place)
    gone = before.keys() - after.keys()
    assert done.bytes == would.bytes == sum(before[path] for path in gone)
    assert after.keys() <= before.keys()
    assert sorts(done).keys() == {"segments", "tables", "leftovers", "blobs"}
    assert sorts(done)["blobs"] == (2, len(b"lost") + len(b"lost too"))
    assert {path for path in gone if path.startswith("blobs")} == {f"blobs/{d[:2]}/{d}" for d in lost} | {"blobs/.tmp-1-b"}
    assert oracle.canonical(oracle.state(place.path)) == state
    assert verification.verify(place).sound
    assert sorts(collect(place, grace_s=0)) == {}


def test_what_is_young_stays(littered):
    """Within the grace, and within an hour, everything is somebody's work."""
    place, _ = littered
    before = files(place)
    for path in Path(place.path).rglob("*"):
        if path.is_file():
            os.utime(path)
    assert sorts(collect(place)) == {}
    assert files(place) == before


@pytest.mark.parametrize("damage", ["a line", "a table", "a record", "a folder"])
def test_no_blob_goes_while_something_cannot_be_read(littered, damage):
    """It may name one; the answer says what."""
    place, _ = littered
    if damage == "a line":
        pen = Pen(place.path, "r9")
        pen.raw(b'{"seq":1,"at":"2026-11-24T09:00:00Z","clock":1,"kind":"artifact.added","crc":1}\n').point('{"a":1.0}')
        pen.prev = 0
        pen.line('"kind":"note.changed","run":"r9","data":{"note":"x"}')
    elif damage == "a folder":
        Path(place.segments, "20260101T000000000000Z_far_1_00000000.jsonl").mkdir()
    else:
        compact(place, grace_s=0, fold=False)
        pattern = "2*.events.parquet" if damage == "a table" else "*.json"
        path = next(Path(place.compacted).glob(pattern))
        path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    before = {path for path in files(place) if path.startswith("blobs/") and ".tmp-" not in path}
    done = collect(place)
    assert {path for path in files(place) if path.startswith("blobs/") and ".tmp-" not in path} == before
    assert any("no blob is removed" in one.why for one in done.left)


def test_a_blob_that_a_kind_from_the_future_names_stays(place):
    """Whatever an event is, 64 hexadecimal digits in it are a name."""
    digest = blobs.put_bytes(place, b"from the future")
    Pen(place.path, "r1").line(f'"kind":"moon.landed","run":"r1","data":{{"x":["{digest}"]}}').seal()
    age(place.blob_path(digest))
    assert sorts(collect(place)) == {}
    compact(place, grace_s=0, fold=False)
    age(place.blob_path(digest))
    assert "blobs" not in sorts(collect(place))


def test_a_blob_that_is_put_again_is_young(place):
    """Whoever keeps the same bytes again finds them, and nobody collects them before his event is written."""
    training(place)
    digest = blobs.put_bytes(place, b"again")
    age(place.blob_path(digest))
    assert blobs.put_bytes(place, b"again") == digest
    assert sorts(collect(place)) == {}
    age(place.blob_path(digest))
    assert sorts(collect(place)) == {"blobs": (1, 5)}


@pytest.mark.parametrize("compacted", [False, True])
def test_runs_leave_the_trash_for_good(place, compacted):
    """After so many days their data and their blobs are gone; runs beside them, younger trash and protected runs stay."""
    for run in ("old", "stays", "protected"):
        training(place, run, content=run.encode())
    trash(place, "old", "protected")
    writer = journal.Writer(place, via="cli")
    writer.append(events.RunProtected(), run="protected")
    writer.seal()
    if compacted:
        compact(place, grace_s=0)
        compact(place, grace_s=0)
    age(*(p for p in Path(place.blobs).rglob("*") if p.is_file()))
    assert "runs" not in sorts(collect(place))
    would = collect(place, dry_run=True, trash_days=0, grace_s=1e9)
    assert (would.sorts[5].names, would.sorts[6].names) == (["old"], [hashlib.sha256(b"old").hexdigest()])
    before = files(place)
    done = collect(place, trash_days=0, grace_s=1e9)
    assert sorts(done) == sorts(would)
    gone = before.keys() - files(place).keys()
    assert sum(before[path] for path in gone if path.startswith(("segments", "blobs"))) == done.bytes
    assert not any(b'"name":"old"' in path.read_bytes() for path in Path(place.segments).iterdir())
    assert oracle.state(place.path)["runs"].keys() == {"stays", "protected"}
    assert verification.verify(place).sound
    assert "runs" not in sorts(collect(place, trash_days=0))


def test_a_restored_run_stays(place):
    training(place, "r1")
    trash(place, "r1")
    writer = journal.Writer(place, via="cli")
    writer.observe(1000)
    writer.append(events.RunRestored(), run="r1")
    writer.seal()
    assert sorts(collect(place, trash_days=0)) == {}


def test_superseded_snapshots_go(place):
    """The one that readers stand on stays."""
    training(place, "r1")
    compact(place)
    training(place, "r2")
    compact(place)
    records = sorted(Path(place.cache).glob("2*.json"))
    assert len(records) == 2
    age(*Path(place.cache).iterdir())
    done = collect(place)
    assert sorts(done).keys() == {"snapshots"}
    assert sorted(Path(place.cache).glob("2*.json")) == records[1:]
    assert verification.verify(place).sound


def test_it_waits_for_no_compaction_and_meets_none(place):
    """While somebody compacts, it is refused; looking is allowed."""
    training(place)
    lab = views.open_lab(place.path)
    with claims.take(place, "compaction"):
        assert collecting.collect(lab, dry_run=True).dry_run
        with pytest.raises(RefusedError, match="a compaction is at work"):
            collecting.collect(lab)
    lab.close()


KILLED = """
import os, sys
from ailab import collecting, views
lab = views.open_lab(sys.argv[1])
at, calls, real = int(sys.argv[2]), 0, os.unlink
def unlink(path, *args, **kwargs):
    global calls
    if "/claims/" not in str(path):
        calls += 1
        if calls == at:
            os.kill(os.getpid(), 9)
    return real(path, *args, **kwargs)
os.unlink = unlink
collecting.collect(lab, grace_s=0)
"""


def test_a_kill_in_the_middle_loses_nothing(littered, tmp_path, scripts):
    """Before every second removal: the state is what it was, and the next collection ends with the same files."""
    place, _ = littered
    state = oracle.canonical(oracle.state(place.path))
    whole = store.open_store(shutil.copytree(place.path, tmp_path / "whole", copy_function=shutil.copy2), create=False)
    collect(whole, grace_s=0)
    for at in range(1, 30, 2):
        copy = store.open_store(shutil.copytree(place.path, tmp_path / f"copy-{at}", copy_function=shutil.copy2), create=False)
        done = scripts.run(KILLED, copy.path, at, code=None)
        assert oracle.canonical(oracle.state(copy.path)) == state
        assert verification.verify(copy).sound
        collect(copy, grace_s=0)
        assert files(copy).keys() == files(whole).keys()
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert at > 5


def test_the_verb_asks_and_says(littered):
    """Off a terminal nothing goes without --yes; JSON has every sort."""
    place, _ = littered
    before = files(place)
    done = CliRunner().invoke(cli.main, ["gc", "--dir", place.path])
    assert (done.exit_code, "--yes" in done.stderr) == (1, True)
    done = CliRunner().invoke(cli.main, ["gc", "--dry-run", "--dir", place.path])
    assert (done.exit_code, "would free" in done.stdout) == (0, True)
    assert files(place) == before
    answer = json.loads(CliRunner().invoke(cli.main, ["gc", "--yes", "--json", "--dir", place.path]).stdout)
    assert [one["sort"] for one in answer["sorts"]] == [
        "segments", "records", "tables", "leftovers", "snapshots", "runs", "blobs",
    ]  # fmt: skip
    assert answer["bytes"] == sum(before[path] for path in before.keys() - files(place).keys())
    assert commits.load(place)[1] == []
