"""`events/README.md` is true and is enough: a reader written from it alone sees what ailab shows, and its example adds up."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import reader_by_readme as reader

import ailab
from ailab import actions, capture, events, journal, repository, segments, store, views

if TYPE_CHECKING:
    from collections.abc import Iterator

README = (Path(__file__).parents[2] / "events" / "README.md").read_text(encoding="utf-8")
WORDS = {
    "int": "integer", "str": "text", "float": "number", "bool": "boolean", "datetime": "time", "dict[str, Any]": "object",
    "list[str]": "list of text", "Count": "integer", "Moment": "time",
}  # fmt: skip
KILLED = """
import os, sys, ailab
run = ailab.start_run("trainer", id="killed", project="Küche & Bad", dir=sys.argv[1])
run.log({"loss": 0.25}, step=7)
os._exit(1)
"""


def section(title: str) -> str:
    """The text between a heading of the page and the next one."""
    found = re.search(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"events/README.md has no section {title!r}"
    return found[1]


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table in a text, without its head."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()[2:]] for block in blocks]


# -- the reader and ailab see the same ---------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path, monkeypatch, scripts):
    """A store with runs of every sort: in several segments, resumed, killed, open, edited, with every form of value."""
    folder = tmp_path / "written"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 4096)
    monkeypatch.setattr(journal, "LOOK_EVERY", 8)
    Path("model.bin").write_bytes(b"weights")
    with ailab.start_run(
        "values", id="values", project="iris", seed=0, tags=["odd", "old"], config={"a": {"b": [1, "é"]}}, dir=folder
    ) as run:
        run.log({"loss": float("nan"), "up": float("inf"), "down": float("-inf"), "tiny": 5e-324, "big": 10**30, "yes": True}, 3)
        run.log({"loss": 0.1 + 0.2, "n": 2**63})
        run.log({"exact": Decimal("0.10000000000000000001"), "many": Decimal("1E+3")})
        run.summary.update({"n": 5, "word": "seven"})
        run.set_tags({"kind": "svm"})
        run.note("first\nline")
        run.log_artifact("model.bin")
        run.log_text("once", "a/notes.txt")
        run.log_text("twice", "a/notes.txt")
        run.finish(final_metrics={"loss": 0.5})
    with ailab.start_run("long", id="under_score", dir=folder) as run:
        for step in range(200):
            run.log({"loss": 1 / (step + 1)}, step)
    with ailab.start_run("failed", id="resumed", project="iris", dir=folder) as run:
        run.log({"loss": 1.0})
        run.finish("failed", error="out of memory")
    with ailab.start_run(id="resumed", resume="must", params={"lr": 0.2}, dir=folder) as run:
        run.log({"loss": 2.0})
    scripts.run(KILLED, folder, code=1)
    still_open = ailab.start_run("open", id="open", dir=folder)
    with actions.Actions(views.open_lab(folder), via="cli", by="bob") as act:
        act.note("resumed", "by bob")
        act.flag("values", "BEST")
        act.tag("values", {"kind": "linear"}, remove=["odd"])
        act.lab.close()
    yield folder
    still_open.finish()


def test_the_reader_sees_what_ailab_shows(written):
    """Status, parameters, final metrics, notes, tags, points, files and origin of every run are the same by both."""
    read = reader.read_runs(written)
    with ailab.connect(written) as con:
        shown = {row["run_id"]: row for row in con.sql("SELECT * FROM run_now").to_arrow_table().to_pylist()}
        points = con.execute("SELECT run_id, key, step, value FROM metrics").fetchall()
        assert con.lab.problems == []
    assert {run_id: run["status"] for run_id, run in read.items()} == {
        "values": "completed", "under_score": "completed", "resumed": "completed", "killed": "crashed", "open": "running",
    }  # fmt: skip
    assert sorted(read) == sorted(shown)
    for run_id, run in read.items():
        row = shown[run_id]
        assert str(sorted(run["final_metrics"].items())) == str(sorted(row["metrics"]))  # as text, since NaN is not NaN
        assert run["params"] == json.loads(row["params"])
        assert run["tags"] == {tag["key"]: tag["value"] for tag in row["tags"] or ()}
        assert run["notes"] == [(note["note"], note["by"], note["via"]) for note in row["notes"] or ()]
        assert run["artifacts"] == [(a["path"], a["version"], a["size"], a["sha256"]) for a in row["artifacts"] or ()]
        assert sorted(map(str, run["points"])) == sorted(str(point[1:]) for point in points if point[0] == run_id)
        ids = (run.get("environment"), run.get("code"), run.get("seed"), run.get("group"), run.get("dataset"))
        assert ids == (row["environment_id"], row["code_id"], row["seed"], row["group"], row["dataset_id"])
        for name in ("name", "status", "note", "host", "user", "error", "dropped", "project"):
            assert run.get(name) == row[name], (run_id, name)
        assert run["started_at"] == row["started_at"].isoformat() + "Z"


def test_the_lab_holds_what_the_comparison_is_about(written):
    """Several segments of one run, a resumed run, and values of all forms are there; without them the comparison says little."""
    read = reader.read_runs(written)
    names = [path.stem for path in (written / "segments").glob("*.jsonl")]
    assert sum(name.endswith("_under_score") for name in names) > 3
    assert sum(name.endswith("_resumed") for name in names) == 2
    assert read["under_score"]["final_metrics"] == {"loss": 1 / 200}
    assert read["values"]["final_metrics"]["loss"] == 0.5
    assert read["values"]["final_metrics"]["n"] == 5
    assert read["values"]["note"] == "BEST: first\nline"
    assert read["values"]["tags"] == {"old": None, "kind": "linear", "BEST": None}
    assert read["resumed"]["final_metrics"] == {"loss": 2.0}


def test_every_line_of_a_real_store_proves_itself(written):
    """Checksums, chains, clocks and footers of all segments are as the page says, and blobs have the digests of their names."""
    read = reader.read_segments(written)
    assert [(segment.problems, segment.torn_bytes) for segment in read] == [([], 0)] * len(read)
    assert sorted(segment.name.split("_", 4)[4] for segment in read if not segment.sealed) == ["killed", "open"]
    clocks = {segment.name: [line["clock"] for line in segment.lines] for segment in read}
    for segment in read:
        chain = [*clocks.get(segment.header.get("previous", ""), [])[-1:], *clocks[segment.name]]
        assert chain == sorted(set(chain)), "clocks rise along a segment, and from one to the next"
    for path in (written / "blobs").glob("??/*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        assert path.parent.name == path.name[:2]


def test_environment_and_code_have_the_fields_that_the_page_names(written):
    """The JSON of the blobs has exactly the members of the page's two tables."""
    run = reader.read_runs(written)["values"]
    for title, table, kind in zip(
        ("environment", "code"), tables(section("Blobs")), (capture.Environment, repository.Code), strict=True
    ):
        digest = run[title]
        blob = json.loads((written / "blobs" / digest[:2] / digest).read_bytes())
        named = {name for cells in table for name in re.findall(r"`([a-z_]+)`", cells[0])}
        assert set(blob) == named == set(kind.__struct_fields__)
    (device,) = [cells[1] for cells in tables(section("Blobs"))[0] if cells[0] == "`device`"]
    assert set(re.findall(r"`([a-z_]+)`", device)) == {*capture.Device.__struct_fields__, *capture.Gpu.__struct_fields__}


