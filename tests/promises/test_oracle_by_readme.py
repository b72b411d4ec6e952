"""The reader that the catalogue is compared with reads what the page about the format says, in stores made by hand from it.

The lines, tables and commit records here are written by this file alone, so neither the package nor the reader can agree with
itself.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import re
import zlib
from datetime import datetime
from pathlib import Path

import oracle
import pyarrow
import pyarrow.parquet
import pytest

PAGE = (Path(__file__).resolve().parents[2] / "events" / "README.md").read_text()
EXAMPLE = re.search(r"## A segment, byte for byte.*?```jsonl\n(.*?)```", PAGE, re.DOTALL)[1].encode()
EXAMPLE_NAME = "20261121T022625836470Z_lab1_9572_57e9d430_demo-1"
A = "20261121T100000000000Z_lab1_1_aaaaaaaa_r1"
B = "20261121T110000000000Z_lab1_2_bbbbbbbb_r1"
C = "20261121T120000000000Z_lab1_3_cccccccc"
CODE = "c0de" * 16
ONE, TWO, SIX = "1" * 64, "2" * 64, "6" * 64


# ----------------------------------------------------------------------------------------------------- stores by hand


def crc_of(line):
    """The line with its checksum in the place of the 0, and that checksum."""
    crc = zlib.crc32(line)
    return line[:-2] + str(crc).encode() + b"}", crc


def compact_json(value):
    """JSON without white space, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def utc(*parts):
    """A time in UTC, without saying so."""
    return datetime(*parts)  # noqa: DTZ001


class Segment:
    """A writer of one segment's bytes, line by line, as the page says."""

    def __init__(self, name, run=None, clock=0, **header):
        self.name, self.run, self.clock, self.seq, self.prev = name, run, clock, 0, 0
        self.bytes, self.counted = b"", 0
        fields = {"format": 1, "segment": name, "ailab": "0.1.0", "host": "lab1", "pid": 1, "user": "ada"}
        self.add_text("segment.opened", compact_json({**fields, **header}))

    def add(self, kind, /, *, run=None, by=None, via=None, at=None, clock=None, **data):
        """Append one line; it returns the event's id."""
        return self.add_text(kind, compact_json(data), run=run, by=by, via=via, at=at, clock=clock)

    def add_text(self, kind, data, *, run=None, by=None, via=None, at=None, clock=None):
        """Append one line whose data are this JSON text."""
        self.clock = self.clock + 1 if clock is None else clock
        at = at or f"2026-11-21T10:00:{self.seq % 60:02}.000001Z"
        members = {"seq": self.seq, "at": at, "clock": self.clock, "kind": kind, "run": run or self.run, "by": by, "via": via}
        parts = [f"{json.dumps(k)}:{json.dumps(v, ensure_ascii=False)}" for k, v in members.items() if v is not None]
        line, self.prev = crc_of(("{" + ",".join([*parts, f'"data":{data}', f'"prev":{self.prev}', '"crc":0}'])).encode())
        self.bytes += line + b"\n"
        self.seq += 1
        return f"{self.name}:{self.seq - 1}"

    def torn(self, piece, mark=b" \n"):
        """Append a piece of a line, and the mark that a writer puts behind one."""
        self.bytes += piece + mark

    def seal(self):
        """Append the footer."""
        self.add("segment.sealed", lines=self.seq, bytes=len(self.bytes), sha256=hashlib.sha256(self.bytes).hexdigest())
        return self


@pytest.fixture
def store(tmp_path):
    """`store(segment, …)` makes a store of these segments and returns its folder."""

    def make(*segments, name="made", **files):
        folder = tmp_path / name
        (folder / "segments").mkdir(parents=True)
        (folder / "compacted").mkdir()
        (folder / "ailab-store.json").write_bytes(b'{"format":1}\n')
        for segment in segments:
            (folder / "segments" / f"{segment.name}.jsonl").write_bytes(segment.bytes)
        for file, content in files.items():
            (folder / "segments" / f"{file}.jsonl").write_bytes(content)
        return folder

    return make


def lines_of(content):
    """(start, line with newline) of every line."""
    return [(match.start(), match[0]) for match in re.finditer(rb"[^\n]*\n", content)]


def counts(line):
    """Whether a line has the checksum that it states."""
    found = re.fullmatch(rb'(.*"crc":)([0-9]+)}\n', line)
    return found is not None and zlib.crc32(found[1] + b"0}") == int(found[2])


def compact(folder, name, spans, *, level=0, redacted=(), replaces=(), spoil=dict):
    """Write a commit record and its tables for spans {segment: (content, start, end)} by hand."""
    events, points, columns, shapes, listed = [], [], [], [], []
    for segment, (content, start, end) in spans.items():
        state = {"seq": 0, "crc": 0}
        before = [line for at, line in lines_of(content) if at < start]
        rows = [line for at, line in lines_of(content) if at < end]
        for n, line in enumerate(rows):
            body = json.loads(line) if counts(line) else None
            if body is not None:
                state = {"seq": body["seq"] + 1, "crc": body["crc"]}
            if n >= len(before):
                row = row_of(segment, n, line, body, columns=columns, shapes=shapes, redacted=(segment, n) in redacted)
                (points if "shape" in row else events).append(row)
        sha256 = hashlib.sha256(content[:end]).hexdigest()
        sealed = b'"kind":"segment.sealed"' in rows[-1]
        span = {"segment": segment, "start": start, "end": end, "sha256": sha256, "line": len(before), "lines": len(rows)}
        listed.append({**span, **state, "sealed": sealed})
    files = [write_table(folder, name, "events", events, EVENTS_SCHEMA)]
    if points:
        types = {"float": pyarrow.float64(), "int": pyarrow.int64(), "json": pyarrow.string()}
        values = [(f"v{number}", types[column["type"]]) for number, column in enumerate(columns)]
        files.append(write_table(folder, name, "points", points, pyarrow.schema([*POINTS_SCHEMA, *values])))
    record = {"format": 1, "at": "2026-11-21T13:00:00Z", "ailab": "0.1.0", "host": "lab1", "pid": 1, "level": level}
    record |= {"spans": listed, "files": files, "columns": columns, "shapes": shapes, "replaces": list(replaces)}
    spoil(record)  # what makes it wrong; `dict` leaves it as it is
    text = json.dumps({**record, "crc": 0}, separators=(",", ":")).encode()
    (folder / "compacted" / f"{name}.json").write_bytes(crc_of(text)[0] + b"\n")


EVERY = [("segment", pyarrow.string()), ("n", pyarrow.int64()), ("seq", pyarrow.int64()), ("at", pyarrow.timestamp("us"))]
EVERY += [("clock", pyarrow.int64()), ("run", pyarrow.string()), ("raw", pyarrow.binary())]
EVENTS_SCHEMA = pyarrow.schema([*EVERY, *((name, pyarrow.string()) for name in ("kind", "by", "via", "data")), ("crc", "int64")])
POINTS_SCHEMA = [*EVERY, ("shape", pyarrow.int32()), ("step", pyarrow.int64()), ("time", pyarrow.float64()), ("extra", "string")]


def row_of(segment, n, line, body, *, columns, shapes, redacted):
    """The row of one line: of the points table where it has a `shape`."""
    if body is None:
        return {"segment": segment, "n": n, "raw": line}
    row = {"segment": segment, "n": n, "at": datetime.fromisoformat(body["at"][:-1]), "raw": None}
    row |= {name: body.get(name) for name in ("seq", "clock", "run")}
    if b", " in line or b"1E" in line:  # what this file writes where columns would not give it back
        row["raw"] = line
    data = re.search(r'"data":(.*),"prev":[0-9]+,"crc":[0-9]+}\n', line.decode())[1]
    point = body["kind"] == "metrics.logged" and not redacted and not row["raw"] and "by" not in body
    if not point:
        row |= {name: body.get(name) for name in ("kind", "by", "via")}
        return row | ({"data": None, "crc": body["crc"]} if redacted else {"data": data, "crc": None})
    shape = {"columns": [], "step": "step" in body["data"], "time": "time" in body["data"]}
    for key, value in body["data"]["values"].items():
        kind = "float" if isinstance(value, float) or value == "NaN" else "int" if type(value) is int else "json"
        column = {"key": key, "type": kind}
        if column not in columns:
            columns.append(column)
        number = columns.index(column)
        shape["columns"].append(number)
        row[f"v{number}"] = math.nan if value == "NaN" else compact_json(value) if kind == "json" else value
    if shape not in shapes:
        shapes.append(shape)
    extra = {key: value for key, value in body["data"].items() if key not in ("values", "step", "time")}
    row |= {"shape": shapes.index(shape), "step": body["data"].get("step"), "time": body["data"].get("time")}
    return row | {"extra": compact_json(extra)[1:-1] if extra else None}


