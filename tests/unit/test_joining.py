"""What `ailab merge` promises: all that is lacking comes once and whole, what is to go does not, nothing differs in silence."""

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

from ailab import blobs, cli, commits, events, journal, store, verification
from ailab.errors import ForeignFolderError, RefusedError, StoreError
from ailab.joining import join
from ailab.removal import purge, redact
from ailab.views.compact import compact


@pytest.fixture
def two(tmp_path):
    """Two empty stores."""
    return tuple(store.open_store(str(tmp_path / name), create=True) for name in ("a", "b"))


def training(place, run="r1", points=20, *, seal=True):
    writer = journal.Writer(place, run=run)
    writer.append(events.RunStarted(name=run, project="p", params={"lr": 0.1}))
    content = f"model of {run}".encode()
    digest = blobs.put_bytes(place, content)
    writer.append(events.ArtifactAdded(path="model.bin", logged="model.bin", size=len(content), sha256=digest))
    for i in range(points):
        writer.append(events.MetricsLogged({"loss": 1 / (i + 1)}, i))
    writer.append(events.RunFinished(status="completed"))
    writer.seal() if seal else writer.abandon()
    return writer.name


def files(place, *folders):
    """The bytes of every file that is the truth, by its path in the store."""
    root = Path(place.path)
    found = {}
    for folder in folders or ("segments", "blobs", "compacted"):
        found |= {str(p.relative_to(root)): p.read_bytes() for p in (root / folder).rglob("*") if p.is_file()}
    return found


def state(place):
    return oracle.canonical(oracle.state(place.path))


def counts(done):
    return done.segments, done.records, done.tables, done.blobs


def test_all_that_is_lacking_comes_once(two):
    """Afterwards the first has both stores' files; a second merge copies nothing and says so."""
    a, b = two
    training(a, "r1")
    training(b, "r2")
    both = files(a) | files(b)
    done = join(a, b)
    assert (counts(done), done.left) == ((1, 0, 0, 1), [])
    assert files(a) == both
    assert done.bytes == sum(map(len, files(b).values()))
    again = join(a, b)
    assert (counts(again), again.bytes, again.there, again.left) == ((0, 0, 0, 0), 0, 2, [])
    assert files(a) == both
    assert verification.verify(a).findings == []


def test_a_dry_run_copies_nothing_and_counts_the_same(two):
    a, b = two
    training(b, "r1")
    compact(b, fold=False)
    training(b, "r2")
    would = join(a, b, dry_run=True)
    assert files(a) == {}
    done = join(a, b)
    assert (counts(would), would.bytes) == (counts(done), done.bytes)


