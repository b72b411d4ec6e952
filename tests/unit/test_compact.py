"""Compaction loses no byte of any line, counts none twice, and leaves alone what it must not touch."""

from __future__ import annotations

import math
import os
import random
import re
import struct
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import oracle
import pytest
from handmade import Pen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ailab import claims, cli, commits, events, journal, store
from ailab.views import compact as compaction
from ailab.views import restore
from ailab.views.compact import Left

NAMES = ["loss", "acc", "val_loss", "lr", "grad_norm", "f1", "mae", "rmse", "r2", "auc"]


@pytest.fixture
def place(tmp_path):
    return store.open_store(str(tmp_path / "store"), create=True)


def compact(place, **how):
    """Compact without the snapshot, which is a reader's matter."""
    return compaction.compact(place, fold=False, **how)


def contents(place):
    """The bytes of every segment's file, by name."""
    return {name: Path(place.segment_path(name)).read_bytes() for name in place.segment_names()}


def restored(place):
    """The bytes of every segment as the package gives them back from tables."""
    found = {}
    records, problems = commits.load(place)
    assert problems == []
    for name, commit in records.items():
        for segment, n, line in restore.lines(place, name, commit):
            assert found.setdefault(segment, {}).setdefault(n, line) is line
    assert all(sorted(lines) == list(range(len(lines))) for lines in found.values())
    return {segment: b"".join(line for _, line in sorted(lines.items())) for segment, lines in found.items()}


def columns_of(place):
    """How many lines of the store lie in points and in events, and how many of them as bytes."""
    import pyarrow.parquet as pq

    found = {"points": 0, "events": 0, "raw": 0}
    for commit in commits.load(place)[0].values():
        for file in commit.files:
            raw = pq.read_table(place.table_path(file.name), columns=["raw"])["raw"]
            found[file.table] += len(raw)
            found["raw"] += len(raw) - raw.null_count
    return found


def compacted_and_gone(place):
    """Compact, see that files, tables and an independent reading say the same, then remove the files and see so again."""
    before, state = contents(place), oracle.canonical(oracle.state(place.path))
    done = compact(place)
    assert restored(place) == before
    assert contents(place) == before
    assert oracle.restore(place.path) == before
    assert compact(place, grace_s=0, orphan_s=0).removed == len(before)
    assert contents(place) == {}
    assert oracle.restore(place.path) == before
    assert oracle.canonical(oracle.state(place.path)) == state
    return done


def training(place, run="r1", lines=200, *, seal=True):
    """A run as the recorder writes it."""
    writer = journal.Writer(place, run=run)
    writer.append(events.RunStarted(name="x", params={"lr": 0.1}))
    log = writer.metrics_logger(run, lambda values, step, time: writer.append(events.MetricsLogged(values, step, time)))
    for i in range(lines):
        log({"loss": 1 / (i + 1), "n": i}, i)
    writer.append(events.RunFinished(status="completed"))
    if seal:
        writer.seal()
    else:
        writer.abandon()
    return writer.name


# -- lines -------------------------------------------------------------------------------------------------------------


def test_what_the_recorder_writes_comes_back(place):
    """Points, notes and ends of two runs and of a writer without a run: every byte, and not one kept as bytes."""
    training(place, "r1")
    training(place, "r2", 70)
    writer = journal.Writer(place, via="cli", by="ada")
    writer.append(events.NoteChanged(note="größer 😀 \x00"), run="r1")
    writer.append(events.NoteChanged(note="b"), run="r2", by="bob", via="http")
    writer.seal()
    done = compacted_and_gone(place)
    assert (done.segments, done.points, done.commits, done.left) == (3, 540, 1, [])
    assert columns_of(place) == {"points": 270, "events": 12, "raw": 0}