def test_the_reader_is_a_stranger():
    """It imports the standard library only, and runs where no other package can be found."""
    tree = ast.parse(Path(reader.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
    assert "events" not in imported


def test_the_reader_runs_alone(written):
    """As a script, in an isolated interpreter without site-packages, it gives the same runs."""
    done = subprocess.run([sys.executable, "-I", "-S", reader.__file__, str(written)], check=True, capture_output=True, text=True)
    assert sorted(json.loads(done.stdout)) == sorted(reader.read_runs(written))


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.fixture
def segment(tmp_path):
    """A sealed segment of a run with two points: its store and its path."""
    writer = journal.Writer(store.open_store(str(tmp_path / "lab"), create=True), run="r1")
    writer.append(events.RunStarted(name="r1"))
    log = writer.metrics_logger("r1", lambda *_: None)
    log({"loss": 0.5}, 1)
    log({"loss": 0.25}, 2)
    writer.seal()
    (path,) = (tmp_path / "lab" / "segments").iterdir()
    return tmp_path / "lab", path


def test_each_changed_byte_of_a_sealed_segment_is_named_and_costs_its_line_alone(segment):
    """Any bit of any byte: the reader finds fault, and every line that was not touched still counts."""
    _, path = segment
    whole = path.read_bytes()
    sound = reader.read_segment(path.stem, whole)
    assert sound.problems == []
    for at in range(len(whole)):
        for bit in range(8):
            ruined = bytearray(whole)
            ruined[at] ^= 1 << bit
            found = reader.read_segment(path.stem, bytes(ruined))
            assert found.problems or found.torn_bytes
            assert all(line in sound.lines for line in found.lines)
            assert len(found.lines) >= len(sound.lines) - 2  # two where a newline was the byte


def test_a_copy_counts_while_its_original_is_gone(segment):
    """As the page says of copies, for the reader and for ailab."""
    lab, path = segment
    for name in ("zzz", "aaa"):
        shutil.copy(path, path.with_name(f"{name}.jsonl"))

    def counted() -> tuple[list[str], list[str]]:
        with ailab.connect(lab) as con:
            seen = con.execute("SELECT DISTINCT segment FROM events").fetchall()
            assert [problem.kind for problem in con.lab.tail.problems] == ["duplicate"] * (len(list(path.parent.iterdir())) - 1)
        return [(s.name, s.birth) for s in reader.read_segments(lab)], [name for (name,) in seen]

    assert counted() == ([(path.stem, path.stem)], [path.stem])
    path.unlink()
    assert counted() == ([("aaa", path.stem)], [path.stem])


def test_a_segment_of_a_newer_format_is_not_read(segment):
    """A header with a greater `format` takes the whole segment away, for the reader and for ailab."""
    lab, path = segment
    header = msgspec.json.decode(path.read_bytes().splitlines()[0])
    header["data"]["format"], header["crc"] = 2, 0
    body = msgspec.json.encode(header)
    rest = path.read_bytes().split(b"\n", 1)[1]
    path.write_bytes(body[:-2] + b"%d}\n" % reader.zlib.crc32(body) + rest)
    assert reader.read_runs(lab) == {}
    with ailab.connect(lab) as con:
        assert con.execute("SELECT count(*) FROM runs").fetchone() == (0,)
        assert "unknown-version" in con.lab.problems[0]


@contextmanager
def a_full_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes: what is left fits, the rest of a write does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_short_write_is_cut_off_again(tmp_path):
    """The file is as it was, and goes on as if nothing had been tried."""
    writer = journal.Writer(store.open_store(str(tmp_path / "lab"), create=True), run="r1")
    writer.append(events.RunStarted(name="r1"))
    (path,) = (tmp_path / "lab" / "segments").iterdir()
    before = path.read_bytes()
    with a_full_disk(len(before) + 40):
        assert writer.append(events.NoteChanged(note="late")) is None
        assert path.read_bytes() == before
    writer.seal()
    sealed = reader.read_segment(path.stem, path.read_bytes())
    assert [line["kind"] for line in sealed.lines] == ["segment.opened", "run.started", "note.changed", "segment.sealed"]
    assert sealed.problems == []


def test_a_torn_line_is_followed_by_a_newline_and_costs_nothing_else(tmp_path, monkeypatch):
    """Where it cannot be cut off, the piece stands on a line of its own, its seq is used by the next, and the footer fits."""

    def refuse(*_: int) -> None:
        raise OSError(5, "Input/output error")

    writer = journal.Writer(store.open_store(str(tmp_path / "lab"), create=True), run="r1")
    writer.append(events.RunStarted(name="r1"))
    (path,) = (tmp_path / "lab" / "segments").iterdir()
    with a_full_disk(path.stat().st_size + 40), monkeypatch.context() as patch:
        patch.setattr(journal.os, "ftruncate", refuse)
        assert writer.append(events.NoteChanged(note="late")) is None
    torn = reader.read_segment(path.stem, path.read_bytes())
    assert (torn.torn_bytes, torn.problems, len(torn.lines)) == (40, [], 2)
    writer.seal()
    sealed = reader.read_segment(path.stem, path.read_bytes())
    assert [line["kind"] for line in sealed.lines] == ["segment.opened", "run.started", "note.changed", "segment.sealed"]
    assert [line["seq"] for line in sealed.lines] == [0, 1, 2, 3]
    assert [problem.partition(": ")[2] for problem in sealed.problems] == ["invalid"]


def test_a_header_that_did_not_fit_comes_when_there_is_room(tmp_path):
    """The first line that counts is the header, also where the first write of all fell short."""
    writer = journal.Writer(store.open_store(str(tmp_path / "lab"), create=True), run="r1")
    with a_full_disk(50):
        assert writer.append(events.RunStarted(name="r1")) is None
    writer.append(events.NoteChanged(note="then"))
    writer.seal()
    (path,) = (tmp_path / "lab" / "segments").iterdir()
    found = reader.read_segment(path.stem, path.read_bytes())
    assert [line["kind"] for line in found.lines] == ["segment.opened", "run.started", "note.changed", "segment.sealed"]
    assert found.header["segment"] == path.stem


def test_each_store_has_the_blobs_that_its_runs_refer_to(tmp_path):
    """Also where one process writes into two stores: what it captured for the first is no file of the second."""
    for name in ("one", "two"):
        for _ in range(2):
            ailab.start_run("captured", dir=tmp_path / name).finish()
        runs = reader.read_runs(tmp_path / name).values()
        digests = {run[what] for run in runs for what in ("environment", "code")}
        assert len(runs) == 2
        assert {path.name for path in (tmp_path / name / "blobs").glob("??/*")} == digests


# -- the page itself ---------------------------------------------------------------------------------------------------


def example() -> bytes:
    """The bytes of the page's worked example."""
    found = re.search(r"```jsonl\n(.*?)```", section("A segment, byte for byte"), re.DOTALL)
    assert found
    return found[1].encode()


def test_the_example_adds_up():
    """Its checksums, chain and footer are right, and the figures of the sentence below it are its own."""
    lines = [json.loads(line) for line in example().splitlines()]
    found = reader.read_segment(lines[0]["data"]["segment"], example())
    assert (found.problems, found.torn_bytes, found.sealed, len(found.lines)) == ([], 0, True, 6)
    run = reader.fold([reader.Event(line, found) for line in lines])
    assert run["status"] == "completed"
    assert str(run["final_metrics"]) == "{'loss': nan, 'acc': 0.75}"
    figures = re.search(r"has the CRC-32 (\d+);.*that of the (\d+) bytes", section("A segment, byte for byte"), re.DOTALL)
    assert figures
    assert [int(figure) for figure in figures.groups()] == [lines[0]["crc"], lines[5]["data"]["bytes"]]


def test_the_example_is_what_the_library_writes():
    """Each of its lines, read into the library's Structs and encoded again, gives the same bytes."""
    for raw in example().splitlines(keepends=True):
        line = msgspec.json.decode(raw, type=segments.Envelope)
        payload = msgspec.json.decode(line.data, type=events.KINDS[line.kind])
        envelope = events.Line(line.seq, line.at, line.clock, line.kind, line.run, line.by, line.via, payload, line.prev, 0)
        assert segments.encode_line(envelope) == (raw, line.crc)


def test_the_page_names_every_member_of_a_line_in_order():
    """The table of members is the envelope, in its order."""
    (table,) = tables(section("Lines"))
    assert [cells[0].strip("`") for cells in table] == list(events.Line.__struct_fields__)


def described(event: type[msgspec.Struct]) -> str:
    """A kind's fields as the page writes them."""
    parts = []
    for f in msgspec.structs.fields(event):
        word = WORDS[event.__annotations__[f.name].removesuffix(" | None")]
        optional = f.default is not msgspec.NODEFAULT or f.default_factory is not msgspec.NODEFAULT
        default = f" = `{f.default}`" if optional and f.default is not msgspec.NODEFAULT and f.default else ""
        parts.append(f"`{f.name}{'?' * optional}` {word}{default}")
    return ", ".join(parts)


def test_the_page_names_every_kind_with_its_fields():
    """Every kind of the code stands in the page with all its fields, their types and defaults; no other does."""
    kinds, reserved = tables(section("Kinds"))
    assert {cells[0].strip("`"): cells[1] for cells in kinds} == {kind: described(event) for kind, event in events.KINDS.items()}
    assert {cells[0].strip("`"): cells[1] for cells in reserved} == events.RESERVED
    assert not set(events.KINDS) & set(events.RESERVED)


def test_the_page_states_the_limits_of_the_code():
    """Sizes and times in the text are those of the code."""
    assert f"at {journal.SEGMENT_BYTES >> 20} MiB or after {'one hour' if journal.SEGMENT_SECONDS == 3600 else '?'}" in README
    assert f"silent for {segments.SILENCE_SECONDS:.0f} seconds" in README
    assert f"Format version: {events.FORMAT}." in README
    assert store.MARKER_BYTES.decode().strip() in README
    assert reader.MARKER == store.MARKER_BYTES
