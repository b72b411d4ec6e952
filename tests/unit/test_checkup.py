"""What `ailab doctor` promises: every damage is named with file, line, byte and cost; nothing is written; nothing else suffers.

Stores are real: made by the public logger in processes of their own, then damaged as disks, copies and kills damage them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import ailab
from ailab import checkup, events, journal, queries, surroundings, views
from ailab.errors import ForeignFolderError, StoreError
from ailab.store import open_store

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs what Linux does at a limit")

TRAIN = """
import os, signal, sys
import ailab

for i in range(3):
    with ailab.start_run(name=f"whole-{i}", project="p", config={"lr": 0.1}) as run:
        for step in range(20):
            run.log({"loss": 1 / (step + 1)}, step=step)
        with open("model.bin", "wb") as file:
            file.write(bytes(100 + i))
        run.log_artifact("model.bin")
try:
    with ailab.start_run(name="failed"):
        raise ValueError("no")
except ValueError:
    pass
if os.fork() == 0:
    run = ailab.start_run(id="killed-one")
    run.log({"loss": 1.0}, step=0)
    os.kill(os.getpid(), signal.SIGKILL)
os.wait()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with three whole runs, a failed one and one killed with -9."""
    import subprocess

    folder = tmp_path_factory.mktemp("made")
    (folder / "train.py").write_text(TRAIN)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AILAB_")}
    environment |= {"AILAB_DIR": str(folder / "store"), "PYTHONPATH": str(Path(ailab.__file__).parents[1])}
    subprocess.run([sys.executable, "train.py"], cwd=folder, env=environment, check=True)
    return folder / "store"


@pytest.fixture
def store(made, tmp_path):
    """A copy of that store, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "store"))


def segments(store: Path) -> list[Path]:
    return sorted((store / "segments").iterdir())


def segment_of(store: Path, name: str) -> Path:
    return next(path for path in segments(store) if f'"name":"{name}"' in path.read_text())


def found(store: Path, level: str) -> list[checkup.Finding]:
    return [finding for finding in checkup.examine(str(store)).findings if finding.level == level]


def places(findings: list[checkup.Finding]) -> list[tuple[str, str]]:
    return [(finding.what.partition(":")[0], finding.where) for finding in findings]


def fingerprint(store: Path) -> dict[str, str]:
    return {str(p.relative_to(store)): hashlib.sha256(p.read_bytes()).hexdigest() for p in store.rglob("*") if p.is_file()}


def at(path: Path, line: int) -> str:
    """path:line:byte of a line."""
    offset = sum(map(len, path.read_bytes().splitlines(keepends=True)[: line - 1]))
    return f"{path}:{line}:{offset}"


def write_segment(
    store: Path, *lines: tuple[str, object], name: str = "20260101T000000000000Z_far_1_00000000", times=None
) -> Path:
    """A segment of another host, line by line with the writer's own encoder; its header first."""
    header = events.SegmentOpened(format=1, segment=name, ailab="9.9", host="far", pid=1)
    path, prev = store / "segments" / f"{name}.jsonl", 0
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    with open(path, "wb") as file:
        for seq, (kind, data) in enumerate([("segment.opened", header), *lines]):
            moment = times[seq] if times else start + timedelta(seconds=seq)
            encoded, prev = journal.encode_line(events.Line(seq, moment, seq, kind, "far-run", None, None, data, prev, 0))
            file.write(encoded)
    os.utime(path, (start.timestamp(), start.timestamp()))
    return path


# -- a store that is well ----------------------------------------------------------------------------------------------