POINTS = [
    '{"loss":0.5}', '{"loss":"NaN"}', '{"loss":"Infinity"}', '{"loss":"-Infinity"}', '{"loss":-0.0}', '{"loss":5e-324}',
    '{"loss":1.7976931348623157e308}', '{"loss":0.00001}', '{"loss":1.5e-7}', '{"loss":1e16}', '{"loss":9007199254740992.0}',
    '{"loss":1}', '{"loss":0}', '{"loss":-9223372036854775807}', '{"loss":9223372036854775807}', '{"loss":9223372036854775808}',
    '{"loss":1000000000000000000000000000000}', '{"loss":"0.10000000000000000001"}', '{"loss":"1E+3"}', '{"loss":true}',
    '{"loss":null}', '{"loss":[1,{"a":2.0}]}', '{"loss":"text"}', '{"größe/😀":1.5}', '{"a\\"b\\\\c\\u0000":1.5}', "{}",
    '{"loss":0.5,"acc":1}', '{"acc":1,"loss":0.5}', '{"acc":1.0,"loss":"NaN"}',
]  # fmt: skip
ODD_POINTS = [
    '{"loss":1.50}', '{"loss":1E5}', '{"loss":-0}', '{"loss":0.10000000000000000001}', '{"loss":1.0,"loss":2.0}',
    '{ "loss" : 1.5 }', '{"l\\u006fss":1.5}', '{"loss":100000000000000000.0}', '{"loss":9007199254740993.0}',
]  # fmt: skip


@pytest.mark.parametrize("often", [1, 64])
@pytest.mark.parametrize("values", POINTS + ODD_POINTS)
def test_points_of_every_sort_come_back(place, values, often):
    """Once, and often enough to get columns; with a step, without, with a time. What we would write ourselves is in columns."""
    pen = Pen(place.path, "r1")
    for i in range(often):
        pen.point(values).point(values, i - 3)
        pen.line(f'"kind":"metrics.logged","run":"r1","data":{{"values":{values},"time":{i}.25}}')
        pen.line(f'"kind":"metrics.logged","run":"r1","data":{{"values":{values},"step":{i},"time":{i}.25}}')
    pen.seal()
    compacted_and_gone(place)
    in_points = 4 * often if often >= 64 and values in POINTS else 0
    assert columns_of(place) == {"points": in_points, "events": 4 * often + 2 - in_points, "raw": 0}


LINES = {
    "a kind from the future": ['"kind":"moon.landed","run":"r1","data":{"x":[1.50, 2],"y":{"z":null}}', 0],
    "a payload from the future": ['"kind":"note.changed","run":"r1","data":{"colour":"red","note":"x"}', 0],
    "a payload that does not fit its kind": ['"kind":"metrics.logged","run":"r1","data":{"values":5}', 0],
    "a step that is no integer": ['"kind":"metrics.logged","run":"r1","data":{"values":{"a":1.0},"step":"1"}', 0],
    "a step of more than 64 bits": [
        '"kind":"metrics.logged","run":"r1","data":{"values":{"a":1.0},"step":99999999999999999999}',
        0,
    ],
    "no data": ['"kind":"heartbeat.sent","run":"r1"', 0],
    "empty data": ['"kind":"heartbeat.sent","run":"r1","data":{}', 0],
    "by and via": ['"kind":"metrics.logged","run":"r1","by":"ada","via":"http","data":{"values":{"a":1.0}}', 0],
    "no run": ['"kind":"project.created","data":{"project":"p","name":"P"}', 0],
    "an empty run": ['"kind":"note.changed","run":"","data":{"note":"x"}', 0],
    "a run with a blank and quotes": ['"kind":"metrics.logged","run":"r \\"1\\"","data":{"values":{"a":1.0}}', 0],
    "members in another order": ['"run":"r1","kind":"metrics.logged","data":{"values":{"a":1.0}}', 1],
    "a member from the future": ['"kind":"metrics.logged","run":"r1","place":"here","data":{"values":{"a":1.0}}', 1],
    "blanks": ['"kind":"metrics.logged", "run":"r1","data":{"values":{"a":1.0}}', 1],
    "an escape that is not needed": ['"kind":"metrics.logged","run":"\\u0072","data":{"values":{"a":1.0}}', 1],
    "data that are no object": ['"kind":"moon.landed","run":"r1","data":[1,2]', 0],
    "a run that is null": ['"kind":"metrics.logged","run":null,"data":{"values":{"a":1.0}}', 1],
}


