"""Records are rewritten without losing a byte, and data that are to go are gone wherever tables and closed segments had them."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import oracle
import pytest
from handmade import Pen

from ailab import claims, commits, events, journal, store
from ailab.errors import RefusedError
from ailab.leftovers import Held
from ailab.views import compact as compaction
from ailab.views import record, rewrite, snapshot
from ailab.views.compact import Left, Redaction, redact

SECRET = b"hunter2"


@pytest.fixture
def place(tmp_path):
    return store.open_store(str(tmp_path / "store"), create=True)


def compact(place, **how):
    """Compact without the snapshot, which is a reader's matter."""
    return compaction.compact(place, fold=False, **how)


def training(place, run, lines=70, *, note="x"):
    """A sealed run with a note."""
    writer = journal.Writer(place, run=run)
    writer.append(events.RunStarted(name=run))
    for i in range(lines):
        writer.append(events.MetricsLogged({"loss": 1 / (i + 1), run[:1]: i}, i))
    writer.append(events.NoteChanged(note=note))
    writer.append(events.RunFinished(status="completed"))
    writer.seal()
    return writer.name


def contents(place):
    return {name: Path(place.segment_path(name)).read_bytes() for name in place.segment_names()}


def aged(path, seconds=3600):
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def everything(place):
    """Every byte of the store's files; of tables every value."""
    import pyarrow.parquet as pq

    files = [path for path in Path(place.path).rglob("*") if path.is_file()]
    tables = [str(pq.read_table(path).to_pylist()).encode() for path in files if path.suffix == ".parquet"]
    return b"".join([*(path.read_bytes() for path in files), *tables])


# -- merging -----------------------------------------------------------------------------------------------------------


def test_sixteen_small_records_become_one(place):
    """Each line is there once before and after, and the sixteen go with their tables after the grace."""
    for i in range(16):
        training(place, f"r{i:02d}")
        compact(place)
    before, state = contents(place), oracle.canonical(oracle.state(place.path))
    done = compact(place)
    assert done.merged == 0  # the sixteenth came with the last one, and all were made one there
    levels = sorted(commit.level for commit in commits.load(place)[0].values())
    assert levels == [0] * 16 + [1]
    assert oracle.restore(place.path) == before
    compact(place, grace_s=0, orphan_s=0)
    assert contents(place) == {}
    assert oracle.restore(place.path) == before
    assert oracle.canonical(oracle.state(place.path)) == state
    (commit,) = commits.load(place)[0].values()
    assert (commit.level, len(commit.replaces), len(commit.spans)) == (1, 16, 16)
    assert sorted(os.listdir(place.compacted)) == sorted(
        [*(f.name for f in commit.files), *(f"{n}.json" for n in place.commit_names())]
    )


def test_spans_that_follow_each_other_become_one(place):
    """A segment that was closed four times is one span afterwards, and its first lines need no bytes any more."""
    pen = Pen(place.path, "r1")
    for _ in range(4):
        for i in range(64):
            pen.point('{"loss":0.5}', i)
        aged(pen.path)
        compact(place)
    assert compact(place, merge_records=2, grace_s=0).merged == 4
    compact(place, grace_s=0)
    (commit,) = commits.load(place)[0].values()
    (span,) = [span for span in commit.spans if span.segment == pen.name]
    assert (span.start, span.end, span.lines) == (0, len(pen.content), 257)
    assert oracle.restore(place.path)[pen.name] == pen.content
    import pyarrow.parquet as pq

    assert [pq.read_table(place.table_path(f.name))["raw"].null_count for f in commit.files] == [f.rows for f in commit.files]


