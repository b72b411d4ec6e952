"""How events lie on disk: every line proves itself, every damage is found and named, and a neighbour is never lost with it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import zlib
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailab import events, journal, segments, store
from ailab.errors import DamageError, StoreError


@pytest.fixture
def place(tmp_path):
    return store.open_store(str(tmp_path / "store"), create=True)


@pytest.fixture
def quick_place(tmp_path):
    """A store in memory where there is such a place: rewriting a file thousands of times waits for the disk otherwise."""
    folder = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else tmp_path)
    yield store.open_store(os.path.join(folder, "store"), create=True)
    shutil.rmtree(folder)


def points_of(writer, count, start=0):
    """Log `count` points through the fast path."""
    log = writer.metrics_logger(writer.run, lambda values, step, _: writer.append(events.MetricsLogged(values, step)))
    for i in range(start, start + count):
        log({"loss": 1 / (i + 1), "n": i}, i)


def sealed(place, count=5):
    """Path of a small sealed segment with events of several kinds."""
    writer = journal.Writer(place, run="r1")
    writer.append(events.RunStarted(name="x", params={"lr": 0.1}))
    points_of(writer, count)
    writer.append(events.NoteChanged(note="a note"))
    writer.append(events.RunFinished(status="completed"))
    writer.seal()
    return place.segment_path(writer.name)


def by_hand(path):
    """The lines of a whole segment, checked by code that shares nothing with the reader."""
    found, before = [], 0
    raw = Path(path).read_bytes()
    assert raw.endswith(b"\n")
    for number, line in enumerate(raw.split(b"\n")[:-1]):
        crc = int(re.search(rb'"crc":(\d+)\}$', line).group(1))
        assert zlib.crc32(re.sub(rb'"crc":\d+\}$', b'"crc":0}', line)) == crc
        event = json.loads(line)
        assert (event["seq"], event["prev"], event["crc"]) == (number, before, crc)
        before = crc
        found.append(event)
    return found


def everything(place):
    """(events by (segment, seq), problems) as the tail reader sees a store."""
    tail = journal.Tail(place)
    seen = {}
    for segment, lines in tail.poll():
        for line in lines:
            assert (segment.name, line.seq) not in seen
            seen[segment.name, line.seq] = (line.kind, bytes(line.data))
    return seen, tail.problems


# -- the format --------------------------------------------------------------------------------------------------------


def test_a_segment_reads_without_ailab(place):
    """Header first, gap-free seq, chained checksums, a footer with count, bytes and SHA-256: by json, re and zlib alone."""
    path = sealed(place)
    lines = by_hand(path)
    assert [line["kind"] for line in lines] == [
        "segment.opened", "run.started", *["metrics.logged"] * 5, "note.changed", "run.finished", "segment.sealed",
    ]  # fmt: skip
    header, footer = lines[0], lines[-1]
    assert (header["data"]["format"], header["data"]["pid"], header["data"]["host"]) == (1, os.getpid(), os.uname().nodename)
    assert header["data"]["segment"] + ".jsonl" == os.path.basename(path)
    raw = Path(path).read_bytes()
    body = raw[: raw[:-1].rfind(b"\n") + 1]
    assert footer["data"] == {"lines": 9, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert [line["clock"] for line in lines] == list(range(10))
    assert lines[3]["data"] == {"values": {"loss": 0.5, "n": 1}, "step": 1}
    for line in lines:
        assert datetime.fromisoformat(line["at"]).utcoffset().total_seconds() == 0
        assert list(line)[-2:] == ["prev", "crc"]
        assert line["run"] == "r1"


def test_append_gives_the_events_id(place):
    writer = journal.Writer(place)
    assert writer.append(events.HeartbeatSent()) == f"{writer.name}:1"
    assert writer.append(events.HeartbeatSent(), run="x", by="me", via="http") == f"{writer.name}:2"
    written = by_hand(place.segment_path(writer.name))[2]
    known = {"seq": 2, "clock": 2, "kind": "heartbeat.sent", "run": "x", "by": "me", "via": "http", "data": {}}
    assert {name: written[name] for name in known} == known


def test_nothing_is_touched_before_the_first_event(place):
    writer = journal.Writer(place, run="r")
    writer.seal()
    assert place.segment_names() == []


def test_a_writer_rotates_by_size_and_clocks_go_on(place, monkeypatch):
    """Each segment names the next and the one before, none passes the size by much, and the order of events holds over all."""
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 20_000)
    writer = journal.Writer(place, run="r")
    points_of(writer, 1000)
    writer.append(events.NoteChanged(note="last"))
    writer.seal()
    names = place.segment_names()
    assert len(names) > 5
    clocks, steps, before = [], [], None
    for name, following in zip(names, [*names[1:], None], strict=True):
        assert os.path.getsize(place.segment_path(name)) < 25_000
        lines = by_hand(place.segment_path(name))
        assert lines[0]["data"].get("previous") == before
        assert lines[-1]["data"].get("next") == following
        clocks += [line["clock"] for line in lines]
        steps += [line["data"]["step"] for line in lines if line["kind"] == "metrics.logged"]
        before = name
    assert steps == list(range(1000))
    assert clocks == sorted(set(clocks))


def test_a_writer_rotates_by_age(place, monkeypatch):
    writer = journal.Writer(place, run="r")
    points_of(writer, 3)
    monkeypatch.setattr(journal, "SEGMENT_SECONDS", 0.0)
    writer.look()
    points_of(writer, 1, start=3)
    monkeypatch.undo()
    points_of(writer, 1, start=4)
    assert [len(by_hand(place.segment_path(name))) for name in place.segment_names()] == [5, 3]


def test_observe_puts_the_next_event_behind(place):
    writer = journal.Writer(place)
    writer.append(events.HeartbeatSent())
    writer.observe(100)
    writer.append(events.HeartbeatSent())
    writer.observe(50)
    writer.append(events.HeartbeatSent())
    assert [line["clock"] for line in by_hand(place.segment_path(writer.name))] == [0, 1, 101, 102]


def test_a_sealed_writer_takes_nothing_more(place):
    said = []
    writer = journal.Writer(place, warn=said.append)
    writer.append(events.HeartbeatSent())
    writer.seal()
    writer.seal()
    assert writer.append(events.HeartbeatSent()) is None
    assert len(by_hand(place.segment_path(writer.name))) == 3
    assert "sealed" in said[0]


def test_lone_surrogates_in_any_event_are_escaped(place):
    """What the file system hands out as a name can be written, and read by every JSON library."""
    writer = journal.Writer(place, run="r")
    writer.append(events.RunStarted(name="caf\udce9", params={"\ud800": ["\udfff", {"a": "\udce9"}]}, tags={"t\udce9": "\udce9"}))
    data = by_hand(place.segment_path(writer.name))[1]["data"]
    assert data == {"name": "caf\\udce9", "params": {"\\ud800": ["\\udfff", {"a": "\\udce9"}]}, "tags": {"t\\udce9": "\\udce9"}}


def test_a_writer_that_was_interrupted_reads_the_truth_from_its_file(place):
    """Whatever the state says, the last whole line on disk decides what comes next; also behind one of many megabytes."""
    writer = journal.Writer(place, run="r")
    points_of(writer, 3)
    writer.append(events.NoteChanged(note="x" * 5_000_000))
    fd, seq, _, _, _ = writer._get()
    for wrong in (0, seq - 1, seq + 7):
        writer._put(fd, wrong, 12345, 0, True)
        start = time.monotonic()
        points_of(writer, 1)
        assert time.monotonic() - start < 1
    assert len(by_hand(place.segment_path(writer.name))) == 8


def test_an_interrupt_between_two_segments_loses_none(place, monkeypatch):
    """Ctrl-C after the footer and before the next segment: the next event opens that segment, and nothing follows a footer."""
    writer = journal.Writer(place, run="r")
    points_of(writer, 3)
    real = journal._flush

    def interrupted(_):
        monkeypatch.setattr(journal, "_flush", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(journal, "_flush", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer._rotate()
    points_of(writer, 2, start=3)
    writer.seal()
    first, second = (by_hand(place.segment_path(name)) for name in place.segment_names())
    assert [line["kind"] for line in first][-2:] == ["metrics.logged", "segment.sealed"]
    assert second[0]["data"]["previous"] == first[0]["data"]["segment"]
    assert first[-1]["data"]["next"] == second[0]["data"]["segment"]
    assert [line["data"]["step"] for line in second if line["kind"] == "metrics.logged"] == [3, 4]


# -- reading: modes ----------------------------------------------------------------------------------------------------


def read(path, mode):
    """How many events a mode gives, or the kind of damage that it raises."""
    try:
        return len(list(journal.scan(path, mode=mode)))
    except DamageError as problem:
        return problem.kind


def test_the_three_modes(place):
    """Strict stops at a torn tail, tail-tolerant only at damage, salvage never."""
    path = sealed(place)
    raw = Path(path).read_bytes()
    cases = {
        "whole": (raw, (10, 10, 10)),
        "torn tail": (raw[:-30], ("torn-tail", 9, 9)),
        "no footer": (raw[: raw[:-1].rfind(b"\n") + 1], (9, 9, 9)),
        "damaged": (raw.replace(b"a note", b"a nose"), ("bad-checksum", "bad-checksum", 9)),
        "empty": (b"", (0, 0, 0)),
        "rubbish": (b"\0\xff\n\n{}\n[1]\nnull\n", ("bad-checksum", "bad-checksum", 0)),
    }
    for name, (content, wanted) in cases.items():
        Path(path).write_bytes(content)
        found = tuple(read(path, mode) for mode in ("strict", "tail-tolerant", "salvage"))
        assert (name, found) == (name, wanted)


def test_a_live_segment_cut_at_every_byte_gives_every_complete_line(quick_place):
    """G6: all complete lines come, the cut one is reported once at most, and nothing else is wrong."""
    writer = journal.Writer(quick_place, run="r1")
    points_of(writer, 12)
    writer.append(events.NoteChanged(note="✓ two\nlines"))
    path = quick_place.segment_path(writer.name)
    raw = Path(path).read_bytes()
    whole = [bytes(line.data) for line in journal.scan(path, mode="strict")]
    for cut in range(len(raw) + 1):
        Path(path).write_bytes(raw[:cut])
        complete = raw[:cut].count(b"\n")
        assert [bytes(line.data) for line in journal.scan(path)] == whole[:complete]
        seen, problems = everything(quick_place)
        assert ([data for _, data in seen.values()], problems) == (whole[:complete], [])
        torn = not raw[:cut].endswith(b"\n") and cut > 0
        if torn:
            with pytest.raises(DamageError) as raised:
                list(journal.scan(path, mode="strict"))
            told = (raised.value.kind, raised.value.line, raised.value.offset)
            assert told == ("torn-tail", complete + 1, raw[:cut].rfind(b"\n") + 1)
        else:
            assert len(list(journal.scan(path, mode="strict"))) == complete


def test_a_writer_goes_on_behind_a_line_torn_at_any_byte(place):
    """The next event is never glued to the torn one: only the torn line is lost, and it is named."""
    writer = journal.Writer(place, run="r1")
    points_of(writer, 2)
    path = place.segment_path(writer.name)
    raw = Path(path).read_bytes()
    last = raw[:-1].rfind(b"\n") + 1
    for cut in [*range(last, len(raw), 7), len(raw) - 2, len(raw) - 1]:  # the last lacks nothing but its newline
        Path(path).write_bytes(raw[:cut])  # the same file, which the writer has open
        writer._soil()
        points_of(writer, 1, start=50)
        lines = list(journal.scan(path))
        assert [msgspec.json.decode(line.data).get("step") for line in lines] == [None, 0, 50]
        _, problems = everything(place)
        assert [(p.kind, p.line, p.offset) for p in problems] == ([("torn-write", 3, last)] if cut > last else [])


# -- reading: damage ---------------------------------------------------------------------------------------------------


def mutations(raw, position):
    """Five damages of one byte."""
    yield "^01", raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
    yield "^80", raw[:position] + bytes([raw[position] ^ 0x80]) + raw[position + 1 :]
    yield "delete", raw[:position] + raw[position + 1 :]
    yield "insert", raw[:position] + b"7" + raw[position:]
    yield "newline", raw[:position] + b"\n" + raw[position:]


def test_every_byte_of_a_sealed_segment_damaged_in_five_ways_is_found(quick_place):
    """G3, short: 100 % detected and named with file, line and offset; all other events served, never a wrong value.

    The one damage that the tail reader cannot tell from a writer still at work is the footer's own newline gone: then the
    segment is an unsealed one, and only strict reading says so.
    """
    path = sealed(quick_place, count=1)
    raw = Path(path).read_bytes()
    whole = {line.seq: (line.kind, bytes(line.data)) for line in journal.scan(path, mode="strict")}
    starts = [0, *(m.end() for m in re.finditer(b"\n", raw))]
    tried = missed = 0
    name = os.path.basename(path).removesuffix(".jsonl")
    for position in range(len(raw)):
        damaged_line = raw.count(b"\n", 0, position) + 1
        for how, content in mutations(raw, position):
            tried += 1
            with pytest.raises(DamageError) as raised:
                list(scan_bytes(path, content))
            assert raised.value.path == path
            segment = journal.Segment(name, path)
            served = {line.seq: (line.kind, bytes(line.data)) for line in segment.feed(content)}
            assert all(whole.get(seq) == event for seq, event in served.items()), (position, how)
            assert len(whole) - len(served) <= 2, (position, how)
            if not segment.problems:
                missed += 1
                assert (position, how) in {(len(raw) - 1, h) for h in ("^01", "^80", "delete", "insert")}, (position, how)
                continue
            first = segment.problems[0]
            assert first.line in {damaged_line, damaged_line + 1}, (position, how, first)
            assert first.offset in {starts[damaged_line - 1], *starts[damaged_line : damaged_line + 1], position + 1}, (
                position,
                how,
            )
            assert str(first).startswith(f"{first.kind} in {path}, line {first.line}, byte {first.offset}")
    print(f"{tried} damages, {tried - missed} found by the tail reader, {tried} by strict reading")


def scan_bytes(path, content):
    """Strict reading of `content` as if it stood at `path`."""
    Path(path).write_bytes(content)
    return journal.scan(path, mode="strict")


@pytest.mark.parametrize("what", ["delete", "duplicate", "swap"])
def test_whole_lines_deleted_doubled_or_swapped_are_found(place, what):
    """G4: the chain tells, whichever line it is; what is left is served once and right."""
    path = sealed(place)
    raw = Path(path).read_bytes()
    lines = raw.splitlines(keepends=True)
    whole = {line.seq: bytes(line.data) for line in journal.scan(path, mode="strict")}
    for i in range(len(lines) - 1):
        changed = list(lines)
        if what == "delete":
            del changed[i]
        elif what == "duplicate":
            changed.insert(i, lines[i])
        else:
            changed[i], changed[i + 1] = changed[i + 1], changed[i]
        with pytest.raises(DamageError):
            list(scan_bytes(path, b"".join(changed)))
        seen, problems = everything(place)
        assert problems, (what, i)
        assert all(whole[seq] == data for (_, seq), (_, data) in seen.items())
        assert len(seen) == len(lines) - (what == "delete"), (what, i)


def test_a_line_of_another_segment_in_a_lines_place_is_found(place):
    """Its checksum is right and so is its seq; only the chain tells that it does not belong here."""
    paths = []
    for loss in (0.25, 0.75):
        writer = journal.Writer(place, run="r1")
        for i in range(4):
            writer.append(events.MetricsLogged({"loss": loss}, i))
        writer.seal()
        paths.append(place.segment_path(writer.name))
    ours, theirs = (Path(path).read_bytes().splitlines(keepends=True) for path in paths)
    for i in range(1, len(ours) - 1):
        Path(paths[0]).write_bytes(b"".join([*ours[:i], theirs[i], *ours[i + 1 :]]))
        with pytest.raises(DamageError) as raised:
            list(journal.scan(paths[0], mode="strict"))
        assert (raised.value.kind, raised.value.line) == ("gap", i + 1)
        assert [(p.kind, p.line) for p in everything(place)[1]][:2] == [("gap", i + 1), ("gap", i + 2)]


def test_one_bad_thing_never_hides_the_rest(place, tmp_path):
    """G20: a damaged line, an empty file, a folder named like a segment, a copy, rubbish, a file that is gone: others come."""
    good = sealed(place)
    copy = place.segment_path("copy")
    shutil.copy(good, copy)
    damaged = sealed(place)
    Path(damaged).write_bytes(b"X" + Path(damaged).read_bytes()[1:])
    Path(place.segment_path("empty")).touch()
    Path(place.segment_path("rubbish")).write_bytes(os.urandom(5000) + b"\n")
    os.mkdir(place.segment_path("folder"))
    os.symlink(tmp_path / "nowhere", place.segment_path("dangling"))
    seen, problems = everything(place)
    names = [os.path.basename(p).removesuffix(".jsonl") for p in (good, damaged)]
    assert sorted(seen) == sorted([(names[0], i) for i in range(10)] + [(names[1], i) for i in range(1, 10)])
    kinds = {(os.path.basename(p.path).removesuffix(".jsonl"), p.kind) for p in problems}
    assert {("copy", "duplicate"), ("folder", "unreadable"), ("dangling", "unreadable")} < kinds
    assert {name for name, _ in kinds} == {"copy", "folder", "dangling", "rubbish", names[1]}


def test_a_copied_segment_never_counts_twice(place):
    """A copy under any name counts only where the original is not; and then once, whoever comes first."""
    path = sealed(place)
    for name in ("aaa", "zzz"):
        shutil.copy(path, place.segment_path(name))
    assert len(everything(place)[0]) == 10
    os.unlink(path)
    seen, problems = everything(place)
    assert len(seen) == 10
    assert [p.kind for p in problems] == ["duplicate"]
    tail = journal.Tail(place)
    assert sum(len(lines) for _, lines in tail.poll()) == 10
    shutil.copy(place.segment_path("zzz"), path)
    assert sum(len(lines) for _, lines in tail.poll()) == 0


def test_a_newer_format_is_refused_by_name_and_touches_nothing_else(place):
    """A header from the future, even one that this version cannot decode, is named; other segments are read."""
    good = sealed(place)
    name = os.path.basename(good)

    def forged(path, data):
        envelope = {
            "seq": 0,
            "at": "2030-01-01T00:00:00Z",
            "clock": 0,
            "kind": "segment.opened",
            "data": data,
            "prev": 0,
            "crc": 0,
        }
        line = json.dumps(envelope, separators=(",", ":")).encode()
        Path(path).write_bytes(line[:-2] + b"%d}\n" % zlib.crc32(line))

    forged(place.segment_path("future"), {"format": 2, "segment": "future", "ailab": "9", "host": "h", "pid": 1})
    forged(place.segment_path("stranger"), {"format": "two", "segment": 5})
    forged(place.segment_path("list"), [1, 2])
    before = {p: Path(place.segment_path(p)).read_bytes() for p in ("future", "stranger", "list")}
    seen, problems = everything(place)
    assert {key[0] for key in seen} == {name.removesuffix(".jsonl")}
    assert {os.path.basename(p.path) for p in problems} == {"future.jsonl", "stranger.jsonl", "list.jsonl"}
    assert {p.kind for p in problems} == {"unknown-version"}
    assert before == {p: Path(place.segment_path(p)).read_bytes() for p in before}


def test_an_unknown_kind_and_unknown_fields_are_handed_on(place):
    """What a newer version writes comes through with its own bytes."""
    writer = journal.Writer(place, run="r")

    class Something(events.Event, frozen=True, kw_only=True):
        kind = "thing.happened"
        x: int

    writer.append(Something(x=5))
    assert [(line.kind, bytes(line.data)) for line in journal.scan(place.segment_path(writer.name))][-1] == (
        "thing.happened",
        b'{"x":5}',
    )


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_rubbish_in_any_pieces_never_raises(content, cuts):
    """Any bytes, however they arrive, give events or problems, never an exception."""
    segment = journal.Segment("x", "x.jsonl")
    rest, last = b"", 0
    for cut in [*sorted(cuts), len(content)]:
        data = rest + content[last : max(last, cut)]
        last = max(last, cut)
        end = data.rfind(b"\n") + 1
        segment.feed(data[:end])
        rest = data[end:]
    assert segment.offset == content.rfind(b"\n") + 1


@given(st.data())
def test_a_segment_read_in_any_pieces_is_the_same(data):
    """However a growing file is met, each event comes once and in order."""
    lines, crc = [], 0
    for seq in range(6):
        line = events.Line(seq, datetime.fromisoformat("2026-01-01T00:00:00Z"), seq, "metrics.logged", "r", None, None,
                           events.MetricsLogged({"a": seq}, seq), crc, 0)  # fmt: skip
        raw, crc = journal.encode_line(line)
        lines.append(raw)
    content = b"".join(lines)
    segment, rest, found, last = journal.Segment("x", "x"), b"", [], 0
    for cut in [*sorted(data.draw(st.lists(st.integers(0, len(content))))), len(content)]:
        piece = rest + content[last:cut]
        last = cut
        end = piece.rfind(b"\n") + 1
        found += segment.feed(piece[:end])
        rest = piece[end:]
    assert [line.seq for line in found] == list(range(6))
    assert segment.problems == []


def test_the_tail_reads_only_what_is_new(place):
    """Each poll gives the events since the last, from every segment, also those that came meanwhile."""
    tail = journal.Tail(place)
    one, two = journal.Writer(place, run="a"), journal.Writer(place, run="b")
    given_so_far = []
    for i in range(5):
        points_of(one, 2, start=2 * i)
        points_of(two, 1, start=i)
        given_so_far.append([(s.run, line.kind) for s, lines in tail.poll() for line in lines if line.kind == "metrics.logged"])
    assert [sorted(batch) for batch in given_so_far] == [[("a", "metrics.logged")] * 2 + [("b", "metrics.logged")]] * 5
    assert list(tail.poll()) == []


# -- who lives ---------------------------------------------------------------------------------------------------------


def the_segment(place):
    tail = journal.Tail(place)
    list(tail.poll())
    (segment,) = tail.segments.values()
    return segment


def test_a_writer_is_alive_while_its_process_is(place, scripts):
    """Alive while it holds its file, dead at once when it was killed, and never alive behind a footer."""
    process = scripts.start(
        """
        import sys
        from ailab import events, journal, store
        writer = journal.Writer(store.open_store(sys.argv[1], create=True), run="r")
        writer.append(events.HeartbeatSent())
        print("ready", flush=True)
        sys.stdin.read()
        """,
        place.path,
    )
    assert process.stdout.readline() == "ready\n"
    segment = the_segment(place)
    assert journal.writer_alive(segment)
    assert journal.writer_alive(segment, now=time.time() + 10 * journal.SILENCE_SECONDS)  # silent, but there
    process.kill()
    process.wait()
    assert not journal.writer_alive(segment)


def test_a_writer_on_another_host_is_judged_by_its_last_sign(place):
    sealed(place)
    segment = the_segment(place)
    assert not journal.writer_alive(segment)
    segment.footer = None
    segment.header = msgspec.structs.replace(segment.header, host="elsewhere", boot="other")
    now = os.stat(segment.path).st_mtime
    assert journal.writer_alive(segment, now=now + journal.SILENCE_SECONDS - 1)
    assert not journal.writer_alive(segment, now=now + journal.SILENCE_SECONDS + 1)
    os.unlink(segment.path)
    assert not journal.writer_alive(segment)


def test_a_process_of_the_same_number_is_not_the_writer(place):
    """A pid that was given again does not keep a dead run alive."""
    writer = journal.Writer(place, run="r")
    writer.append(events.HeartbeatSent())
    writer.abandon()
    segment = the_segment(place)
    assert segment.header.pid == os.getpid()
    segment.header = msgspec.structs.replace(segment.header, started=1.0)
    assert not journal.writer_alive(segment)


# -- what cannot be written --------------------------------------------------------------------------------------------


def test_strict_raises_and_does_not_write_behind_the_callers_back(place):
    """An action that was told to have failed is not there when the next one succeeds."""
    writer = journal.Writer(place, run="r", strict=True)
    os.rename(place.segments, place.segments + "-away")
    Path(place.segments).touch()
    with pytest.raises(StoreError, match=r"ENOTDIR|EEXIST"):
        writer.append(events.NoteChanged(note="failed"))
    os.unlink(place.segments)
    os.rename(place.segments + "-away", place.segments)
    time.sleep(journal.RETRY_SECONDS)
    writer.append(events.NoteChanged(note="worked"))
    assert [line["data"]["note"] for line in by_hand(place.segment_path(writer.name)) if line["kind"] == "note.changed"] == [
        "worked"
    ]


def test_what_waits_is_written_first_and_points_are_counted(place):
    """While nothing can be written, events wait and points are counted; afterwards both are there, in order."""
    said = []
    writer = journal.Writer(place, run="r", warn=said.append)
    os.rename(place.segments, place.segments + "-away")
    Path(place.segments).touch()
    writer.append(events.RunStarted(name="x"))
    points_of(writer, 5)
    writer.append(events.NoteChanged(note="n"))
    os.unlink(place.segments)
    os.rename(place.segments + "-away", place.segments)
    time.sleep(journal.RETRY_SECONDS)
    points_of(writer, 1, start=9)
    lines = by_hand(place.segment_path(writer.name))
    assert [line["kind"] for line in lines] == [
        "segment.opened",
        "run.started",
        "note.changed",
        "writes.dropped",
        "metrics.logged",
    ]
    dropped = lines[3]["data"]
    assert dropped["count"] == writer.dropped == 5
    assert re.search("Not a directory|File exists", dropped["error"])
    assert dropped["first"] <= dropped["last"]
    assert len(said) == 1
    assert re.search("ENOTDIR|EEXIST", said[0])


def test_a_text_is_read_back_as_it_was_written(place):
    """Every character that JSON can hold, and line separators that are none of ours."""
    text = "".join(map(chr, [*range(0x250), 0x2028, 0x2029, 0xFEFF, 0xFFFF, 0x10FFFF]))
    writer = journal.Writer(place, run="r")
    writer.append(events.NoteChanged(note=text))
    assert msgspec.json.decode(list(journal.scan(place.segment_path(writer.name), mode="strict"))[1].data) == {"note": text}


def test_a_line_without_an_end_is_read_in_linear_time(tmp_path):
    """32 MiB without a newline in 8,192 pieces: seconds if each were joined to what is there, a moment as it is."""
    (tmp_path / "long").write_bytes(b"one\ntwo\n" + b"x" * (32 << 20))
    start = time.perf_counter()
    with open(tmp_path / "long", "rb") as file:
        blocks = segments.Blocks(file, 4096)
        assert (list(blocks), blocks.rest, blocks.read) == ([b"one\ntwo\n"], 32 << 20, (32 << 20) + 8)
        with open(tmp_path / "long", "ab") as more:
            more.write(b"\nthree")
        ((block,), rest) = list(blocks), blocks.rest
    assert (len(block), block[-2:], rest) == ((32 << 20) + 1, b"x\n", 5)
    assert time.perf_counter() - start < 5