@pytest.mark.parametrize("often", [1, 64])
@pytest.mark.parametrize("what", LINES)
def test_lines_of_every_sort_come_back(place, what, often):
    """Whatever a line has in it; it is kept as bytes exactly where encoding it again gives others."""
    members, raw = LINES[what]
    pen = Pen(place.path, "r1")
    for _ in range(often):
        pen.line(members)
    pen.seal()
    compacted_and_gone(place)
    assert columns_of(place)["raw"] == raw * often


@pytest.mark.parametrize("at", ["2026-11-24T09:00:00Z", "2026-11-24T09:00:00.250000Z", "1969-12-31T23:59:59.000001Z"])
def test_times_come_back(place, at):
    """Whole seconds, fractions, and before 1970."""
    pen = Pen(place.path, "r1")
    for i in range(64):
        pen.point('{"loss":0.5}', i, at=at)
    pen.seal()
    compacted_and_gone(place)
    assert columns_of(place) == {"points": 64, "events": 2, "raw": 0}


@pytest.mark.parametrize("at", ["2026-11-24T09:00:00.25Z", "2026-11-24T10:00:00+01:00", "2026-11-24T09:00:00.1234567Z"])
def test_times_of_other_writers_come_back(place, at):
    """Fewer or more digits, and other zones: as bytes, with the instant in the column."""
    import pyarrow.parquet as pq

    pen = Pen(place.path, "r1")
    for i in range(64):
        pen.point('{"loss":0.5}', i, at=at)
    pen.seal()
    before = contents(place)
    compact(place)
    assert restored(place) == before
    (commit,) = commits.load(place)[0].values()
    found = pq.read_table(place.table_path(commit.table("points").name), columns=["at", "raw"])
    assert found["raw"].null_count == 0
    assert {str(value)[:19] for value in found["at"].to_pylist()} == {"2026-11-24 09:00:00"}


def test_members_from_the_future_of_a_point_cost_no_bytes(place):
    """What stands behind `values`, `step` and `time` goes to a column of its own, and the values stay numbers."""
    pen = Pen(place.path, "r1")
    for i in range(64):
        pen.line(f'"kind":"metrics.logged","run":"r1","data":{{"values":{{"loss":0.5}},"step":{i},"unit":"m","n":[ {i} ]}}')
    pen.seal()
    compacted_and_gone(place)
    assert columns_of(place) == {"points": 64, "events": 2, "raw": 0}


def test_shapes_that_alternate_come_back_in_order(place):
    """Three shapes and notes mixed line by line, one of the shapes rare, in two runs of one segment."""
    pen = Pen(place.path)
    for i in range(130):
        run = f'"run":"r{i % 2}"'
        pen.line(f'"kind":"metrics.logged",{run},"data":{{"values":{{"loss":{i}.5}},"step":{i}}}')
        if i % 2 == 0:
            pen.line(f'"kind":"metrics.logged",{run},"data":{{"values":{{"loss":{i},"acc":0.5}}}}')
        if i % 50 == 0:
            pen.line(f'"kind":"metrics.logged",{run},"data":{{"values":{{"rare":{i}.0}}}}')
            pen.line(f'"kind":"note.changed",{run},"data":{{"note":"{i}"}}')
    pen.seal()
    compacted_and_gone(place)
    assert columns_of(place) == {"points": 130 + 65, "events": 8, "raw": 0}


def test_three_hundred_sparse_keys(place):
    """A line's keys are a random third of three hundred: no columns, every byte back."""
    chance = random.Random(3)
    pen = Pen(place.path, "r1")
    for i in range(100):
        keys = sorted(chance.sample(range(300), 100))
        pen.point("{" + ",".join(f'"k{k}":{chance.random()!r}' for k in keys) + "}", i)
    pen.seal()
    compacted_and_gone(place)
    assert columns_of(place) == {"points": 0, "events": 102, "raw": 0}