def test_a_store_is_counted_whole(store):
    """Every figure of a checkup is that of the files."""
    now = checkup.examine(str(store))
    files = segments(store)
    blobs = [p for p in (store / "blobs").rglob("*") if p.is_file()]
    assert (now.store, now.marker_ok, now.healthy) == (str(store), True, True)
    assert (now.segments, now.sealed, now.live, now.unsealed) == (5, 4, 0, 1)
    assert now.events == sum(path.read_bytes().count(b"\n") for path in files)
    assert now.runs == {"completed": 3, "crashed": 1, "failed": 1}
    assert now.points_dropped == 0
    assert now.segment_bytes == sum(path.stat().st_size for path in files)
    assert (now.blobs, now.blob_bytes) == (len(blobs), sum(path.stat().st_size for path in blobs))
    assert now.free_bytes > 0
    assert now.git == shutil.which("git")
    assert now.versions.keys() == {"ailab", "python", "duckdb", "pyarrow"}
    assert None not in now.versions.values()


def test_a_crashed_run_is_a_note_and_no_error(store):
    (note,) = found(store, "note")
    assert note.what == "1 run without an end, the writer gone: killed-one"


def test_runs_by_status_are_those_of_the_views(store):
    """The doctor's own fold counts as the catalogue does, edits from elsewhere and resumed runs too."""
    with ailab.start_run(id="killed-one", dir=store, resume="must"):
        pass
    ailab.start_run(name="ended", dir=store).finish("killed")
    write_segment(store, ("run.started", events.RunStarted(name="x")), ("run.changed", events.RunChanged(status="pending")))
    lab = views.open_lab(str(store))
    try:
        expected = Counter(row.status for row in queries.list_runs(lab).rows)
    finally:
        lab.close()
    assert checkup.examine(str(store)).runs == dict(sorted(expected.items()))
    assert expected == {"completed": 4, "failed": 1, "killed": 1, "pending": 1}


def test_looking_changes_nothing(store):
    """No byte of a store is written, not even a marker that was cut short."""
    (store / "ailab-store.json").write_bytes(b'{"for')
    before = fingerprint(store)
    now = checkup.examine(str(store))
    assert fingerprint(store) == before
    assert (now.marker_ok, now.healthy) == (False, True)


def test_a_marker_of_another_format_is_an_error(store):
    (store / "ailab-store.json").write_bytes(b'{"format":2}\n')
    assert [f.what for f in found(store, "error")] == ["the marker is of another format: b'{\"format\":2}\\n'"]


def test_a_living_writer_is_live_and_its_torn_tail_normal(store, scripts):
    """A line that is just being written is no finding."""
    process = scripts.start(
        """
        import sys
        import ailab

        run = ailab.start_run(dir=sys.argv[1])
        run.log({"loss": 1.0})
        run._captured.join()  # nothing more is written
        print("ready", flush=True)
        sys.stdin.readline()
        """,
        store,
    )
    assert process.stdout.readline() == "ready\n"
    path = segments(store)[-1]
    with open(path, "ab") as file:
        file.write(b'{"seq":9')
    now = checkup.examine(str(store))
    assert (now.live, now.runs["running"]) == (1, 1)
    assert not [f for f in now.findings if str(path) in f.where]


def test_a_run_that_ends_while_it_is_read_is_no_damage(store, monkeypatch):
    """Its last lines come between our look at the file and our look at its writer: it is read to its footer."""
    run = ailab.start_run(id="ending", dir=store)
    for step in range(5):
        run.log({"loss": 1.0}, step=step)

    def alive(segment):
        if segment.run == "ending":
            run.finish()
        return journal.writer_alive(segment)

    monkeypatch.setattr(checkup, "writer_alive", alive)
    now = checkup.examine(str(store))
    assert (now.sealed, now.live, now.unsealed) == (5, 0, 1)
    assert now.runs == {"completed": 4, "crashed": 1, "failed": 1}
    assert now.healthy


def test_duckdb_is_not_needed(made, scripts):
    """The doctor answers where DuckDB cannot even be loaded."""
    out = scripts.run(
        """
        import sys
        sys.modules["duckdb"] = None
        from ailab import checkup
        print(checkup.examine(sys.argv[1]).healthy)
        """,
        made,
    ).stdout
    assert out == "True\n"


# -- damage ------------------------------------------------------------------------------------------------------------