def write_table(folder, name, table, rows, schema):
    """Write a Parquet file and say what a record says about it."""
    rows = sorted(rows, key=lambda row: (row.get("run") or "", row["segment"], row["n"]))
    path = folder / "compacted" / f"{name}.{table}.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path, compression="zstd")
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    return {"name": path.name, "table": table, "bytes": len(content), "rows": len(rows), "sha256": sha256}


def training(name=A, run="r1", clock=0, points=6, via="sdk"):
    """A sealed segment of a run that logs two metrics, and all kinds of numbers."""
    segment = Segment(name, run, clock, via=via)
    segment.add("run.started", name="first", project="Iris Data", params={"lr": 0.1, "net/depth": 3}, code=CODE)
    for step in range(points):
        segment.add("metrics.logged", values={"loss": 1 / (step + 1), "acc": step}, step=step, time=1795255200.25 + step)
    segment.add("metrics.logged", values={"loss": "NaN"})
    odd = '{"values":{"tiny":1.5e-7,"small":0.00001,"large":1e16,"zero":-0.0,"whole":123456789.0}}'
    segment.add_text("metrics.logged", odd)
    segment.add("metrics.logged", values={"digits": "0.10000000000000000001", "yes": True}, step=2, color="é", size=[1])
    segment.add("note.changed", by="bob", via="http", note='a "note"\nin two lines, \t\u0001 ü')
    segment.add_text("metrics.logged", '{"values":{"odd":1E+3}}')
    segment.add("run.finished", status="completed", at="2026-11-21T10:10:00Z")
    return segment.seal()


def read(folder):
    """The state of a store in which nothing is wrong."""
    state = oracle.state(folder)
    assert state["problems"] == []
    return state


def wrong(folder):
    """(file, line, byte offset) of what is wrong in a store, and the first words of what."""
    return [(p["file"], p["line"], p["offset"], p["what"].split(":")[0]) for p in oracle.state(folder)["problems"]]


# -------------------------------------------------------------------------------------------------- the page's example


def test_the_pages_example_reads_as_the_page_says(store):
    """Every line counts, the checksums are those of the text, and the run is what the lines say."""
    state = read(store(**{EXAMPLE_NAME: EXAMPLE}))
    assert [event["event"] for event in state["events"]] == [f"{EXAMPLE_NAME}:{seq}" for seq in range(6)]
    run = state["runs"]["demo-1"]
    fields = ("name", "project", "project_id", "status", "user", "host", "seed", "command")
    said = ["demo", "iris", "iris", "completed", "ada", "lab1", 42, "python train.py"]
    assert [run[name] for name in fields] == said
    assert run["started_at"] == utc(2026, 11, 21, 2, 26, 25, 836654)
    assert run["ended_at"] == utc(2026, 11, 21, 2, 26, 25, 836775)
    assert (run["params"], run["points_lost"], run["trashed"], run["protected"]) == ({"lr": 0.1}, 0, False, False)
    assert oracle.tables(state)["metric_summary"] == [
        ("demo-1", "acc", 0.75, 0.75, 0.75, 0.75, 1, 1),
        ("demo-1", "loss", 0.5, math.nan, 0.5, 0.5, 2, 2),
    ]
    assert oracle.tables(state)["metric_means"] == [("demo-1", "acc", 0.75), ("demo-1", "loss", 0.5)]
    assert run["metrics"] == {"acc": 0.75, "loss": math.nan}
    assert oracle.restore(store(name="again", **{EXAMPLE_NAME: EXAMPLE})) == {EXAMPLE_NAME: EXAMPLE}


def test_the_pages_own_figures_hold():
    """The checksums, `prev`, and the SHA-256 of the footer that the page prints are those of the bytes that it prints."""
    lines = [line for _, line in lines_of(EXAMPLE)]
    bodies = [json.loads(line) for line in lines]
    assert [oracle.checked(line[:-1]) for line in lines] == [body["crc"] for body in bodies]
    assert [body["prev"] for body in bodies] == [0, *(body["crc"] for body in bodies[:-1])]
    before = b"".join(lines[:-1])
    footer = {"lines": len(lines) - 1, "bytes": len(before), "sha256": hashlib.sha256(before).hexdigest()}
    assert bodies[-1]["data"] == footer


def test_every_flipped_byte_is_noticed(store):
    """Whichever byte of the example is another one, a line is named, and no line but the damaged one and its like is lost."""
    folder = store(**{EXAMPLE_NAME: EXAMPLE})
    path = folder / "segments" / f"{EXAMPLE_NAME}.jsonl"
    for place in range(len(EXAMPLE)):
        damaged = bytearray(EXAMPLE)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        state = oracle.state(folder)
        assert state["problems"], f"byte {place} is another one, and nothing is said"
        assert len(state["events"]) >= 4


def test_a_deleted_line_is_named_as_a_gap(store):
    """A line that is gone leaves a gap at the line behind it, and a footer that does not fit."""
    lines = [line for _, line in lines_of(EXAMPLE)]
    folder = store(**{EXAMPLE_NAME: b"".join(lines[:2] + lines[3:])})
    offset = len(lines[0] + lines[1])
    end = len(b"".join(lines[:2] + lines[3:5]))
    file = f"segments/{EXAMPLE_NAME}.jsonl"
    assert wrong(folder) == [(file, 2, offset, "gap"), (file, 4, end, "footer does not fit what stands before it")]
    assert oracle.state(folder)["runs"]["demo-1"]["summary"].keys() == {"loss"}


def test_seq_and_prev_each_tell_a_gap(store):
    """A line that counts is kept although one of the two does not follow."""
    segment = Segment(A, "r1")
    segment.add("run.started", name="first")
    size = len(segment.bytes)
    segment.seq += 1
    segment.add("note.changed", note="seq does not follow")
    segment.prev += 1
    segment.add("note.changed", note="prev does not follow")
    folder = store(segment)
    assert [what for *_, what in wrong(folder)] == ["gap", "gap"]
    assert wrong(folder)[0][:3] == (f"segments/{A}.jsonl", 2, size)
    assert [note["event"] for note in oracle.state(folder)["runs"]["r1"]["notes"]] == [f"{A}:{n}" for n in (3, 4)]


def test_what_stands_behind_a_footer_does_not_count(store):
    """A footer whose `bytes` is right ends the segment; one whose is not ends nothing."""
    segment = training()
    size = len(segment.bytes)
    segment.add("note.changed", note="behind the footer")
    segment.add("note.changed", note="and this")
    folder = store(segment)
    file = f"segments/{A}.jsonl"
    assert [(at, n, what) for at, n, _, what in wrong(folder)] == [(file, n, "line does not count") for n in (15, 16)]
    assert wrong(folder)[0][2] == size
    assert [note["event"] for note in oracle.state(folder)["runs"]["r1"]["notes"]] == [f"{A}:11"]
    segment = training()
    segment.bytes = b" \n" + segment.bytes
    segment.add("note.changed", note="behind a footer that does not fit")
    folder = store(segment, name="other")
    assert [what for *_, what in wrong(folder)] == ["line does not count", "footer does not fit what stands before it"]
    assert [note["event"] for note in oracle.state(folder)["runs"]["r1"]["notes"]] == [f"{A}:11", f"{A}:15"]


def test_every_cut_of_a_segment_is_a_store(store):
    """A file that ends anywhere gives the lines that are whole, and names the torn bytes behind them."""
    folder = store(**{EXAMPLE_NAME: EXAMPLE})
    path = folder / "segments" / f"{EXAMPLE_NAME}.jsonl"
    for size in range(len(EXAMPLE)):
        path.write_bytes(EXAMPLE[:size])
        state = oracle.state(folder)
        assert len(state["events"]) == EXAMPLE[:size].count(b"\n")
        assert len(state["problems"]) == (0 if size == 0 or EXAMPLE[size - 1 : size] == b"\n" else 1)