def test_more_than_a_thousand_columns(place):
    """A shape that would need the thousand-and-first column stays JSON text; the others keep their columns."""
    pen = Pen(place.path, "r1")
    for i in range(70):
        pen.point("{" + ",".join(f'"a{k}":{i}.5' for k in range(900)) + "}", i)
        pen.point("{" + ",".join(f'"b{k}":{i}.5' for k in range(101)) + "}", i)
        pen.point("{" + ",".join(f'"c{k}":{i}.5' for k in range(100)) + "}", i)
    pen.seal()
    compacted_and_gone(place)
    assert columns_of(place) == {"points": 140, "events": 72, "raw": 0}


def test_torn_writes_inside_come_back(place):
    """Lines that do not count lie in tables as bytes, in their places."""
    pen = Pen(place.path, "r1")
    for i in range(64):
        pen.point('{"loss":0.5}', i)
        if i % 20 == 0:
            pen.torn(b'{"seq":9,"at":"2026-11-24T0')
            pen.torn("{größer 😀".encode()[:-2])
    pen.seal()
    compacted_and_gone(place)
    assert columns_of(place) == {"points": 64, "events": 2 + 8, "raw": 8}


numbers = st.floats() | st.integers() | st.sampled_from(["0.10000000000000000001", "1E+3"])
payloads = st.builds(
    events.MetricsLogged,
    st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), numbers, max_size=4),
    st.none() | st.integers(-(2**70), 2**70),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
)


def plain(event):
    """A payload as the recorder hands it on: no value that JSON does not have."""
    texts = {math.inf: "Infinity", -math.inf: "-Infinity"}
    values = {
        key: "NaN" if isinstance(value, float) and math.isnan(value) else texts.get(value, value)
        for key, value in event.values.items()
    }
    return events.MetricsLogged(values, event.step, event.time)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(payloads, st.sampled_from([1, 1, 2, 70])), max_size=12))
def test_any_points_come_back(tmp_path_factory, logged):
    """Any names, values, steps and times, seldom or often."""
    place = store.open_store(str(tmp_path_factory.mktemp("any")), create=True)
    writer = journal.Writer(place, run="r1")
    for event, often in logged:
        for _ in range(often):
            assert writer.append(plain(event)) is not None
    writer.append(events.HeartbeatSent())
    writer.seal()
    before = contents(place)
    compact(place)
    assert restored(place) == before
    assert oracle.restore(place.path) == before
    assert columns_of(place)["raw"] == 0


# -- segments ----------------------------------------------------------------------------------------------------------


def aged(path, seconds=3600):
    """Make a file look as if nobody had written it for a while."""
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def test_a_dead_writer_is_closed_then_compacted(place):
    """The torn end is no line; it goes with the file, and the closing says how long it was."""
    pen = Pen(place.path, "r1")
    for i in range(64):
        pen.point('{"loss":0.5}', i)
    whole = pen.content
    pen.raw(b'{"seq":65,"at"')
    aged(pen.path)
    done = compact(place)
    assert (done.closed, done.segments, done.live, done.left) == (1, 2, 0, [])
    assert restored(place)[pen.name] == whole
    (said,) = [event for event in oracle.state(place.path)["events"] if event["kind"] == "segment.closed"]
    assert said["data"]["torn_bytes"] == len(b'{"seq":65,"at"')
    assert compact(place).closed == 0
    assert compact(place, grace_s=0).removed == 2
    assert contents(place) == {}


def test_a_segment_that_grows_after_its_closing(place):
    """Each closing adds a span that begins where the last one ended; together they give back every byte."""
    pen = Pen(place.path, "r1")
    for part in range(3):
        if part == 1:
            pen.torn(b'{"seq":9')
        for i in range(64):
            pen.point('{"loss":0.5}', i)
        aged(pen.path)
        assert compact(place).left == []
        assert restored(place)[pen.name] == pen.content
        assert oracle.restore(place.path)[pen.name] == pen.content
    pen.seal()
    assert compact(place).left == []
    spans = sorted((s.start, s.end, s.sealed) for c in commits.load(place)[0].values() for s in c.spans if s.segment == pen.name)
    assert [(start, sealed) for start, _, sealed in spans] == [(0, False)] + [
        (end, i == 2) for i, (_, end, _) in enumerate(spans[:-1])
    ]
    compact(place, grace_s=0)
    assert contents(place) == {}
    assert oracle.restore(place.path)[pen.name] == pen.content