def test_a_torn_tail_of_a_killed_writer_is_named(store):
    path = segments(store)[-1]
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"seq":7,"at":"2026')
    lines = whole.count(b"\n")
    (torn, _) = found(store, "note")
    assert torn == checkup.Finding(
        level="note",
        what="torn-tail: 19 bytes without an end",
        where=f"{path}:{lines + 1}:{len(whole)}",
        cost="the last event, of which only a part is there; had the file been cut, those behind it too",
        hint="its writer was killed while it wrote, and nothing is to be done; or `ailab merge` brings what a copy has more",
    )


def test_a_changed_byte_is_named_and_costs_its_own_line(store):
    """One bad line: its place is told, all other events and runs are still counted."""
    before = checkup.examine(str(store))
    path = segment_of(store, "whole-1")
    place = at(path, 6)
    data = bytearray(path.read_bytes())
    data[int(place.rpartition(":")[2]) + 30] ^= 1
    path.write_bytes(data)
    now = checkup.examine(str(store))
    errors = [f for f in now.findings if f.level == "error"]
    assert places(errors) == [("bad-checksum", place), ("gap", at(path, 7)), ("bad-checksum", at(path, len(data.splitlines())))]
    assert errors[0].cost == "the event of this line"
    assert (now.events, now.runs, now.healthy) == (before.events - 1, before.runs, False)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        pytest.param(lambda lines: lines[:5] + lines[6:], [("gap", 6), ("gap", -1)], id="deleted"),
        pytest.param(lambda lines: lines[:6] + lines[5:], [("gap", -1)], id="doubled"),
        pytest.param(
            lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]],
            [("gap", 6), ("gap", 7), ("bad-checksum", -1)],
            id="swapped",
        ),
        pytest.param(
            lambda lines: [*lines[:5], lines[5][:20] + b"\n", *lines[6:]],
            [("bad-checksum", 6), ("gap", 7), ("gap", -1)],
            id="cut",
        ),
        pytest.param(lambda lines: [*lines, b"more"], [("gap", "end")], id="behind the footer"),
    ],
)
def test_lines_that_are_not_in_their_place_are_errors(store, damage, expected):
    path = segment_of(store, "whole-0")
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    count = path.read_bytes().count(b"\n")
    numbers = {-1: count, "end": count + 1}
    errors = places(found(store, "error"))
    assert errors == [(kind, at(path, numbers.get(line, line))) for kind, line in expected]


def test_a_line_that_is_there_twice_counts_once(store):
    before = checkup.examine(str(store)).events
    path = segment_of(store, "whole-0")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6] + lines[5:]))
    (twice,) = found(store, "warning")
    assert (twice.what, twice.where, twice.cost) == (
        "duplicate: seq 5 was there before",
        at(path, 7),
        "nothing: the event counts once",
    )
    assert checkup.examine(str(store)).events == before


def test_many_bad_lines_are_counted_not_listed(store):
    path = segment_of(store, "whole-0")
    path.write_bytes(path.read_bytes().replace(b'"loss":', b'"lost":'))
    bad = [f for f in found(store, "error") if f.what.startswith("bad-checksum")]
    assert len(bad) == checkup.PER_FILE + 1
    assert (bad[-1].what, bad[-1].where) == ("bad-checksum: 11 more", str(path))


def test_a_folder_named_like_a_segment_costs_nothing_else(store):
    before = checkup.examine(str(store))
    (store / "segments" / "20260101T000000000000Z_far_1_00000000.jsonl").mkdir()
    now = checkup.examine(str(store))
    (unreadable,) = [f for f in now.findings if f.level == "error"]
    assert unreadable.what == "unreadable: Is a directory"
    assert (now.events, now.runs) == (before.events, before.runs)