# ---------------------------------------------------------------------------------------------------------- segments


def test_a_folder_is_a_store_by_its_marker(tmp_path):
    """An empty folder and one with a marker that is cut short are stores; without one, or with another, nothing is read."""
    assert read(tmp_path)["runs"] == {}
    (tmp_path / "ailab-store.json").write_bytes(b'{"for')
    assert read(tmp_path)["runs"] == {}
    (tmp_path / "ailab-store.json").write_bytes(b'{"format":2}\n')
    with pytest.raises(ValueError, match="no store"):
        oracle.state(tmp_path)
    (tmp_path / "ailab-store.json").rename(tmp_path / "other.json")
    with pytest.raises(ValueError, match="no store"):
        oracle.state(tmp_path)


def test_a_short_write_costs_one_line(store):
    """A piece that the writer marked fails its check even where only its newline was missing; its seq is not used up."""
    segment = Segment(A, "r1")
    segment.add("run.started", name="torn")
    at, twin = len(segment.bytes), Segment(A, "r1")
    twin.add("run.started", name="torn")
    twin.add("heartbeat.sent")
    segment.torn(lines_of(twin.bytes)[-1][1][:-1])
    segment.add("note.changed", note="kept")
    segment.seal()
    folder = store(segment)
    assert wrong(folder) == [(f"segments/{A}.jsonl", 2, at, "line does not count")]
    assert oracle.state(folder)["runs"]["r1"]["note"] == "kept"
    assert oracle.restore(folder) == {A: segment.bytes}


def test_lines_that_do_not_count_are_named_and_passed_over(store):
    """No JSON, no object, a missing or a wrong member, and a seq that is there already, each with a checksum that fits."""
    segment = Segment(A, "r1")
    segment.add("run.started", name="kept")
    good = len(segment.bytes)
    at = '"at":"2026-11-21T10:00:00Z"'
    bad = ['{"seq":2,"kind":"x","crc":0}', f'{{"seq":"2",{at},"kind":"x","crc":0}}', f'{{"seq":2,{at},"kind":1,"crc":0}}']
    bad += [f'{{"seq":-1,{at},"kind":"x","crc":0}}', f'{{"seq":2,{at},"kind":"x","data":NaN,"crc":0}}', '[1,"crc":0}']
    bad += ['{"seq":2,"at":"2026-13-21T10:00:00Z","kind":"x","crc":0}', f'{{"seq":1,{at},"kind":"run.trashed","crc":0}}']
    segment.bytes += b"".join(crc_of(line.encode())[0] + b"\n" for line in bad) + b'"\xff"\n\n'
    segment.add("note.changed", note="kept too")
    folder = store(segment)
    assert [what for *_, what in wrong(folder)] == ["line does not count"] * (len(bad) + 2)
    assert wrong(folder)[0][:3] == (f"segments/{A}.jsonl", 2, good)
    run = oracle.state(folder)["runs"]["r1"]
    assert (run["name"], run["note"], run["trashed"]) == ("kept", "kept too", False)


def test_a_segment_of_a_later_format_is_not_read(store):
    """Nothing of it counts, and it is named; the others are read."""
    later = Segment(B, "r2", format=2)
    later.add("run.started", name="later")
    state = oracle.state(store(training(), later))
    assert list(state["runs"]) == ["r1"]
    assert state["problems"] == [{"file": f"segments/{B}.jsonl", "line": 0, "offset": 0, "what": "format 2 is not known"}]


def test_a_segment_without_a_header_counts_all_the_same(store):
    """Damage to the first line takes no other one with it; the name is then the file's."""
    segment = training()
    state = oracle.state(store(**{A: b"x" + segment.bytes}))
    assert state["events"][0]["event"] == f"{A}:1"
    assert state["runs"]["r1"]["status"] == "completed"
    assert state["runs"]["r1"]["host"] is None


def test_a_copy_counts_only_without_its_original(store):
    """A file under another name adds nothing while the original is there, and stands for it when it is gone."""
    segment = training()
    alone = read(store(segment, name="alone"))
    longer = segment.bytes + b"not a line"
    assert oracle.digest(read(store(segment, name="both", **{"0copy": longer}))) == oracle.digest(alone)
    assert oracle.digest(read(store(name="copy", zz=longer, aa=segment.bytes))) == oracle.digest(alone)
    assert [event["segment"] for event in alone["events"]] == [A] * len(alone["events"])


def test_the_order_is_that_of_places(store):
    """The greatest clock has the last word, of equal clocks the segment whose name is greater; files have none."""
    first, second, third = Segment(A, "r1"), Segment(B, "r1"), Segment(C)
    first.add("run.started", name="one", clock=7, at="2026-11-21T23:00:00Z")
    first.add("note.changed", note="by clock", clock=9)
    second.add("note.changed", note="late by the wall clock", clock=8, at="2026-11-22T00:00:00Z")
    second.add("run.renamed", name="by segment", clock=20)
    third.add("run.renamed", run="r1", name="by name", clock=20)
    state = read(store(third, second, first))
    run = state["runs"]["r1"]
    assert (run["note"], run["name"]) == ("by clock", "by name")
    assert [note["note"] for note in run["notes"]] == ["late by the wall clock", "by clock"]
    assert oracle.digest(read(store(first, name="other", x=third.bytes, y=second.bytes))) == oracle.digest(state)


def test_a_closed_segment_that_is_shorter_is_damaged(store):
    """A closing is a statement about that many bytes; a segment that has gone on is fine, one that lacks some is named."""
    segment, other = Segment(A, "r1"), Segment(C)
    segment.add("run.started", name="x")
    sha256 = hashlib.sha256(segment.bytes).hexdigest()
    other.add("segment.closed", segment=A, bytes=len(segment.bytes), sha256=sha256)
    whole = segment.bytes
    segment.add("note.changed", note="went on")
    read(store(segment, other, name="on"))
    short = store(other, name="short", **{A: whole[: whole.index(b"\n") + 1]})
    assert [what for *_, what in wrong(short)] == ["the segment has fewer or other bytes than its closing says"]


# -------------------------------------------------------------------------------------------------------------- fold


def test_a_run_is_what_its_events_say(store):
    """Fields, parameters, status, notes, tags, artifacts and trash by the rules of the page."""
    segment, other = Segment(A, "r1"), Segment(C, via="cli", by="cleo")
    segment.add("run.started", name="one", group="g", params={"lr": 1, "n": None}, tags={"a": "1", "b": None}, description="d")
    segment.add("parameters.added", params={"lr": 2})
    segment.add("artifact.added", path="m/x.pt", logged="./x.pt", type="model", size=3, sha256="ab" * 32)
    segment.add("artifact.added", path="m/x.pt", logged="./x.pt", size=4, sha256="cd" * 32)
    segment.add("writes.dropped", count=3, error="full", first="2026-11-21T10:00:00Z", last="2026-11-21T10:00:00Z")
    segment.add("run.finished", status="failed", error="ValueError: no", final_metrics={"f1": 1, "bad": None})
    other.add("run.changed", run="r1", clock=50, name="", group="h", parent="not a field of this kind", seed=3)
    other.add("run.changed", run="r1", status="killed")
    other.add("run.flagged", run="r1", flag="BEST", note="BEST so far", by="dan")
    other.add("tags.changed", run="r1", set={"c": "x", "a": "2"}, removed=["b", "c"])
    other.add("artifact.trashed", run="r1", path="m/x.pt")
    other.add("summary.set", run="r1", values={"f1": 0, "hand": 2, "text": "0.5"})
    other.add("run.protected", run="r1")
    other.add("run.trashed", run="r1")
    run = read(store(segment, other))["runs"]["r1"]
    assert (run["name"], run["group"], run["parent"], run["description"], run["seed"]) == ("", "h", None, "d", None)
    assert (run["params"], run["metrics"]) == ({"lr": 2, "n": None}, {"f1": 1.0, "hand": 2.0})
    assert (run["status"], run["error"], run["ended_at"]) == ("killed", None, utc(2026, 11, 21, 10, 0, 2, 1))
    assert (run["trashed"], run["protected"], run["points_lost"], run["project"]) == (True, True, 3, None)
    assert run["notes"] == [
        {"event": f"{C}:3", "at": utc(2026, 11, 21, 10, 0, 3, 1), "by": "dan", "via": "cli", "note": "BEST so far"}
    ]
    assert {key: (tag["value"], tag["by"]) for key, tag in run["tags"].items()} == {"a": ("2", "cleo"), "BEST": (None, "dan")}
    parts = ("name", "type", "size", "version", "trashed")
    assert [tuple(entry[part] for part in parts) for entry in run["artifacts"]] == [
        ("x.pt", "model", 3, 1, True),
        ("x.pt", "other", 4, 2, True),
    ]