def test_merging_is_bounded(place):
    """By bytes; a record of a quarter of that is left alone."""
    for i in range(6):
        training(place, f"r{i}", 70 if i < 5 else 700)
        compact(place)
    held = Held(place)
    sizes = {name: sum(span.end - span.start for span in commit.spans) for name, commit in held.counting.items()}
    small = min(sizes.values())
    groups = rewrite.mergeable(held, at_least=5, most_bytes=small * 4 + 4000)
    assert sorted(map(len, groups)) == [4]
    assert rewrite.mergeable(held, at_least=6, most_bytes=small * 4 + 4000) == []
    assert rewrite.mergeable(held, at_least=2, most_bytes=small) == []


def test_two_copies_that_were_compacted_apart(place, tmp_path):
    """Joined by copying files, each event counts once; after the grace nothing is there twice."""
    names = [training(place, f"r{i}") for i in range(4)]
    before = contents(place)
    other = store.Store(str(tmp_path / "other"))
    shutil.copytree(place.path, other.path)
    compact(place, batch_segments=3)
    compact(other, batch_segments=2)
    shutil.copytree(other.path, place.path, dirs_exist_ok=True)
    assert len(place.commit_names()) == 4
    assert oracle.restore(place.path) == before
    compact(place, merge_records=2, grace_s=0, orphan_s=0)
    assert contents(place) == {}
    assert oracle.restore(place.path) == before
    compact(place, grace_s=0, orphan_s=0)
    assert oracle.restore(place.path) == before
    assert sorted(span.segment for commit in commits.load(place)[0].values() for span in commit.spans) == names


def test_two_copies_that_were_closed_at_different_lines(place, tmp_path):
    """A span that begins in the middle of another gives only its further lines; each counts once, also when all are merged."""
    pen = Pen(place.path, "r1")

    def grow(lines, *places):
        for i in range(lines):
            pen.point('{"loss":0.5}', i)
        for other in places:
            if other is not place:
                shutil.copy(pen.path, other.segment_path(pen.name))
            aged(other.segment_path(pen.name))
            compact(other)

    other = store.Store(str(tmp_path / "other"))
    shutil.copytree(place.path, other.path)
    os.makedirs(other.segments, exist_ok=True)
    grow(70, place)
    grow(70, other)
    grow(70, place)
    shutil.copytree(other.path, place.path, dirs_exist_ok=True)
    pen.path.write_bytes(pen.content)
    spans = sorted((span.line, span.lines) for commit in commits.load(place)[0].values() for span in commit.spans)
    assert [span for span in spans if span[1] > 50] == [(0, 71), (0, 141), (71, 211)]
    assert oracle.restore(place.path)[pen.name] == pen.content
    for _ in range(2):
        compact(place, merge_records=2, grace_s=0)
        assert oracle.restore(place.path)[pen.name] == pen.content
    assert [(s.line, s.lines) for c in commits.load(place)[0].values() for s in c.spans if s.segment == pen.name] == [(0, 211)]


def test_a_record_with_the_only_bytes_behind_a_gap_stays(place):
    """What cannot count because its beginning is missing is not taken as replaced."""
    pen = Pen(place.path, "r1")
    for _ in range(2):
        for i in range(64):
            pen.point('{"loss":0.5}', i)
        aged(pen.path)
        compact(place)
    first = next(
        name
        for name, commit in commits.load(place)[0].items()
        if any(s.segment == pen.name and s.start == 0 for s in commit.spans)
    )
    shutil.copy(place.commit_path(first), place.path)
    os.unlink(place.commit_path(first))
    os.unlink(pen.path)
    compact(place, grace_s=0)
    shutil.copy(os.path.join(place.path, f"{first}.json"), place.compacted)
    assert oracle.restore(place.path)[pen.name] == pen.content