def test_live_segments_are_left(place):
    """A segment whose writer lives is neither closed nor rewritten."""
    writer = journal.Writer(place, run="r1")
    writer.append(events.RunStarted(name="x"))
    training(place, "r2")
    done = compact(place, grace_s=0)
    assert (done.live, done.segments, done.closed, done.left) == (1, 1, 0, [])
    assert list(contents(place)) == [writer.name]
    writer.seal()
    assert compact(place).segments == 1


def test_damaged_segments_are_left(place):
    """One changed byte, a missing line, bytes behind the footer, a newer format: named, and not touched."""
    good = training(place, "good")
    names = {what: training(place, what) for what in ("flipped", "gap", "behind")}
    path = Path(place.segment_path(names["flipped"]))
    content = path.read_bytes()
    path.write_bytes(content[:700] + bytes([content[700] ^ 1]) + content[701:])
    path = Path(place.segment_path(names["gap"]))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5] + path.read_bytes().splitlines(keepends=True)[6:]))
    with Path(place.segment_path(names["behind"])).open("ab") as file:
        file.write(b"{")
    newer = Pen(place.path, "newer", header=False)
    newer.line(
        f'"kind":"segment.opened","run":"newer","data":{{"format":2,"segment":"{newer.name}","ailab":"9","host":"h","pid":1}}'
    )
    newer.seal()
    before = contents(place)
    done = compact(place, grace_s=0)
    assert sorted(left.name for left in done.left) == sorted([*names.values(), newer.name])
    assert {name: content for name, content in before.items() if name != good} == contents(place)
    assert good in restored(place)
    assert not {*names.values(), newer.name} & set(restored(place))


def test_copies_are_left(place):
    """A copy under another name is not rewritten beside its original, nor after it; alone it stands for it."""
    name = training(place)
    copy = Path(place.segment_path("a copy"))
    copy.write_bytes(Path(place.segment_path(name)).read_bytes())
    done = compact(place, grace_s=0)
    assert (done.segments, done.left) == (1, [Left("a copy", f"a copy of segment {name}")])
    assert list(contents(place)) == ["a copy"]
    assert compact(place, grace_s=0).left == [Left("a copy", f"a copy of segment {name}")]
    for path in Path(place.compacted).iterdir():
        path.unlink()
    assert compact(place).segments == 1
    assert list(restored(place)) == [name]


def test_batches_are_bounded(place):
    """By segments and by bytes; each is a record of its own, and a stop between two loses nothing."""
    names = [training(place, f"r{i}", 20) for i in range(6)]
    before = contents(place)
    assert compact(place, batch_segments=2, max_commits=1).commits == 1
    assert oracle.restore(place.path) == before
    assert compact(place, batch_segments=2).commits == 2
    assert restored(place) == before
    assert [len(commit.spans) for commit in commits.load(place)[0].values()] == [2, 2, 2]
    names += [training(place, f"s{i}", 20) for i in range(3)]
    assert compact(place, batch_bytes=1).commits == 3
    assert sorted(restored(place)) == sorted(names)


def test_replaced_segments_stay_for_the_grace(place):
    """Not removed before the record is old enough, then removed, and only by a record whose tables are whole."""
    training(place)
    before = contents(place)
    compact(place)
    assert compact(place, grace_s=60).removed == 0
    assert contents(place) == before
    (record,) = place.commit_names()
    aged(place.commit_path(record), 61)
    assert compact(place, grace_s=60).removed == 1
    assert contents(place) == {}