def test_a_run_without_a_start_is_not_there(store):
    """A run exists from its first run.started on, whichever file that stands in; what was said before counts then."""
    early, late = Segment(C), Segment(B, "r1", clock=100)
    early.add("note.changed", run="r1", note="early")
    early.add("project.created", project="iris", name="Iris", description="flowers")
    early.add("project.changed", project="nobody", name="named by nobody")
    state = read(store(early, name="without"))
    assert (list(state["runs"]), list(state["projects"])) == ([], ["iris"])
    late.add("run.started", project="iris")
    late.add("run.started", project="")
    late.add("run.resumed")
    state = read(store(early, late, name="with"))
    run = state["runs"]["r1"]
    assert (run["note"], run["status"], run["ended_at"], run["project_label"]) == ("early", "running", None, "Iris")


def test_data_that_do_not_fit_change_nothing(store):
    """A field of another type, one that is missing, and data that are no object: named, and the event stays in the list."""
    segment = Segment(A, "r1")
    segment.add("run.started", name="kept", seed=1)
    at = len(segment.bytes)
    segment.add("run.started", name="other", seed="2")
    segment.add("note.changed", text="no note")
    segment.add("metrics.logged", values={"a": 1}, step=2.5)
    segment.add("metrics.logged", values={"a": 1}, step=2**63)
    segment.add("event.redacted", segment=A, seq="1")
    segment.add("run.purged", reason=1)
    segment.add_text("parameters.added", "[1]")
    state = oracle.state(store(segment))
    assert wrong(store(segment, name="again"))[0] == (f"segments/{A}.jsonl", 2, at, "data does not fit run.started")
    assert len(state["problems"]) == 7
    assert len(state["events"]) == 9
    run = state["runs"]["r1"]
    assert (run["name"], run["seed"], run["notes"], run["points"], run["params"]) == ("kept", 1, [], {}, {})


def test_a_removal_is_not_removed(store):
    """Redactions and purges keep their data whoever names them, so that what they took away stays away."""
    segment, other = training(), Segment(C)
    other.add("event.redacted", segment=A, seq=11)
    other.add("event.redacted", segment=C, seq=1)
    other.add("run.purged", run="r1", reason="one")
    other.add("run.purged", run="r1", reason="two")
    other.add("event.redacted", segment=C, seq=3)
    state = read(store(segment, other))
    assert [event["data"] for event in state["events"] if event["segment"] == C][1:] == [
        {"segment": A, "seq": 11},
        {"segment": C, "seq": 1},
        {"reason": "one"},
        {"reason": "two"},
        {"segment": C, "seq": 3},
    ]
    assert (state["runs"], state["projects"]) == ({}, {})


def test_a_project_trashes_its_runs(store):
    """A run is in the trash while its project is; the label is the last of project.changed."""
    segment, other = training(), Segment(C, clock=100)
    other.add("project.changed", project="iris-data", name="New name")
    other.add("project.created", project="iris-data", name="Later", description="flowers")
    other.add("project.trashed", project="iris-data")
    state = read(store(segment, other, name="trashed"))
    assert oracle.tables(state)["projects"] == [
        ("iris-data", "New name", "flowers", utc(2026, 11, 21, 10, 0, 1, 1), True),
    ]
    assert (state["runs"]["r1"]["trashed"], state["runs"]["r1"]["project_label"]) == (True, "New name")
    other.add("project.restored", project="iris-data")
    assert read(store(segment, other, name="restored"))["runs"]["r1"]["trashed"] is False


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("iris", "iris"),
        (" iris ", "iris"),
        ("a\x1c\x85b", "a-b"),
        ("Iris  Data", "iris-data"),
        ("ＩＲＩＳ\u00a0_v1.0", "iris-_v1.0"),
        ("Größe", "gr-sse-" + hashlib.sha256("grösse".encode()).hexdigest()[:8]),
        ("a/b", "a-b-" + hashlib.sha256(b"a/b").hexdigest()[:8]),
        ("-a-", "a-" + hashlib.sha256(b"-a-").hexdigest()[:8]),
        ("データ", "project-" + hashlib.sha256("データ".encode()).hexdigest()[:8]),
    ],
)
def test_a_projects_id_is_made_from_its_name(name, key):
    assert oracle.project_id(name) == key


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (True, (1.0, None)),
        (3, (3.0, None)),
        (2**53 + 1, (float(2**53), str(2**53 + 1))),
        (10**400, (math.inf, "1" + "0" * 400)),
        ("NaN", (math.nan, None)),
        ("-Infinity", (-math.inf, None)),
        ("0.10000000000000000001", (0.1, "0.10000000000000000001")),
        ("0.1", (0.1, "0.1")),
        ("1E+3", (1000.0, "1E+3")),
        ("2.5", (2.5, "2.5")),
        (2**70, (float(2**70), None)),
        ("1E+99999999999999999999", (math.inf, "1E+99999999999999999999")),
        ("nan", None),
        (" 1", None),
        ("1_0", None),
        (None, None),
        ([1], None),
        ({}, None),
    ],
)
def test_a_metrics_value_is_one_of_the_pages_forms(value, number):
    assert oracle.metric(value) == number


def test_steps_are_counted_where_they_are_absent(store):
    """A point without a step has the number of points of its metric before it; time is the caller's, else the event's."""
    segment = Segment(A, "r1")
    segment.add("run.started")
    segment.add("metrics.logged", values={"a": 1, "b": 1}, step=10)
    segment.add("metrics.logged", values={"a": 2}, time=1.5)
    segment.add("metrics.logged", values={"a": "NaN", "b": None, "c": 5})
    segment.add("metrics.logged", values={"a": -1.5}, step=-3)
    run = read(store(segment))["runs"]["r1"]
    assert [(point["step"], point["value"]) for point in run["points"]["a"]] == [(10, 1.0), (1, 2.0), (2, math.nan), (-3, -1.5)]
    assert [point["time"] for point in run["points"]["a"]][:2] == [
        utc(2026, 11, 21, 10, 0, 2, 1),
        utc(1970, 1, 1, 0, 0, 1, 500000),
    ]
    assert [(point["step"], point["seq"]) for point in run["points"]["c"]] == [(0, 4)]
    assert run["summary"]["a"] == {"first": 1, "last": -1.5, "min": -1.5, "max": 2, "mean": 0.5, "count": 4, "last_step": 10}
    assert run["summary"]["c"]["last_step"] is None
    assert len(run["points"]["b"]) == 1


@pytest.mark.parametrize(
    ("values", "mean"),
    [([], None), ([1, 2], 1.5), ([math.inf, 1], math.inf), ([math.inf, -math.inf], math.nan), ([1.5e308] * 3, 1.5e308)],
)
def test_a_mean_is_as_near_as_a_double_gets(values, mean):
    assert oracle.mean_of(values) == mean or math.isnan(mean)


def test_the_commit_of_the_code_comes_from_an_event_or_the_blob(store):
    """What code.captured says counts for every run of that code; else the blob, unless its bytes are not its name's."""
    segment = training()
    folder = store(segment, name="neither")
    assert read(folder)["runs"]["r1"]["git_hash"] is None
    blob = b'{"git_hash":"123abc"}'
    digest = hashlib.sha256(blob).hexdigest()
    other = Segment(C, clock=50)
    other.add("code.captured", run="r1", code=digest)
    folder = store(segment, other, name="blob")
    path = folder / "blobs" / digest[:2] / digest
    path.parent.mkdir(parents=True)
    path.write_bytes(blob)
    assert read(folder)["runs"]["r1"]["git_hash"] == "123abc"
    path.write_bytes(blob + b" ")
    assert read(folder)["runs"]["r1"]["git_hash"] is None
    path.write_bytes(blob)
    other.add("event.redacted", sha256=digest)
    (folder / "segments" / f"{C}.jsonl").write_bytes(other.bytes)
    assert read(folder)["runs"]["r1"]["git_hash"] is None
    other.add("code.captured", run="r2", code=digest, git_hash="said")
    assert read(store(segment, other, name="said"))["runs"]["r1"]["git_hash"] == "said"