@pytest.mark.parametrize("asked", [True, False])
def test_two_compactions_of_the_same_lines_meet_at_one_record(place, monkeypatch, asked):
    """The second notices when it looks once more, and if it does not look, at the record's name; it removes its own tables."""
    name = training(place, "r1")
    before = contents(place)
    prove = record.prove
    inner = []

    def meanwhile(*args):
        prove(*args)
        if not inner:
            inner.append(None)
            with monkeypatch.context() as patch:
                patch.setattr(compaction, "CLAIM", "another")
                inner[0] = compact(place)

    monkeypatch.setattr(record, "prove", meanwhile)
    if not asked:
        monkeypatch.setattr(compaction._Work, "_refusal", lambda *_: None)
    outer = compact(place)
    assert (inner[0].commits, outer.commits) == (1, 0)
    why = f"another compaction has rewritten {name}" if asked else "another record replaces the same bytes"
    assert outer.left == [Left(name, why)]
    assert len(os.listdir(place.compacted)) == 3
    assert oracle.restore(place.path) == before


def test_compaction_leaves_a_snapshot(place):
    """A reader that comes next finds it."""
    training(place, "r1")
    compaction.compact(place)
    assert snapshot.find(place, place.commit_names()) is not None


# -- redaction ---------------------------------------------------------------------------------------------------------


def secret(place, run="r1"):
    """A sealed run whose note has a secret; (segment, seq) of the note."""
    name = training(place, run, note=SECRET.decode())
    return name, 72


def say(place, *what):
    """Append what a person says of redaction."""
    writer = journal.Writer(place, via="cli")
    for event, run in what:
        writer.append(event, run=run)
    writer.seal()


@pytest.mark.parametrize("where", ["segment", "table", "both", "merged"])
def test_a_redacted_event_is_gone(place, where):
    """From a segment, from a table, and from both; nothing else is, and the next compaction finds nothing to do."""
    name, seq = secret(place)
    other = training(place, "r2")
    if where != "segment":
        compact(place, grace_s=0 if where in {"table", "merged"} else 3600)
    if where == "merged":
        training(place, "r3")
        compact(place, merge_records=2, grace_s=0)
    before = oracle.restore(place.path)
    assert SECRET in before[name]
    say(place, (events.EventRedacted(segment=name, seq=seq, reason="a password"), None))
    done = redact(place, {(name, seq)})
    assert (done.done, done.left) == ([(name, seq)], [])
    assert SECRET not in everything(place)
    after = oracle.restore(place.path)
    assert after[other] == before[other]
    lines, redacted = before[name].splitlines(), after[name].splitlines()
    assert [i for i, (one, two) in enumerate(zip(lines, redacted, strict=True)) if one != two] == [seq]
    data = b',"data":{"note":"hunter2"}'
    assert redacted[seq] == lines[seq].replace(data, b"")
    assert [problem for problem in oracle.state(place.path)["problems"] if name in str(problem)] == []
    records = place.commit_names()
    assert compact(place, grace_s=0, merge_records=100).commits <= 1  # the segment of whoever redacted
    assert set(records) <= set(place.commit_names())


def test_a_redacted_point_is_gone_and_the_others_keep_their_columns(place):
    """It goes to the events table without data; the values of its neighbours stay numbers."""
    name = training(place, "r1")
    compact(place, grace_s=0)
    before = oracle.restore(place.path)[name].splitlines()
    assert redact(place, {(name, 5), (name, 6)}).done == [(name, 5), (name, 6)]
    after = oracle.restore(place.path)[name].splitlines()
    assert [i for i, (one, two) in enumerate(zip(before, after, strict=True)) if one != two] == [5, 6]
    (commit,) = commits.load(place)[0].values()
    assert commit.table("points").rows == 68
    compact(place, grace_s=0)
    assert redact(place, {(name, 7)}).records == 1
    again = oracle.restore(place.path)[name].splitlines()
    assert [i for i, (one, two) in enumerate(zip(before, again, strict=True)) if one != two] == [5, 6, 7]