def test_a_newer_format_is_refused_by_name(store):
    header = events.SegmentOpened(format=2, segment="20260101T000000000000Z_far_1_00000000", ailab="9.9", host="far", pid=1)
    path = store / "segments" / "20260101T000000000000Z_far_1_00000000.jsonl"
    path.write_bytes(
        journal.encode_line(events.Line(0, datetime.now(timezone.utc), 0, header.kind, data=header, prev=0, crc=0))[0]
    )
    assert places(found(store, "error")) == [("unknown-version", f"{path}:1:0")]


def test_a_header_that_does_not_fit_is_named(store):
    """A line that is whole but no header of ours ends the reading of its file, not of the store."""
    path = store / "segments" / "20260101T000000000000Z_far_1_00000000.jsonl"
    line = events.Line(0, datetime.now(timezone.utc), 0, "segment.opened", data={"format": "x"}, prev=0, crc=0)
    path.write_bytes(journal.encode_line(line)[0])
    (error,) = found(store, "error")
    assert error.what.startswith("unknown-version: a header that this version cannot read")
    assert error.where == f"{path}:1:0"


def test_an_event_that_does_not_fit_its_kind_is_named(store):
    path = write_segment(store, ("run.started", events.RunStarted(name="x")), ("note.changed", {"note": 7}))
    (error,) = found(store, "error")
    assert (error.what, error.where) == (
        "note.changed does not fit its kind: Expected `str`, got `int` - at `$.note`",
        at(path, 3),
    )


def test_kinds_of_a_newer_version_are_a_note(store):
    write_segment(store, ("moon.landed", {"crew": 3}), ("moon.landed", {}), ("dataset.used", {}))
    newer = [f.what for f in found(store, "note") if "kinds" in f.what]
    assert newer == ["2 events of kinds that this version does not know: moon.landed"]


def test_a_copy_of_a_segment_counts_once(store):
    before = checkup.examine(str(store))
    path = segments(store)[0]
    copy = path.with_name("a-copy.jsonl")
    shutil.copy(path, copy)
    now = checkup.examine(str(store))
    (note, _) = [f for f in now.findings if f.level == "note"]
    assert (note.what, note.where, note.hint) == ("a copy of another segment", str(copy), f"the other is {path}")
    assert (now.events, now.segments, now.runs) == (before.events, before.segments, before.runs)


def test_a_segment_under_another_name_is_said(store):
    path = segments(store)[0]
    path.rename(path.with_name("renamed.jsonl"))
    assert ("a segment under another name", str(path.with_name("renamed.jsonl"))) in places(found(store, "note"))


def test_a_missing_segment_is_missed(store, monkeypatch):
    """A segment that its successor names is an error when it is gone; one that only its predecessor names may never have been."""
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 2000)
    with ailab.start_run(id="rotating", dir=store) as run:
        for step in range(60):
            run.log({"loss": 1.0}, step=step)
    first, *_, last = [path for path in segments(store) if path.stem.endswith("_rotating")]
    name, following = first.stem, last.stem
    first.unlink()
    assert [f.what for f in found(store, "error")] == [f"segment {name} is missing"]
    last.unlink()
    assert f"segment {following} is not here" in [f.what for f in found(store, "note")]


def test_an_empty_segment_is_a_note(store):
    path = store / "segments" / "20260101T000000000000Z_far_1_00000000.jsonl"
    path.touch()
    os.utime(path, (1, 1))
    assert ("an empty segment", str(path)) in places(found(store, "note"))


@linux
def test_points_that_were_dropped_are_counted_and_placed(store, scripts):
    """A full disk (a limit on the file's size) costs points; how many, when and where it is said."""
    scripts.run(
        """
        import os, resource, signal, sys
        import ailab

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        run = ailab.start_run(id="cramped", dir=sys.argv[1], silent=True)
        run._captured.join()
        (path,) = [p for p in os.scandir(sys.argv[1] + "/segments") if p.name.endswith("_cramped.jsonl")]
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(path.path).st_size + 100, resource.RLIM_INFINITY))
        for step in range(30):
            run.log({"loss": 1.0}, step=step)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        run.finish()
        """,
        store,
    )
    now = checkup.examine(str(store))
    path = next(p for p in segments(store) if p.stem.endswith("_cramped"))
    line = next(i for i, text in enumerate(path.read_bytes().splitlines(), 1) if b'"writes.dropped"' in text)
    dropped = [f for f in now.findings if "could not be written" in f.what]
    assert now.points_dropped == 30
    assert [(f.level, f.where) for f in dropped] == [("warning", at(path, line))]
    assert dropped[0].what.startswith("30 points could not be written: ")
    assert now.healthy