# ------------------------------------------------------------------------------------------------------- taking back


def test_a_change_that_was_taken_back_does_not_count(store):
    """Every kind of change of a run that can be taken back is as if it had not been said; the list of events still has it."""
    segment, other = Segment(A, "r1"), Segment(C, clock=100)
    segment.add("run.started", name="one", params={"lr": 1}, tags={"a": "1"})
    segment.add("artifact.added", path="x", logged="x", size=3, sha256=ONE)
    segment.add("note.changed", note="first")
    before = read(store(segment, name="before"))["runs"]
    changes = [
        segment.add("run.changed", name="two", status="failed", group="g", project="Iris"),
        segment.add("parameters.added", params={"lr": 2, "n": 3}),
        segment.add("note.changed", note="second"),
        segment.add("tags.changed", set={"b": None}, removed=["a"]),
        segment.add("run.flagged", flag="BEST", note="BEST third"),
        segment.add("run.renamed", name="three"),
        segment.add("run.trashed"),
        segment.add("run.protected"),
        segment.add("artifact.trashed", path="x"),
    ]
    between = read(store(segment, name="between"))
    assert all(between["runs"]["r1"][name] != before["r1"][name] for name in ("name", "status", "note", "tags", "artifacts"))
    for event in changes:
        other.add("change.undone", run="r1", event=event)
    state = read(store(segment, other, name="after"))
    assert state["runs"] == before
    assert [event["event"] for event in state["events"]][4:13] == changes
    assert [event["data"] for event in state["events"] if event["event"] == changes[2]] == [{"note": "second"}]


def test_what_was_restored_or_unprotected_can_be_taken_back(store):
    """Then the trashing or protection before it is the last word again."""
    segment = Segment(A, "r1")
    segment.add("run.started")
    segment.add("artifact.added", path="x", logged="x", size=3, sha256=ONE)
    for on, off in (("run.trashed", "run.restored"), ("run.protected", "run.unprotected")):
        segment.add(on)
        segment.add("change.undone", event=segment.add(off))
    segment.add("artifact.trashed", path="x")
    segment.add("change.undone", event=segment.add("artifact.restored", path="x"))
    run = read(store(segment))["runs"]["r1"]
    assert (run["trashed"], run["protected"], run["artifacts"][0]["trashed"]) == (True, True, True)


def test_an_undoing_can_be_taken_back(store):
    """What it took back counts again, at its own place; and so on for the undoing of that."""
    segment = Segment(A, "r1")
    segment.add("run.started", name="one")
    last = segment.add("run.renamed", name="two")
    for turn in range(5):
        name = read(store(segment, name=f"turn{turn}"))["runs"]["r1"]["name"]
        assert name == ("one" if turn % 2 else "two")
        last = segment.add("change.undone", event=last)
    segment.add("run.renamed", name="three")
    segment.add("change.undone", event=last)
    assert read(store(segment, name="last"))["runs"]["r1"]["name"] == "three"


def test_two_undoings_of_one_event_are_one(store):
    """It counts again only when both were taken back."""
    segment = Segment(A, "r1")
    segment.add("run.started", name="one")
    event = segment.add("run.renamed", name="two")
    undoings = [segment.add("change.undone", event=event), segment.add("change.undone", event=event)]
    segment.add("change.undone", event=undoings[1])
    assert read(store(segment, name="once"))["runs"]["r1"]["name"] == "one"
    segment.add("change.undone", event=undoings[0])
    assert read(store(segment, name="twice"))["runs"]["r1"]["name"] == "two"


def test_what_no_undoing_takes_back(store):
    """Events of other runs and kinds, later ones, ids that are nowhere; nor do undoings that do not fit or were redacted."""
    segment, other = Segment(A, "r1"), Segment(C, clock=100)
    start = segment.add("run.started", name="one")
    metric = segment.add("metrics.logged", values={"a": 1})
    renamed = segment.add("run.renamed", name="two")
    other.add("run.started", run="r2", name="other")
    note = other.add("note.changed", run="r1", note="late")
    for event in (start, metric, f"{A}:99", "nowhere", f"{A}:03", C):
        other.add("change.undone", run="r1", event=event)
    other.add("change.undone", run="r2", event=renamed)
    other.add("change.undone", event=renamed)
    other.add("change.undone", project="r1", event=renamed)
    other.add("change.undone", run="r1", event=note, clock=3)
    other.add("change.undone", run="r1", event=3, clock=200)
    undoing = other.add("change.undone", run="r1", event=renamed)
    other.add("event.redacted", segment=C, seq=int(undoing.split(":")[1]))
    state = oracle.state(store(segment, other))
    assert [problem["what"] for problem in state["problems"]] == ["data does not fit change.undone: event"]
    run = state["runs"]["r1"]
    assert (run["name"], run["note"], len(run["points"]["a"])) == ("two", "late", 1)


def test_changes_of_projects_and_datasets_are_taken_back_by_undoings_that_name_them(store):
    """By the project or dataset in the undoing, not by that of another one, nor by the undoing of a run."""
    segment = Segment(C)
    segment.add("run.started", run="r1", project="Iris")
    segment.add("project.changed", project="iris", name="First")
    register(segment, "Iris", ONE)
    events = [
        ("project", segment.add("project.changed", project="iris", name="Second", description="d")),
        ("project", segment.add("project.trashed", project="iris")),
        ("dataset", segment.add("dataset_version.changed", dataset="iris", sha256=ONE, name="New", project="by dataset")),
        ("dataset", segment.add("dataset_version.trashed", dataset="iris", sha256=ONE)),
    ]
    wrong_ones = {"project": "dataset", "dataset": "project"}
    for what, event in events:
        segment.add("change.undone", event=event, run="r1")
        segment.add("change.undone", event=event, **{what: "other"})
        segment.add("change.undone", event=event, **{wrong_ones[what]: "iris"})
    state = read(store(segment, name="before"))
    assert {key: (p["name"], p["trashed"]) for key, p in state["projects"].items()} == {
        "iris": ("Second", True),
        "by-dataset": ("by dataset", False),
    }
    assert [(v["name"], v["project_id"], v["trashed"]) for v in state["datasets"].values()] == [("New", "by-dataset", True)]
    undoings = [(what, segment.add("change.undone", event=event, **{what: "iris"})) for what, event in events]
    state = read(store(segment, name="after"))
    assert {key: (p["name"], p["description"], p["trashed"]) for key, p in state["projects"].items()} == {
        "iris": ("First", None, False),
        "by-dataset": ("by dataset", None, False),
    }
    assert [(v["name"], v["project_id"], v["trashed"]) for v in state["datasets"].values()] == [("Iris", None, False)]
    for what, event in undoings:
        segment.add("change.undone", event=event, **{what: "iris"})
    state = read(store(segment, name="again"))
    assert {key: (p["name"], p["description"], p["trashed"]) for key, p in state["projects"].items()} == {
        "iris": ("Second", "d", True),
        "by-dataset": ("by dataset", None, False),
    }
    assert [(v["name"], v["trashed"]) for v in state["datasets"].values()] == [("New", True)]


def test_what_named_a_project_first_does_so_though_it_was_taken_back(store):
    """The project is there from then on, and keeps that name, unless the run is not there or the event was redacted."""
    segment, other = Segment(A, "r1"), Segment(C, clock=100)
    segment.add("run.started")
    first = segment.add("run.changed", project="Iris")
    segment.add("change.undone", event=first)
    segment.add("run.changed", project="IRIS")
    state = read(store(segment, name="taken"))
    at = utc(2026, 11, 21, 10, 0, 2, 1)
    assert oracle.tables(state)["projects"] == [("iris", "Iris", None, at, False)]
    assert (state["runs"]["r1"]["project"], state["runs"]["r1"]["project_label"]) == ("IRIS", "Iris")
    other.add("event.redacted", segment=A, seq=2)
    assert read(store(segment, other, name="redacted"))["projects"]["iris"]["name"] == "IRIS"