@pytest.mark.parametrize("compacted", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("gone", [False, True])
def test_a_store_equals_the_sum_of_both_whatever_is_compacted(two, tmp_path, compacted, gone):
    """Tables here, there, on both sides, with and without the segments that they replaced: the same state, each event once."""
    a, b = two
    training(a, "shared")
    shutil.copytree(a.path, b.path, dirs_exist_ok=True)
    training(a, "mine")
    training(b, "yours")
    sum_of = store.open_store(str(tmp_path / "sum"), create=True)
    for place in two:
        shutil.copytree(place.path, sum_of.path, dirs_exist_ok=True)
    wanted = state(sum_of)
    for i in compacted:
        compact(two[i], fold=False)
        if gone:
            compact(two[i], grace_s=0, fold=False)
    join(a, b)
    assert state(a) == wanted
    assert verification.verify(a).sound
    assert counts(join(a, b)) == (0, 0, 0, 0)


def test_tables_that_add_nothing_are_not_copied(two):
    """The other store is a compacted copy: nothing is lacking."""
    a, b = two
    training(a)
    shutil.copytree(a.path, b.path, dirs_exist_ok=True)
    compact(b, grace_s=0, fold=False)
    compact(b, grace_s=0, fold=False)
    assert counts(join(a, b)) == (0, 0, 0, 0)


def test_a_longer_copy_of_a_dead_writers_segment_replaces_the_shorter(two):
    a, b = two
    name = training(b, seal=False)
    content = Path(b.segment_path(name)).read_bytes()
    Path(a.segment_path(name)).write_bytes(content[: len(content) // 2])
    assert counts(join(a, b))[0] == 1
    assert Path(a.segment_path(name)).read_bytes() == content
    shorter = Path(b.segment_path(name))
    shorter.write_bytes(content[:100])
    done = join(a, b)
    assert (counts(done)[0], done.left) == (0, [])
    assert Path(a.segment_path(name)).read_bytes() == content


def test_a_segment_whose_writer_lives_here_is_left(two):
    """Nobody but its writer changes a file."""
    a, b = two
    writer = journal.Writer(a, run="r1")
    writer.append(events.RunStarted(name="x"))
    path = Path(a.segment_path(writer.name))
    content = path.read_bytes()
    other = Path(b.segment_path(writer.name))
    other.write_bytes(content + b'{"seq":2}\n')
    done = join(a, b)
    assert [(one.name, one.kind) for one in done.left] == [(writer.name, "alive")]
    assert path.read_bytes() == content
    writer.seal()


def test_other_bytes_under_one_name_are_named(two):
    """Segments that differ, and segments that differ from tables."""
    a, b = two
    for number, run in enumerate(["r1", "r2"]):
        name = training(a, run)
        content = Path(a.segment_path(name)).read_bytes()
        Path(b.segment_path(name)).write_bytes(content.replace(b"0.1", b"0.2"))
        if number == 0:
            compact(a, grace_s=0, fold=False)
            compact(a, grace_s=0, fold=False)
    before = files(a)
    done = join(a, b)
    assert [one.kind for one in done.left] == ["differs", "differs"]
    assert files(a) == before


def test_a_renamed_segment_comes_under_its_name_at_birth(two):
    a, b = two
    name = training(b)
    os.rename(b.segment_path(name), b.segment_path("renamed"))
    join(a, b)
    assert a.segment_names() == [name]


def test_a_ruined_blob_or_table_is_not_copied(two):
    a, b = two
    training(b)
    compact(b, grace_s=0, fold=False)
    compact(b, grace_s=0, fold=False)
    table = next(Path(b.compacted).glob("*.events.parquet"))
    table.write_bytes(table.read_bytes()[:-9] + b"x" * 9)
    blob = next(p for p in Path(b.blobs).rglob("*") if p.is_file())
    blob.write_bytes(b"other bytes")
    done = join(a, b)
    assert {one.kind for one in done.left} == {"bad-checksum"}
    assert {table.name, blob.name} <= {one.name for one in done.left}
    assert a.commit_names() == []
    assert not os.path.exists(a.blob_path(blob.name))


def test_foreign_folders_newer_formats_and_the_store_itself_are_refused(two, tmp_path):
    a, b = two
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    Path(b.path, "ailab-store.json").write_text('{"format":2}\n')
    for other, error in ((foreign, ForeignFolderError), (b.path, StoreError), (tmp_path / "nowhere", StoreError)):
        with pytest.raises(error):
            store.open_store(str(other), create=False)
        done = CliRunner().invoke(cli.main, ["merge", a.path, str(other), "--json"])
        assert (done.exit_code, done.stdout) == (1, "")
    with pytest.raises(RefusedError):
        join(a, a)
    assert (foreign / "notes.txt").read_text() == "mine"
    assert len(list(foreign.iterdir())) == 1


# -- what is to go -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("compacted", [False, True])
def test_what_is_redacted_in_either_store_is_gone_afterwards(two, where, compacted):
    """An artifact's name that one store redacted is in no segment of the first; a purged run's blob is not copied."""
    a, b = two
    name = training(a, "secret-run")
    shutil.copytree(a.path, b.path, dirs_exist_ok=True)
    training(b, "purged-run")
    digest = hashlib.sha256(b"model of purged-run").hexdigest()
    if compacted:
        compact(two[1 - where], fold=False)
    redact(two[where], [(name, 2)], reason="test")
    purge(b, ["purged-run"])
    join(a, b)
    join(a, b)
    everything = b"".join(files(a, "segments").values())
    assert b'"path":"model.bin"' not in everything
    assert not os.path.exists(a.blob_path(digest))
    said = verification.verify(a)
    assert said.sound, said.findings
    assert said.redacted >= 1
    assert oracle.state(a.path)["runs"].keys() == {"secret-run"}


def test_a_redacted_blob_is_never_copied_and_goes_here(two):
    a, b = two
    training(a, "r1")
    shutil.copytree(a.path, b.path, dirs_exist_ok=True)
    digest = hashlib.sha256(b"model of r1").hexdigest()
    redact(b, [], digests=[digest], reason="test")
    assert not os.path.exists(b.blob_path(digest))
    assert join(a, b).removed_blobs == 1
    assert not os.path.exists(a.blob_path(digest))
    blobs.put_bytes(b, b"model of r1")
    assert join(a, b).blobs == 0


# -- kills -------------------------------------------------------------------------------------------------------------

KILLED = """
import os, sys
from ailab import joining, store
at, calls = int(sys.argv[3]), 0
for name in ("link", "replace", "fsync", "utime", "unlink"):
    def wrapped(*args, real=getattr(os, name), **kwargs):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), 9)
        return real(*args, **kwargs)
    setattr(os, name, wrapped)
joining.join(store.open_store(sys.argv[1], create=False), store.open_store(sys.argv[2], create=False))
print(calls)
"""


def test_a_merge_that_is_killed_anywhere_is_finished_by_the_next(two, tmp_path, scripts):
    """Kill -9 before every third call that changes a name: the next merge gives the files of one that was never killed."""
    a, b = two
    training(b, "r1")
    compact(b, grace_s=0, fold=False)
    compact(b, grace_s=0, fold=False)
    training(b, "r2")
    whole = store.open_store(str(tmp_path / "whole"), create=True)
    join(whole, b)
    wanted, total = files(whole), 0
    for at in range(1, 60, 3):
        shutil.rmtree(a.path)
        store.open_store(a.path, create=True)
        done = scripts.run(KILLED, a.path, b.path, at, code=None)
        assert done.returncode in {0, -signal.SIGKILL}, done.stderr
        assert verification.verify(a).sound
        join(a, b)
        left = {path: content for path, content in files(a).items() if "/.tmp-" not in path}
        assert left == wanted
        total = at
        if done.returncode == 0:
            break
    assert 8 < total < 58


def test_a_silent_writer_is_not_taken_as_alive_because_its_file_was_copied(two):
    """The time of a file's last change tells whether a writer of another machine lives; a copy keeps it."""
    a, b = two
    name = training(b, seal=False)
    long_ago = time.time() - 5000
    os.utime(b.segment_path(name), (long_ago, long_ago))
    join(a, b)
    assert abs(os.stat(a.segment_path(name)).st_mtime - long_ago) < 1


def test_the_verb_says_it_in_words_and_in_json(two):
    a, b = two
    training(b)
    done = CliRunner().invoke(cli.main, ["merge", a.path, b.path, "--dry-run"])
    assert done.exit_code == 0
    assert "1 segment, 0 commit records, 0 tables, 1 blob;" in done.stdout
    assert done.stdout.startswith("would copy")
    answer = json.loads(CliRunner().invoke(cli.main, ["merge", a.path, b.path, "--json"]).stdout)
    assert (answer["segments"], answer["blobs"], answer["dry_run"]) == (1, 1, False)
    done = CliRunner().invoke(cli.main, ["merge", a.path, b.path])
    assert "nothing: all that the other store has is here" in done.stdout
    assert commits.load(a)[0] == {}


# -- healing -----------------------------------------------------------------------------------------------------------


def flip(path, at=None):
    """Change one bit in the middle of a file, or at a byte."""
    raw = bytearray(Path(path).read_bytes())
    raw[len(raw) // 2 if at is None else at] ^= 1
    Path(path).write_bytes(raw)


def append(path, at=None):
    Path(path).write_bytes(Path(path).read_bytes() + b"xxxx")


def copied(place, name):
    """A copy of a store as it is now."""
    target = Path(place.path).parent / name
    shutil.copytree(place.path, target)
    return store.open_store(str(target), create=False)


@pytest.mark.parametrize("hurt", [flip, append, os.unlink])
@pytest.mark.parametrize("what", ["*.events.parquet", "*.points.parquet", "*.json"])
@pytest.mark.parametrize("from_segments", [False, True])
def test_damaged_tables_are_healed_by_a_copy(two, hurt, what, from_segments):
    """By its tables, or by the segments that they replaced; without `heal` nothing is replaced, and what differs is said."""
    here, _ = two
    training(here, points=300), training(here, "r2", points=300)
    before, written = state(here), copied(here, "written")
    compact(here, grace_s=0)
    backup = written if from_segments else copied(here, "backup")
    (path,) = Path(here.compacted).glob(what)
    hurt(path)
    assert state(here) != before
    plain = join(here, backup)
    assert plain.healed == 0
    assert plain.left or hurt is flip or state(here) == before  # a changed byte is found by reading what is here
    healed = join(here, backup, heal=True)
    assert healed.left == []
    assert state(here) == before
    compact(here, grace_s=0)
    assert state(here) == before
    assert counts(join(here, backup, heal=True)) == (0, 0, 0, 0)


@pytest.mark.parametrize("hurt", [flip, append])
def test_damaged_blobs_are_healed_by_a_copy(two, hurt):
    here, _ = two
    training(here)
    backup = copied(here, "backup")
    (path,) = (p for p in Path(here.blobs).rglob("*") if p.is_file())
    whole = path.read_bytes()
    hurt(path)
    plain = join(here, backup)
    assert [one.kind for one in plain.left] == (["differs"] if hurt is append else [])
    healed = join(here, backup, heal=True)
    assert (healed.blobs, healed.healed, healed.left) == (1, 1, [])
    assert path.read_bytes() == whole


def test_a_damaged_segment_is_healed_by_a_whole_one_and_never_the_other_way(two):
    here, _ = two
    name = training(here)
    backup = copied(here, "backup")
    whole = Path(here.segment_path(name)).read_bytes()
    flip(here.segment_path(name))
    damaged = Path(here.segment_path(name)).read_bytes()
    assert [one.kind for one in join(here, backup).left] == ["differs"]
    assert [one.kind for one in join(backup, here, heal=True).left] == ["differs"]
    assert Path(backup.segment_path(name)).read_bytes() == whole
    assert Path(here.segment_path(name)).read_bytes() == damaged
    healed = join(here, backup, heal=True)
    assert (healed.segments, healed.healed, healed.left) == (1, 1, [])
    assert Path(here.segment_path(name)).read_bytes() == whole


def test_two_damaged_copies_of_a_segment_are_both_left(two):
    """Each has lines that the other lacks: nothing is replaced, and nothing is lost."""
    here, _ = two
    name = training(here)
    backup = copied(here, "backup")
    flip(here.segment_path(name), 400)
    flip(backup.segment_path(name), 1400)
    before = files(here), files(backup)
    done = join(here, backup, heal=True)
    assert [(one.name, one.kind) for one in done.left] == [(name, "differs")]
    assert (files(here), files(backup)) == before


def test_a_damaged_segment_is_copied_and_named(two):
    """It is better than nothing; a whole one heals it later."""
    here, other = two
    name = training(other)
    backup = copied(other, "backup")
    flip(other.segment_path(name))
    done = join(here, other)
    assert [(one.name, one.kind) for one in done.damaged] == [(name, "bad-checksum")]
    assert (done.segments, done.left) == (1, [])
    assert join(here, backup, heal=True).healed == 1


def test_what_a_damaged_table_said_is_to_go_goes_once_it_is_healed(two):
    """The redaction stands in a table that is damaged; a copy that has the data still gives it back until that is healed."""
    here, _ = two
    writer = journal.Writer(here, run="r1")
    writer.append(events.RunStarted(name="r1"))
    writer.append(events.NoteChanged(note="hunter2"))
    writer.seal()
    backup = copied(here, "backup")
    redact(here, [(writer.name, 2)], reason="a secret")
    compact(here, grace_s=0)
    assert b"hunter2" not in b"".join(files(here).values())
    healthy = copied(here, "healthy")
    for path in Path(here.compacted).glob("*.events.parquet"):
        flip(path)
    join(here, backup, heal=True)
    done = join(here, healthy, heal=True)
    assert done.healed > 0
    assert state(here) == state(healthy)
    compact(here, grace_s=0)
    assert b"hunter2" not in b"".join(files(here).values())