def test_a_snapshot_that_has_the_data_goes_too(place):
    """It was computed from the tables as they were; whoever reads next computes another."""
    name, seq = secret(place)
    compaction.compact(place, grace_s=0)
    assert SECRET in b"".join(path.read_bytes() for path in Path(place.cache).iterdir())
    redact(place, {(name, seq)})
    assert os.listdir(place.cache) == ["compaction.json"]
    say(place, (events.EventRedacted(segment=name, seq=seq), None))
    compaction.compact(place, grace_s=0)
    assert SECRET not in everything(place)


def test_a_redaction_that_stopped_half_way_is_finished(place, monkeypatch):
    """The new record is there and the old one too: the next compaction removes it, and writes no third."""
    name, seq = secret(place)
    compact(place, grace_s=0)
    say(place, (events.EventRedacted(segment=name, seq=seq), None))
    with monkeypatch.context() as patch:
        patch.setattr(compaction, "remove_records", lambda *_args, **_kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            redact(place, {(name, seq)})
    assert SECRET in everything(place)
    levels = [commit.level for commit in commits.load(place)[0].values()]
    assert sorted(levels) == [0, 1]
    compact(place)
    assert SECRET not in everything(place)
    assert sorted(commit.level for commit in commits.load(place)[0].values()) == [0, 1]  # a level 0 of who redacted
    assert oracle.restore(place.path)[name].count(b"\n") == 75


def test_a_live_segment_is_named_and_done_later(place):
    """What is still being written is told, and loses its data when it is compacted, because the event says so."""
    writer = journal.Writer(place, run="r1")
    writer.append(events.RunStarted(name="x"))
    writer.append(events.NoteChanged(note=SECRET.decode()))
    say(place, (events.EventRedacted(segment=writer.name, seq=2), None))
    done = redact(place, {(writer.name, 2), ("nowhere", 1)})
    assert done == Redaction(left=[Left(writer.name, "its writer is alive"), Left("nowhere", "it is not there")])
    writer.seal()
    compact(place)
    assert SECRET not in everything(place)
    assert oracle.restore(place.path)[writer.name].count(b"\n") == 4


def test_a_copy_that_still_has_the_data_loses_them(place, tmp_path):
    """Joined with a store that knows of the redaction, tables and segments are cleaned by the next compaction."""
    name, seq = secret(place)
    for kind in ("tables", "segments"):
        other = store.Store(str(tmp_path / kind))
        shutil.copytree(place.path, other.path)
        if kind == "tables":
            compact(other, grace_s=0)
    say(place, (events.EventRedacted(segment=name, seq=seq), None))
    redact(place, {(name, seq)})
    for kind in ("tables", "segments"):
        shutil.copytree(tmp_path / kind, place.path, dirs_exist_ok=True)
        assert SECRET in everything(place)
        compact(place)
        assert SECRET not in everything(place)
        assert oracle.restore(place.path)[name].count(b"\n") == 75


def test_a_purged_run_is_gone(place):
    """Data of all its events, in its own segments and in those of others; other runs keep theirs."""
    name, _ = secret(place)
    writer = journal.Writer(place, via="cli")
    writer.append(events.NoteChanged(note=SECRET.decode()), run="r1")
    writer.append(events.NoteChanged(note="kept"), run="r2")
    writer.seal()
    compact(place)
    say(place, (events.RunPurged(reason="asked for"), "r1"))
    compact(place)
    assert SECRET not in everything(place)
    assert b"kept" in oracle.restore(place.path)[writer.name]
    assert b"asked for" in b"".join(oracle.restore(place.path).values())
    assert b"data" not in oracle.restore(place.path)[name]
    assert place.segment_names() != []
    assert compact(place).commits == 0


def test_redaction_waits_for_no_compaction(place):
    """While one is at work it says so; nothing is half done."""
    name, seq = secret(place)
    with claims.take(place, compaction.CLAIM):
        with pytest.raises(RefusedError, match="a compaction is at work"):
            redact(place, {(name, seq)})
        assert compact(place).busy == f"process {os.getpid()} on {os.uname().nodename}"
    assert redact(place, {(name, seq)}).done == [(name, seq)]