# ---------------------------------------------------------------------------------------------------------- datasets


def register(segment, name, sha256, **more):
    """Append a registration of some content; it returns the event's id."""
    fields = {"dataset": oracle.project_id(name), "name": name, "sha256": sha256, "size": 9, "format": "csv", "rows": 2}
    return segment.add("dataset_version.registered", **fields | more)


def test_a_dataset_version_is_what_its_events_say(store):
    """One row per content of a name, numbered by first registration, with what that and the last words say."""
    segment = Segment(C, by="cleo")
    columns = {"columns": [{"name": "a", "type": "double"}]}
    register(segment, "Iris Data", ONE, schema=columns, file="iris.csv", tags={"a": "1", "n": 2.5, "b": None}, project="P 1")
    register(segment, "iris  data", TWO, size=10, format="json", parent=ONE, metadata={"k": [1]}, description="second")
    register(segment, "Other", TWO, rows=3)
    register(segment, "IRIS DATA", ONE, size=11, schema={}, file="again", tags={}, description="", parent=TWO, metadata={"m": 1})
    segment.add("dataset_version.changed", dataset="iris-data", sha256=TWO, description="", tags={"c": "x"}, metadata={})
    segment.add("dataset_version.changed", dataset="iris-data", sha256=TWO, name="")
    segment.add("dataset_version.trashed", dataset="iris-data", sha256=ONE)
    at = [utc(2026, 11, 21, 10, 0, second, 1) for second in range(4)]
    one, two = f"iris-data@sha256:{ONE}", f"iris-data@sha256:{TWO}"
    first, tags = ("iris-data", "Iris Data", 1, ONE, 9, "csv", 2), {"a": "1", "n": 2.5, "b": None}
    assert oracle.tables(read(store(segment)))["datasets"] == [
        (one, *first, columns, None, tags, {"m": 1}, "p-1", "P 1", None, "iris.csv", at[1], True),
        (two, "iris-data", "Iris Data", 2, TWO, 10, "json", 2, {}, "", {"c": "x"}, {}, None, None, one, "", at[2], False),
        (f"other@sha256:{TWO}", "other", "Other", 1, TWO, 9, "csv", 3, {}, None, {}, {}, None, None, None, "", at[3], False),
    ]
    segment.add("dataset_version.changed", dataset="iris-data", sha256=TWO, name="New")
    segment.add("dataset_version.changed", dataset="iris-data", sha256=SIX, name="of none")
    segment.add("dataset_version.restored", dataset="iris-data", sha256=ONE)
    versions = read(store(segment, name="later"))["datasets"]
    assert [(v["name"], v["version"], v["trashed"]) for v in versions.values()] == [
        ("New", 1, False),
        ("New", 2, False),
        ("Other", 1, False),
    ]


def test_what_was_said_of_a_version_before_it_was_there_counts_then(store):
    """Other events make no version and name no project; once it is registered they have their place in the order."""
    segment, other = Segment(C), Segment(B, clock=100)
    segment.add("dataset_version.changed", dataset="iris", sha256=ONE, name="Early", description="early", project="Early P")
    segment.add("dataset_version.changed", dataset="iris", sha256=ONE, tags={"early": None})
    segment.add("dataset_version.trashed", dataset="iris", sha256=ONE)
    state = read(store(segment, name="without"))
    assert (state["datasets"], state["projects"]) == ({}, {})
    register(other, "Iris", ONE, tags={"late": None})
    state = read(store(segment, other, name="with"))
    version = state["datasets"][f"iris@sha256:{ONE}"]
    said = [version[name] for name in ("name", "description", "tags", "project_label", "trashed")]
    assert said == ["Early", "early", {"late": None}, "Early P", True]
    assert state["projects"]["early-p"]["created_at"] == utc(2026, 11, 21, 10, 0, 1, 1)


def test_a_version_whose_registrations_are_redacted_is_not_there(store):
    """With one of them left it is that one's; the numbers are those of what is left."""
    segment, other = Segment(C), Segment(B)
    register(segment, "Iris", ONE, file="first", project="P")
    register(segment, "Iris", TWO)
    register(segment, "Iris", ONE, file="second", size=12)
    other.add("event.redacted", segment=C, seq=1)
    state = read(store(segment, other, name="one"))
    rows = [(v["sha256"], v["version"], v["file"], v["size"]) for v in state["datasets"].values()]
    assert (rows, state["projects"]) == ([(TWO, 1, "", 9), (ONE, 2, "second", 12)], {})
    other.add("event.redacted", segment=C, seq=3)
    assert list(read(store(segment, other, name="both"))["datasets"]) == [f"iris@sha256:{TWO}"]


def test_a_project_is_named_by_dataset_versions_too(store):
    """It is there from the first of them on and trashes them; its label is what the first of all said; "" is none."""
    segment, other = Segment(C), Segment(B, clock=100)
    register(segment, "Iris", ONE, project="p 1")
    register(segment, "Iris", TWO)
    segment.add("dataset_version.changed", dataset="iris", sha256=TWO, project="P 2")
    state = read(store(segment, name="named"))
    at = [utc(2026, 11, 21, 10, 0, second, 1) for second in range(4)]
    assert oracle.tables(state)["projects"] == [("p-1", "p 1", None, at[1], False), ("p-2", "P 2", None, at[3], False)]
    other.add("project.created", project="p-1", name="P 1", description="one")
    other.add("project.changed", project="p-1", description="two")
    other.add("project.trashed", project="p-2")
    state = read(store(segment, other, name="trashed"))
    assert oracle.tables(state)["projects"] == [("p-1", "p 1", "two", at[1], False), ("p-2", "P 2", None, at[3], True)]
    assert [(v["project_label"], v["trashed"]) for v in state["datasets"].values()] == [("p 1", False), ("P 2", True)]
    other.add("dataset_version.changed", dataset="iris", sha256=TWO, project="")
    version = read(store(segment, other, name="taken"))["datasets"][f"iris@sha256:{TWO}"]
    assert (version["project_id"], version["project_label"], version["trashed"]) == (None, None, False)


def test_a_run_uses_each_content_once_in_a_role(store):
    """With the dataset, name and time of the first event; uses of a run that is not there are in no row."""
    segment, other = Segment(A, "r1"), Segment(C)
    segment.add("run.started", dataset="as given")
    segment.add("dataset.used", sha256=ONE, dataset="iris", name="iris@v2")
    segment.add("dataset.used", sha256=ONE, dataset="other", name="other", role="training")
    segment.add("dataset.used", sha256=ONE, role="validation")
    segment.add("dataset.used", sha256=TWO, name="path.csv")
    other.add("dataset.used", run="nobody", sha256=ONE)
    state = read(store(segment, other))
    at = [utc(2026, 11, 21, 10, 0, second, 1) for second in range(6)]
    assert oracle.tables(state)["dataset_uses"] == [
        ("r1", f"iris@sha256:{ONE}", ONE, "training", "iris@v2", at[2]),
        ("r1", f"sha256:{ONE}", ONE, "validation", "", at[4]),
        ("r1", f"sha256:{TWO}", TWO, "training", "path.csv", at[5]),
    ]
    assert state["runs"]["r1"]["dataset"] == "as given"


# ---------------------------------------------------------------------------------------- machine, console and server


def test_system_metrics_are_numbers_by_name(store):
    """Values are those of metrics, what is none is in no row, and none is a metric of the run."""
    segment = Segment(A, "r1")
    segment.add("run.started")
    segment.add("system_metrics.logged", values={"cpu": 12.5, "gpu": "NaN", "text": "much", "none": None, "digits": "0.5"})
    segment.add("system_metrics.logged", values={"cpu": 13})
    segment.add("system_metrics.logged", run="nobody", values={"cpu": 14})
    state = read(store(segment))
    at = [utc(2026, 11, 21, 10, 0, second, 1) for second in range(4)]
    assert oracle.tables(state)["system_metrics"] == [
        ("r1", "cpu", at[2], 12.5),
        ("r1", "cpu", at[3], 13.0),
        ("r1", "digits", at[2], 0.5),
        ("r1", "gpu", at[2], math.nan),
    ]
    assert (state["runs"]["r1"]["points"], state["runs"]["r1"]["metrics"]) == ({}, {})