def test_a_clock_that_went_back_is_said(store):
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    times = [start, start + timedelta(hours=1), start, start + timedelta(seconds=1)]
    points = [("metrics.logged", events.MetricsLogged({"loss": 1.0})) for _ in times[1:]]
    path = write_segment(store, *points, times=times)
    (warning,) = found(store, "warning")
    assert (warning.what, warning.where) == ("the clock went back by 3600.000 s at 2026-01-01T00:00:00+00:00", at(path, 3))


# -- blobs and strangers -----------------------------------------------------------------------------------------------


def test_missing_and_cut_blobs_are_told_apart(store):
    """Bytes that are not here are a warning (a copy may leave them out), bytes of another size an error."""
    sizes = {p.stat().st_size: p for p in (store / "blobs").rglob("*") if p.is_file()}
    sizes[100].unlink()
    sizes[101].write_bytes(bytes(50))
    now = checkup.examine(str(store))
    (missing,) = [f for f in now.findings if f.level == "warning"]
    (cut,) = [f for f in now.findings if f.level == "error"]
    assert missing.what.startswith("the bytes of artifact model.bin of run ")
    assert missing.where == str(sizes[100])
    assert cut.what.endswith("has 50 bytes, 101 were kept")
    assert cut.where == str(sizes[101])


def test_strangers_and_leftovers_are_notes(store):
    """What is not ours is named and left alone; a temporary file only once its writer must be gone."""
    strange = [store / "thesis.docx", store / "segments" / "old.txt", store / "blobs" / "ab" / "nothex", store / "blobs" / "long"]
    (store / "blobs" / "ab").mkdir(exist_ok=True)
    for path in strange:
        path.write_text("x")
    (store / "schema").mkdir()
    fresh, old = store / "blobs" / ".tmp-1-aa", store / "blobs" / ".tmp-1-bb"
    fresh.touch()
    old.touch()
    os.utime(old, (1, 1))
    notes = found(store, "note")
    named = {f.where for f in notes if f.what == "a file that does not belong to the store"}
    assert named == {str(path) for path in strange}
    assert [f.where for f in notes if "temporary" in f.what] == [str(old)]


# -- what it stands on -------------------------------------------------------------------------------------------------


def test_git_that_is_not_there_is_a_note(store, monkeypatch):
    monkeypatch.setenv("PATH", str(store))
    now = checkup.examine(str(store))
    assert now.git is None
    assert "git is not found" in [f.what for f in now.findings if f.level == "note"]


def test_locks_that_do_not_work_are_told(tmp_path):
    """A file that cannot be locked (here: is not there) counts as a file system without flock."""
    assert not surroundings._flock_works(str(tmp_path / "nothing"))


def test_settings_that_do_not_parse_are_errors_with_their_line(store, tmp_path, monkeypatch):
    monkeypatch.setenv("AILAB_STRICT", "maybe")
    (tmp_path / ".env").write_text("# ours\nAILAB_SEED=seven\nAILAB_PROJCT=x\nOTHER=1\nwords\n")
    (tmp_path / "pyproject.toml").write_text("[tool.ailab\n")
    env = tmp_path / ".env"
    now = checkup.examine(str(store))
    errors = [(f.what, f.where) for f in now.findings if f.level == "error"]
    notes = [(f.what, f.where) for f in now.findings if f.level == "note" and "run" not in f.what]
    (broken,) = [what for what, where in errors if not where and "pyproject" in what]
    assert broken.startswith(f"{tmp_path / 'pyproject.toml'} does not parse")
    assert {*errors} - {(broken, "")} == {
        ("AILAB_SEED in .env: 'seven' is no whole number of 128 bits", f"{env}:2"),
        ("AILAB_STRICT: 'maybe' is no switch", ""),
    }
    assert notes == [("a line that is no NAME=value", f"{env}:5"), ("no setting AILAB_PROJCT", f"{env}:3")]