def test_a_file_that_is_not_what_tables_have_is_not_removed(place):
    """A replaced segment whose bytes were changed meanwhile stays, and is named."""
    name = training(place)
    compact(place)
    path = Path(place.segment_path(name))
    path.write_bytes(path.read_bytes().replace(b"loss", b"lass", 1))
    assert compact(place, grace_s=0).left == [Left(name, "its bytes are not those in tables")]
    assert list(contents(place)) == [name]


def test_ruined_tables_are_written_again_while_the_segments_are_there(place):
    """A flipped byte in a table costs nothing before the segments are gone, and is named afterwards."""
    name = training(place)
    before = contents(place)
    compact(place)
    for again in (True, False):
        (commit,) = commits.load(place)[0].values()
        path = Path(place.table_path(commit.table("points").name))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        commits._whole.clear()
        done = compact(place, grace_s=0, orphan_s=0)
        if again:
            assert (done.segments, done.removed, contents(place)) == (1, 1, {})
            assert restored(place) == before
        else:
            assert done.segments == 0
    with pytest.raises(Exception, match="SHA-256"):
        restored(place)
    assert name


# -- figures -----------------------------------------------------------------------------------------------------------


def test_bytes_per_point(place, figure):
    """Ten metrics of float32 noise, 20 ms a step with a jitter of 20 µs: at most 3.0 bytes a point, record included."""
    chance = random.Random(7)
    pen = Pen(place.path, "r1")
    at = datetime(2026, 11, 24, 9, tzinfo=timezone.utc)
    for i in range(30_000):
        noise = (0.5 + math.exp(-i / 10_000) / 4 + chance.gauss(0, 0.02) for _ in NAMES)
        point = events.MetricsLogged(dict(zip(NAMES, struct.unpack("10f", struct.pack("10f", *noise)), strict=True)), i)
        at += timedelta(microseconds=20_000 + round(chance.gauss(0, 20)))
        line = events.Line(pen.seq, at, pen.seq, point.kind, "r1", None, None, point, pen.prev, 0)
        pen.text(msgspec.json.encode(line).decode())
    pen.seal()
    began = time.process_time()
    done = compact(place)
    took = time.process_time() - began
    figure(f"{done.bytes_after / done.points:.3f} bytes a point, {took / done.lines * 1e6:.1f} µs of processor a line")
    assert (done.lines, done.points) == (30_002, 300_000)
    assert done.bytes_after / done.points <= 3.0


# -- the verb ----------------------------------------------------------------------------------------------------------


def test_the_verb_says_what_was_done(place):
    """As a table for a person, as the Struct with --json; a second one at the same time is refused."""
    from click.testing import CliRunner

    name = training(place)
    command = ["compact", "--dir", place.path]
    done = CliRunner().invoke(cli.main, command)
    assert (done.exit_code, done.stderr) == (0, "")
    assert re.search(r"compacted +1 segment, 204 lines, 400 points\n", done.stdout)
    done = CliRunner().invoke(cli.main, [*command, "--grace", "0", "--json"])
    found = msgspec.json.decode(done.stdout, type=compaction.Compaction)
    assert (found.removed, found.segments, found.busy) == (1, 0, None)
    assert contents(place) == {}
    assert list(restored(place)) == [name]
    with claims.take(place, compaction.CLAIM):
        done = CliRunner().invoke(cli.main, command)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: the store is being compacted already, by process {os.getpid()} on ")


def test_the_verb_in_the_background_disturbs_nobody(place, scripts):
    """It has the lowest priority, a session of its own, and none of the files that whoever started it had open."""
    source = """
        import os, sys
        from ailab import background
        held = os.open(sys.argv[1], os.O_RDONLY)
        os.set_inheritable(held, True)
        if os.fork() == 0:
            background.step_back()
            try:
                os.fstat(held)
            except OSError as problem:
                print(os.nice(0), os.getsid(0) == os.getpid(), problem.strerror, flush=True)
            os._exit(0)
        os.wait()
    """
    assert scripts.run(source, __file__).stdout == "19 True Bad file descriptor\n"