def test_console_lines_are_rows(store):
    """Each line of an event is one; those of a purged run, of redacted events and of such as do not fit are none."""
    segment, other, third = Segment(A, "r1"), Segment(B, "r2"), Segment(C)
    for one in (segment, other):
        one.add("run.started")
        one.add("console_lines.logged", stream="stdout", lines=["b", "", "b"])
        one.add("console_lines.logged", stream="stderr", lines=["é\n"], dropped=4)
        one.add("console_lines.logged", stream="stderr", lines=["x", 1])
        one.add("console_lines.logged", stream="stderr", lines=["secret"])
    third.add("event.redacted", segment=A, seq=5)
    third.add("run.purged", run="r2")
    state = oracle.state(store(segment, other, third))
    assert {problem["what"] for problem in state["problems"]} == {"data does not fit console_lines.logged: lines"}
    at = [utc(2026, 11, 21, 10, 0, second, 1) for second in range(4)]
    assert oracle.tables(state)["console"] == [
        ("r1", at[2], "stdout", ""),
        ("r1", at[2], "stdout", "b"),
        ("r1", at[2], "stdout", "b"),
        ("r1", at[3], "stderr", "é\n"),
    ]


def accept(server, **data):
    """Append the acceptance of a segment: `by` is in its data."""
    return server.add_text("segment.accepted", compact_json(data))


def test_what_came_through_a_server_is_by_the_token_that_was_shown(store):
    """All of a segment is by the last acceptance that says so, wherever it stands; `via` and the lines stay as they are."""
    segment, server, late = Segment(A, "r1", by="eve", via="sdk"), Segment(C, clock=50), Segment(B, clock=1)
    segment.add("run.started", tags={"a": None})
    segment.add("note.changed", note="n", by="mallory", via="cli")
    accept(late, segment=A, offset=10, by="early", token="t1")
    accept(server, segment=A, by="first", token="t1", address="10.0.0.1")
    accept(server, segment=A, by="last", token="t2")
    server.add("segment.accepted", segment=A, offset=300, by="who says so")
    accept(server, segment="nowhere", by="nobody")
    state = read(store(segment, server, late, name="one"))
    run = state["runs"]["r1"]
    assert [(note["by"], note["via"]) for note in run["notes"]] == [("last", "cli")]
    assert run["tags"]["a"]["by"] == "last"
    told = [(event["by"], event["via"]) for event in state["events"] if event["segment"] == A]
    assert told == [("last", "sdk"), ("last", "sdk"), ("last", "cli")]
    assert [row[7:9] for row in oracle.tables(state)["events"] if row[1] == A] == [(None, None), (None, None), ("mallory", "cli")]
    assert {event["by"] for event in state["events"] if event["segment"] != A} == {None, "who says so"}
    for seq, by in ((2, "first"), (1, "early")):
        server.add("event.redacted", segment=C, seq=seq)
        run = read(store(segment, server, late, name=by))["runs"]["r1"]
        assert [note["by"] for note in run["notes"]] == [by]


def test_a_token_is_what_its_first_event_says(store):
    """Until any event, wherever it stands, revokes it."""
    segment = Segment(C)
    segment.add("token.revoked", token="t2")
    segment.add("token.created", token="t1", sha256=ONE, role="writer", name="laptop", project="iris")
    segment.add("token.created", token="t1", sha256=TWO, role="admin")
    segment.add("token.created", token="t2", sha256=SIX, role="reader")
    assert read(store(segment))["tokens"] == {
        "t1": {"sha256": ONE, "role": "writer", "name": "laptop", "project": "iris", "revoked": False},
        "t2": {"sha256": SIX, "role": "reader", "name": None, "project": None, "revoked": True},
    }


# --------------------------------------------------------------------------------------------------------- redaction


def test_a_redacted_event_changed_nothing(store):
    """It stays in the list without its data, wherever the redaction stands; a redacted blob is as if it were not there."""
    segment, other = training(), Segment(C)
    note = next(event for event in read(store(segment, name="before"))["events"] if event["kind"] == "note.changed")
    other.add("event.redacted", segment=A, seq=note["seq"], clock=1)
    state = read(store(segment, other, name="after"))
    assert (state["runs"]["r1"]["note"], state["runs"]["r1"]["notes"]) == (None, [])
    assert [event["data"] for event in state["events"] if event["event"] == note["event"]] == [{}]
    assert oracle.restore(store(segment, name="same")) == {A: segment.bytes}


def test_a_redacted_header_says_nothing_more(store):
    """By, via, user and host of a redacted header are as if its data were empty; the name at birth stays."""
    segment, other = Segment(A, "r1", via="http", by="eve"), Segment(C)
    segment.add("run.started", name="x")
    other.add("event.redacted", segment=A, seq=0)
    state = read(store(other, moved=segment.bytes))
    assert [(e["event"], e["by"], e["via"]) for e in state["events"] if e["run"]] == [
        (f"{A}:0", None, "sdk"),
        (f"{A}:1", None, "sdk"),
    ]
    assert state["runs"]["r1"]["host"] is None


def test_a_purged_run_is_not_there(store):
    """The data of all its events are gone, before and after the purge; only the purge keeps its own."""
    segment, other = training(), Segment(C)
    other.add("run.purged", run="r1", reason="asked for", clock=1)
    other.add("note.changed", run="r1", note="later", clock=500)
    state = read(store(segment, other))
    assert (state["runs"], state["projects"]) == ({}, {})
    assert [event["data"] for event in state["events"] if event["run"] == "r1" and event["data"]] == [{"reason": "asked for"}]


# ------------------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (0.1, "0.1"),
        (1e-5, "0.00001"),
        (9.999e-6, "9.999e-6"),
        (1.5e-7, "1.5e-7"),
        (9007199254740993.0, "9007199254740992.0"),
        (9999999999999998.0, "9999999999999998.0"),
        (1e16, "1e16"),
        (-1.5e300, "-1.5e300"),
        (5e-324, "5e-324"),
        (math.nan, '"NaN"'),
        (-math.inf, '"-Infinity"'),
    ],
)
def test_a_double_has_one_text(value, text):
    assert oracle.double(value) == text


def test_a_compacted_segment_reads_the_same(store):
    """With its segment gone, a table gives the same state and every line's bytes, odd and damaged ones too."""
    segment = training()
    before = oracle.state(store(segment, name="before"))
    folder = store(name="after")
    compact(folder, "one", {A: (segment.bytes, 0, len(segment.bytes))})
    assert pyarrow.parquet.ParquetFile(folder / "compacted" / "one.points.parquet").metadata.num_rows == 9
    state = read(folder)
    assert oracle.digest(state) == oracle.digest(before)
    assert oracle.restore(folder) == {A: segment.bytes}
    assert oracle.tables(state)["metric_means"] == oracle.tables(before)["metric_means"]


def test_a_line_that_does_not_count_is_given_back(store):
    """A torn piece between the lines is a row with its bytes, and named as in the file."""
    segment = Segment(A, "r1")
    segment.add("run.started", name="x")
    segment.torn(b'{"seq":2,"at"')
    segment.add("metrics.logged", values={"a": 0.5})
    segment.seal()
    expected = wrong(store(segment, name="before"))
    folder = store(name="after")
    compact(folder, "one", {A: (segment.bytes, 0, len(segment.bytes))})
    assert oracle.restore(folder) == {A: segment.bytes}
    assert [entry[1:] for entry in wrong(folder)] == [entry[1:] for entry in expected]


def test_rows_that_do_not_give_back_the_bytes_are_named(store):
    """A writer of tables that kept no `raw` where it was needed is found out by the span's SHA-256."""
    segment = Segment(A, "r1")
    segment.add_text("metrics.logged", '{"values":{"a":1e01}}')
    folder = store()
    compact(folder, "one", {A: (segment.bytes, 0, len(segment.bytes))})
    assert [what for *_, what in wrong(folder)] == ["the rows of a span do not give back its bytes"]
    end = lines_of(segment.bytes)[1][0]
    compact(folder, "one", {A: (segment.bytes, 0, end)}, spoil=lambda record: record["spans"][0].update(sha256="0" * 64))
    assert [what for *_, what in wrong(folder)] == ["the rows of a span do not give back its bytes"]