def test_the_store_is_found_as_a_run_finds_it(store, tmp_path, monkeypatch):
    """The argument, else AILAB_DIR, else the nearest `events/`; settings that do not parse do not stand in the way."""
    monkeypatch.setenv("AILAB_SEED", "seven")
    assert checkup.store_path(None) == str(tmp_path / "events")
    monkeypatch.setenv("AILAB_DIR", str(store))
    assert checkup.store_path(None) == str(store)
    assert checkup.store_path("elsewhere") == str(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (Path.exists, StoreError),
        (lambda path: path.write_text("x"), ForeignFolderError),
        (lambda path: path.mkdir(), ForeignFolderError),
    ],
    ids=["nothing", "a file", "an unmarked folder"],
)
def test_what_is_no_store_is_refused_with_a_hint(tmp_path, make, error):
    make(tmp_path / "x")
    with pytest.raises(error) as raised:
        checkup.examine(str(tmp_path / "x"))
    assert raised.value.hint
    assert str(tmp_path / "x") in raised.value.message


def test_an_empty_store_is_healthy(tmp_path):
    now = checkup.examine(open_store(str(tmp_path / "new"), create=True).path)
    assert (now.healthy, now.segments, now.events, now.runs) == (True, 0, 0, {})


# -- compacted stores --------------------------------------------------------------------------------------------------


def compact(store: Path, grace_s: float = 0.0) -> None:
    from ailab.views.compact import compact as rewrite

    for _ in range(2):
        rewrite(open_store(str(store), create=False), grace_s=grace_s, fold=False)


def test_what_lies_in_tables_is_counted_and_nothing_is_missed(store):
    """Lines as before and those that closed the dead; no run and no segment is said to be missing."""
    before = checkup.examine(str(store))
    compact(store)
    now = checkup.examine(str(store))
    assert (now.segments, now.runs, now.runs_in_tables, now.commits, now.waiting) == (0, {}, 5, 1, 0)
    assert now.events == now.compacted_lines == before.events + 3  # who closed, what he closed, his footer
    assert now.compacted_bytes == sum(path.stat().st_size for path in (store / "compacted").iterdir())
    assert now.cache_bytes == sum(path.stat().st_size for path in (store / "cache").iterdir())
    assert now.last_compaction is not None
    assert (found(store, "error"), found(store, "warning"), now.healthy) == ([], [], True)


def test_segments_beside_their_tables_count_once(store):
    """Within the grace both are there."""
    before = checkup.examine(str(store))
    compact(store, grace_s=3600)
    now = checkup.examine(str(store))
    assert (now.events, now.compacted_lines, now.runs, now.waiting) == (before.events + 3, 0, before.runs, 0)


def test_a_table_that_is_not_there_is_named(store):
    compact(store)
    table = next((store / "compacted").glob("*.events.parquet"))
    table.unlink()
    assert ("missing", str(table)) in places(found(store, "error"))


def test_what_waits_and_what_was_left_is_said(store, monkeypatch):
    """So many segments make reading slower; a damaged one is left as it is, and the reason is told."""
    path = segment_of(store, "whole-1")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:]))
    now = checkup.examine(str(store))
    assert (now.waiting, now.waiting_bytes) == (5, now.segment_bytes)
    monkeypatch.setattr(checkup, "WAITING_MANY", 5)
    assert any(note.hint == "`ailab compact` makes reading faster" for note in found(store, "note"))
    compact(store)
    (left,) = [note.what for note in found(store, "note") if note.what.startswith("the last compaction left")]
    assert path.stem in left
    assert "gap in line 4" in left