def test_spans_follow_one_another_and_then_the_file(store):
    """A span starts where another ends, the file goes on behind the last; the bytes before are not read from it."""
    segment = training()
    starts = [at for at, _ in lines_of(segment.bytes)]
    folder = store(name="after")
    compact(folder, "one", {A: (segment.bytes, 0, starts[4])})
    compact(folder, "two", {A: (segment.bytes, starts[4], starts[9])})
    (folder / "segments" / f"{A}.jsonl").write_bytes(b"x" * starts[9] + segment.bytes[starts[9] :])
    assert oracle.digest(read(folder)) == oracle.digest(read(store(segment, name="before")))
    assert oracle.restore(folder) == {A: segment.bytes}


def test_overlapping_records_count_once(store):
    """Of spans that reach beyond a place the greatest end counts, then the greatest level, then the name; each line once."""
    segment, other = training(), training(B, "r2", via="cli")
    starts = [at for at, _ in lines_of(segment.bytes)]
    expected = oracle.digest(read(store(segment, other, name="before")))
    folder = store(segment, name="after")
    compact(folder, "b", {A: (segment.bytes, 0, starts[5]), B: (other.bytes, 0, len(other.bytes))})
    compact(folder, "c", {A: (segment.bytes, 0, starts[7])})
    compact(folder, "d", {A: (segment.bytes, starts[5], starts[9])})
    assert oracle.digest(read(folder)) == expected
    records, _ = oracle.commit_records(folder, [])
    assert oracle.best_span(records, A, 0)[0]["name"] == "c"
    assert oracle.best_span(records, A, starts[7])[0]["name"] == "d"
    assert oracle.best_span(records, A, starts[9]) is None
    compact(folder, "e", {A: (segment.bytes, 0, starts[7])}, level=1, replaces=["c"])
    compact(folder, "f", {A: (segment.bytes, 0, starts[7])}, level=1, replaces=["c"])
    records, _ = oracle.commit_records(folder, [])
    assert oracle.best_span(records, A, 0)[0]["name"] == "e"
    assert oracle.digest(read(folder)) == expected
    assert oracle.restore(folder) == {A: segment.bytes, B: other.bytes}


def test_a_span_behind_a_hole_is_named_as_missing(store):
    """A span that starts where nothing ends never comes to count, and what lacks is said."""
    segment = training()
    starts = [at for at, _ in lines_of(segment.bytes)]
    folder = store(name="after")
    compact(folder, "two", {A: (segment.bytes, starts[4], starts[9])})
    state = oracle.state(folder)
    assert (state["runs"], state["events"]) == ({}, [])
    what = f"bytes 0 to {starts[9]} of {A} are missing"
    assert state["problems"] == [{"file": "compacted/two.json", "line": 0, "offset": 0, "what": what}]


@pytest.mark.parametrize("damage", ["table", "missing", "record", "short", "size", "format"])
def test_a_record_that_does_not_count_is_passed_over(store, damage):
    """The segment is read as long as it is there; without it, what is missing is said."""
    segment = training()
    expected = oracle.digest(read(store(segment, name="before")))
    folder = store(segment, name="after")
    spoil = {"format": lambda record: record.update(format=2), "size": lambda record: record["files"][1].update(bytes=1)}
    compact(folder, "one", {A: (segment.bytes, 0, len(segment.bytes))}, spoil=spoil.get(damage, dict))
    path = folder / "compacted" / ("one.json" if damage in ("record", "format") else "one.points.parquet")
    content = bytearray(path.read_bytes())
    content[40] ^= 1 if damage in ("record", "table") else 0
    path.write_bytes(content[:-1] if damage == "short" else content)
    if damage == "missing":
        path.unlink()
    assert [(file, what) for file, *_, what in wrong(folder)] == [("compacted/one.json", "passed over")]
    assert oracle.digest(oracle.state(folder)) == expected
    (folder / "segments" / f"{A}.jsonl").unlink()
    missing = [what for *_, what in wrong(folder)][1:]
    known = damage not in ("record", "format")
    assert missing == ([f"bytes 0 to {len(segment.bytes)} of {A} are missing"] if known else [])


def test_a_rewritten_redaction_is_no_damage(store):
    """A line whose data a writer of tables took away keeps its checksum; the state is that of before, and nothing is wrong."""
    segment, other = training(), Segment(C)
    redacted = [2, 10]
    for seq in redacted:
        other.add("event.redacted", segment=A, seq=seq)
    expected = oracle.digest(read(store(segment, other, name="before")))
    folder = store(other, name="after")
    starts = [at for at, _ in lines_of(segment.bytes)]
    compact(folder, "one", {A: (segment.bytes, 0, starts[11])}, redacted={(A, n) for n in redacted})
    (folder / "segments" / f"{A}.jsonl").write_bytes(segment.bytes)
    assert oracle.digest(read(folder)) == expected
    original = [line for _, line in lines_of(segment.bytes)]
    without = [re.sub(rb'"data":.*,"prev"', b'"prev"', line) if n in redacted else line for n, line in enumerate(original)]
    assert oracle.restore(folder)[A] == b"".join(without)
    (folder / "segments" / f"{C}.jsonl").unlink()
    assert [event["data"] for event in read(folder)["events"] if event["seq"] in redacted] == [{}, {}]
    assert read(folder)["runs"]["r1"]["points"]["loss"][0]["value"] == 0.5


def test_any_split_into_tables_and_file_reads_the_same(store):
    """Wherever two copies of a store were compacted and however they were joined, one byte counts once."""
    segment = training()
    expected = oracle.digest(read(store(segment, name="before")))
    starts = [at for at, _ in lines_of(segment.bytes)] + [len(segment.bytes)]
    rng = random.Random(11)
    for turn in range(20):
        folder = store(segment, name=f"turn{turn}")
        for copy in "ab":
            cuts = [0, *sorted(rng.sample(starts[1:], rng.randint(1, 3)))]
            for number, (start, end) in enumerate(itertools.pairwise(cuts)):
                compact(folder, f"{copy}{number}", {A: (segment.bytes, start, end)}, level=rng.randint(0, 2))
        assert oracle.digest(read(folder)) == expected
        assert oracle.restore(folder) == {A: segment.bytes}


# ----------------------------------------------------------------------------------------------------------- compare


def test_the_digest_is_of_everything_but_means(store):
    """Two states with other means are the same; with anything else they are not, and the text is JSON."""
    state = read(store(training(), name="one"))
    before = oracle.digest(state)
    assert json.loads(oracle.canonical(state))["runs"]["r1"]["status"] == "completed"
    state["runs"]["r1"]["summary"]["loss"]["mean"] = -1.0
    assert oracle.digest(state) == before
    state["runs"]["r1"]["summary"]["loss"]["last_step"] = -1
    assert oracle.digest(state) != before


def test_the_rows_of_the_views_are_sorted_tuples(store):
    """One row per run, parameter, point, metric, tag, note, artifact, project and event, in the columns of the views."""
    rows = oracle.tables(read(store(training())))
    assert [len(rows[name]) for name in oracle.VIEWS] == [1, 2, 21, 10, 10, 0, 1, 0, 1, 15, 0, 0, 0, 0]
    start, end = utc(2026, 11, 21, 10, 0, 1, 1), utc(2026, 11, 21, 10, 10)
    head = ("r1", "first", "iris-data", "Iris Data", "completed", start, end, "ada", "lab1", None, None, None, None, None)
    assert rows["runs"][0][:14] == head
    assert rows["params"] == [("r1", "lr", 0.1), ("r1", "net/depth", 3)]
    assert rows["metrics"][0] == ("r1", "acc", 0, utc(2026, 11, 21, 10, 0, 0, 250000), 0.0, None, 2)
    assert rows["notes"] == [
        ("r1", f"{A}:11", utc(2026, 11, 21, 10, 0, 11, 1), "bob", "http", 'a "note"\nin two lines, \t\u0001 ü')
    ]
    assert all(listed == sorted(listed, key=oracle.sort_key) for listed in rows.values())
