"""What `ailab verify` promises: damage of every kind is named with file, line and byte, wherever a statement is left."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from handmade import Pen

import ailab
from ailab import artifacts, blobs, capture, cli, closing, commits, events, journal, store, verification
from ailab.views.compact import compact, redact


@pytest.fixture
def place(tmp_path):
    return store.open_store(str(tmp_path / "store"), create=True)


def training(place, run="r1", points=20, *, seal=True):
    """A run with an artifact, as the recorder writes it; the path of its segment."""
    writer = journal.Writer(place, run=run)
    writer.append(events.RunStarted(name=run, params={"lr": 0.1}))
    content = f"model of {run}".encode()
    digest = blobs.put_bytes(place, content)
    writer.append(events.ArtifactAdded(path="model.bin", logged="model.bin", size=len(content), sha256=digest))
    for i in range(points):
        writer.append(events.MetricsLogged({"loss": 1 / (i + 1)}, i))
    writer.append(events.RunFinished(status="completed"))
    writer.seal() if seal else writer.abandon()
    return Path(place.segment_path(writer.name))


def found(place, *levels):
    """What verify says, as (kind, file, line, offset); by default errors and warnings."""
    answer = verification.verify(place)
    return [
        (one.kind, one.file, one.line, one.offset) for one in answer.findings if one.level in (levels or ("error", "warning"))
    ]


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def offset_of(path, line):
    """The byte at which a line begins, from 1."""
    return sum(map(len, lines_of(path)[: line - 1]))


def rewrite(path, change):
    """Change the list of a file's lines; say where each begins afterwards is the file's matter."""
    lines = lines_of(path)
    change(lines)
    path.write_bytes(b"".join(lines))


# -- whole stores ------------------------------------------------------------------------------------------------------


def test_a_whole_store_is_counted(place):
    """Nothing is found, and every figure is that of the files."""
    paths = [training(place, "r1"), training(place, "r2", 3)]
    answer = verification.verify(place)
    assert (answer.sound, answer.findings) == (True, [])
    assert (answer.segments, answer.blobs, answer.commits) == (2, 2, 0)
    assert answer.lines == sum(len(lines_of(path)) for path in paths)
    assert answer.bytes == sum(path.stat().st_size for path in paths) + len("model of r1") * 2


@pytest.mark.parametrize("grace_s", [0, 3600])
def test_a_compacted_store_is_counted_once(place, grace_s):
    """Lines are the same whether segments, tables or both have them."""
    training(place, "r1")
    training(place, "r2", 3)
    before = verification.verify(place).lines
    compact(place, grace_s=grace_s)
    compact(place, grace_s=grace_s)
    answer = verification.verify(place)
    assert (answer.findings, answer.lines, answer.spans, answer.tables) == ([], before, 2, len(tables(place)))
    assert answer.segments == (0 if grace_s == 0 else 2)


def tables(place):
    return sorted(Path(place.compacted).glob("*.parquet"))


def test_progress_ends_at_the_whole(place):
    """Bytes done never pass bytes to do, and reach them."""
    training(place)
    seen = []
    verification.verify(place, progress=lambda done, total: seen.append((done, total)))
    assert all(done <= total for done, total in seen)
    assert seen[-1][0] == seen[-1][1]


def test_nothing_is_written(place):
    """Not a byte of the store changes."""
    training(place)
    compact(place, grace_s=0)
    before = {path: path.read_bytes() for path in Path(place.path).rglob("*") if path.is_file()}
    verification.verify(place)
    assert {path: path.read_bytes() for path in Path(place.path).rglob("*") if path.is_file()} == before


# -- lines -------------------------------------------------------------------------------------------------------------


def test_a_changed_byte_is_named(place):
    """The line, its first byte, and the footer that does not fit any more."""
    path = training(place)
    content = bytearray(path.read_bytes())
    at = offset_of(path, 5)
    content[at + 40] ^= 1
    path.write_bytes(content)
    said = found(place)
    assert ("bad-checksum", str(path), 5, at) in said
    assert ("bad-checksum", str(path), len(lines_of(path)), offset_of(path, len(lines_of(path)))) in said


def test_a_line_that_is_no_json_is_named(place):
    """Also where its checksum is right."""
    pen = Pen(place.path, "r1")
    pen.text('{"seq":1,"at":"nonsense","clock":1,"crc":0}')
    assert found(place)[0] == ("bad-json", str(pen.path), 2, offset_of(pen.path, 2))


@pytest.mark.parametrize("line", [1, 2, 7, 23])
def test_a_deleted_line_is_found(place, line):
    path = training(place)
    rewrite(path, lambda lines: lines.pop(line - 1))
    assert ("gap", str(path), line, offset_of(path, line)) in found(place, "error")


@pytest.mark.parametrize("line", [1, 5, 24])
def test_a_doubled_line_is_found(place, line):
    path = training(place)
    rewrite(path, lambda lines: lines.insert(line, lines[line - 1]))
    kinds = {"duplicate"} if line < 24 else {"duplicate", "gap"}
    assert kinds <= {kind for kind, file, *_ in found(place, "error") if file == str(path)}
    assert ("duplicate", str(path), line + 1, offset_of(path, line + 1)) in found(place, "error")


def test_swapped_lines_are_found(place):
    path = training(place)

    def swap(lines):
        lines[3], lines[4] = lines[4], lines[3]

    rewrite(path, swap)
    assert ("gap", str(path), 4, offset_of(path, 4)) in found(place, "error")


def test_a_segment_put_behind_another_is_found(place):
    """Two sealed segments in one file: the first one's footer says where it ended."""
    one, other = training(place, "r1"), training(place, "r2", 60)
    size, count = one.stat().st_size, len(lines_of(one))
    one.write_bytes(one.read_bytes() + other.read_bytes())
    assert [each for each in found(place, "error") if each[1] == str(one)] == [("gap", str(one), count + 1, size)]


def test_bytes_behind_the_footer_are_found(place):
    path = training(place)
    size, count = path.stat().st_size, len(lines_of(path))
    path.write_bytes(path.read_bytes() + b"x")
    assert found(place) == [("gap", str(path), count + 1, size)]


# -- ends --------------------------------------------------------------------------------------------------------------


def test_the_torn_end_of_a_killed_writer_is_a_note(place):
    path = training(place, seal=False)
    size, count = path.stat().st_size, len(lines_of(path))
    path.write_bytes(path.read_bytes() + b'{"seq":99')
    assert found(place) == []
    assert found(place, "note") == [("unsealed", str(path), count, size), ("torn-tail", str(path), count + 1, size)]


def test_a_short_write_that_its_writer_marked_costs_no_more(place):
    pen = Pen(place.path, "r1").torn(b'{"seq":1,"at"').point('{"a":1.0}').seal()
    assert [one for one in found(place) if one[0] != "torn-write"] == []
    assert found(place)[0] == ("torn-write", str(pen.path), 2, offset_of(pen.path, 2))


def test_a_cut_at_a_newline_goes_unnoticed_only_without_a_statement(place):
    """An unsealed segment that nobody closed is said to be unsealed, and no more can be known; once closed, the cut is found."""
    path = training(place, seal=False)
    whole = path.read_bytes()
    path.write_bytes(b"".join(lines_of(path)[:-3]))
    assert found(place) == []
    assert [kind for kind, *_ in found(place, "note")] == ["unsealed"]
    path.write_bytes(whole)
    closing_of(place)
    assert found(place, "note", "error") == []
    path.write_bytes(b"".join(lines_of(path)[:-3]))
    ((kind, file, line, offset),) = found(place, "error")
    assert (kind, file, line, offset) == ("gap", str(path), len(lines_of(path)), path.stat().st_size)


def closing_of(place):
    """Let a reader close what is dead."""
    writer = journal.Writer(place, via="server")
    said = closing.close_dead(place, writer)
    writer.seal()
    return said


def test_a_cut_at_the_footer_of_a_sealed_segment_is_that_of_a_killed_writer(place):
    """Without its footer a segment is as its writer would have left it: unsealed, never whole."""
    path = training(place)
    rewrite(path, lambda lines: lines.pop())
    assert found(place) == []
    assert [kind for kind, *_ in found(place, "note")] == ["unsealed"]


# -- segments ----------------------------------------------------------------------------------------------------------


def test_a_missing_segment_that_another_follows_is_found(place):
    """By the footer of the one before it, and by the header of the one behind it."""
    writer = journal.Writer(place, run="r1")
    names = []
    for i in range(3):
        writer.append(events.MetricsLogged({"loss": 1.0}, i))
        names.append(writer.name)
        writer._rotate()
    writer.seal()
    middle = Path(place.segment_path(names[1]))
    middle.unlink()
    assert found(place) == [("missing", place.segment_path(names[0]), 3, offset_of(Path(place.segment_path(names[0])), 3))]


def test_a_missing_segment_that_was_closed_is_found(place):
    path = training(place, seal=False)
    closing_of(place)
    path.unlink()
    ((kind, file, line, _),) = found(place, "error")
    assert (kind, line, file != str(path)) == ("missing", 2, True)


def test_a_missing_segment_that_a_record_names_is_found(place):
    """Tables gone and segments gone: the record is what is left."""
    training(place)
    compact(place, grace_s=0)
    compact(place, grace_s=0)
    for table in tables(place):
        table.unlink()
    said = verification.verify(place)
    assert {one.kind for one in said.findings if one.level == "error"} == {"missing"}
    assert any("events of 1 segments" in one.cost for one in said.findings)


def test_without_the_statement_check_a_missing_segment_goes_unnoticed(place, monkeypatch):
    """The control: nothing else would find it."""
    path = training(place, seal=False)
    closing_of(place)
    path.unlink()
    assert not verification.verify(place).sound
    monkeypatch.setattr(verification._Look, "all_statements", lambda _: None)
    assert verification.verify(place).sound


def test_a_copied_segment_counts_once(place):
    path = training(place)
    before = verification.verify(place).lines
    copy = path.with_name("copy.jsonl")
    shutil.copy(path, copy)
    assert found(place) == []
    assert found(place, "note") == [("duplicate", str(copy), 1, 0)]
    assert verification.verify(place).lines == before


def test_a_renamed_segment_is_a_note(place):
    path = training(place)
    path.rename(path.with_name("renamed.jsonl"))
    assert found(place) == []
    assert found(place, "note") == [("duplicate", str(path.with_name("renamed.jsonl")), 1, 0)]


def test_what_cannot_be_read_costs_nothing_else(place):
    """A folder named like a segment, a link to nowhere, a newer format, and a whole run beside them."""
    path = training(place)
    (path.parent / "folder.jsonl").mkdir()
    (path.parent / "link.jsonl").symlink_to("nowhere")
    pen = Pen(place.path, "r9", header=False)
    pen.line('"kind":"segment.opened","data":{"format":9,"segment":"x","ailab":"9","host":"h","pid":1}')
    said = {(kind, Path(file).name) for kind, file, *_ in found(place, "error")}
    assert said == {("unreadable", "folder.jsonl"), ("unreadable", "link.jsonl"), ("unknown-version", pen.path.name)}
    assert verification.verify(place).lines >= len(lines_of(path))


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def compacted(place):
    """A store whose run lies in tables alone."""
    training(place)
    compact(place, grace_s=0)
    compact(place, grace_s=0)
    return place


def test_a_changed_byte_of_a_table_is_found(compacted):
    table = tables(compacted)[0]
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    assert ("bad-checksum", str(table), 0, 0) in found(compacted, "error")


def test_a_changed_commit_record_is_found(compacted):
    (name,) = compacted.commit_names()
    path = Path(compacted.commit_path(name))
    path.write_bytes(path.read_bytes().replace(b'"level":0', b'"level":1'))
    assert ("bad-checksum", str(path), 1, 0) in found(compacted, "error")


def test_a_record_of_a_newer_format_is_named(compacted):
    (name,) = compacted.commit_names()
    commit = commits.load(compacted)[0][name]
    path = Path(compacted.commit_path(name))
    path.write_bytes(commits.encode(msgspec.structs.replace(commit, format=9)))
    assert ("unknown-version", str(path), 1, 0) in found(compacted, "error")


def test_a_record_that_states_other_bytes_than_its_tables_give_is_found(compacted):
    """The table has its SHA-256, and yet its lines are not those of the span."""
    (name,) = compacted.commit_names()
    path, commit = Path(compacted.commit_path(name)), commits.load(compacted)[0][name]
    wrong = msgspec.structs.replace(commit.spans[0], sha256="0" * 64)
    path.write_bytes(commits.encode(msgspec.structs.replace(commit, spans=[wrong])))
    assert ("bad-checksum", str(path), 0, 0) in found(compacted, "error")


def test_a_segment_that_is_shorter_than_a_record_states_is_found(place):
    path = training(place)
    compact(place)
    path.write_bytes(b"".join(lines_of(path)[:4]))
    said = verification.verify(place)
    (error,) = [one for one in said.findings if one.level == "error"]
    assert (error.kind, error.file, error.cost) == ("gap", str(path), "nothing: tables have the lines")


def test_redacted_lines_are_no_damage(compacted):
    """The line has lost its data, the chain its reader knows still fits, and the answer says so."""
    segment = commits.load(compacted)[0][compacted.commit_names()[0]].spans[0].segment
    writer = journal.Writer(compacted, via="cli")
    writer.append(events.EventRedacted(segment=segment, seq=1, reason="test"))
    writer.seal()
    assert redact(compacted, [(segment, 1)]).done == [(segment, 1)]
    said = verification.verify(compacted)
    assert (said.sound, said.redacted) == (True, 1)
    assert [one.kind for one in said.findings] == ["redacted"]


# -- blobs -------------------------------------------------------------------------------------------------------------


def test_blobs_are_checked(place):
    """Left out is a note, wrong bytes and a wrong size are errors."""
    training(place, "r1")
    training(place, "r2")
    one, other = (Path(place.blob_path(hashlib.sha256(f"model of {run}".encode()).hexdigest())) for run in ("r1", "r2"))
    one.unlink()
    assert (found(place), found(place, "note")) == ([], [("missing", str(one), 0, 0)])
    other.write_bytes(b"another model")
    assert {kind for kind, file, *_ in found(place, "error") if file == str(other)} == {"bad-checksum"}


# -- the verb ----------------------------------------------------------------------------------------------------------


def test_the_verb_says_it_in_words_and_in_json(place):
    """Exit status 0 where nothing is an error, else 1."""
    path = training(place)
    done = CliRunner().invoke(cli.main, ["verify", "--dir", place.path])
    assert (done.exit_code, "every byte is as it was written" in done.stdout) == (0, True)
    rewrite(path, lambda lines: lines.pop(4))
    done = CliRunner().invoke(cli.main, ["verify", "--json", "--dir", place.path])
    assert done.exit_code == 1
    answer = json.loads(done.stdout)
    assert {one["file"] for one in answer["findings"]} == {str(path)}
    done = CliRunner().invoke(cli.main, ["verify", "--dir", place.path])
    assert f"segments/{path.name}:5:{offset_of(path, 5)}" in done.stdout


# -- files that were only referred to ----------------------------------------------------------------------------------


def referring(place, path, *, via="sdk", host=None, name="r1"):
    """A run that refers to a file as it is now; the segment's name."""
    writer = journal.Writer(place, run=name, via=via)
    writer.append(events.RunStarted(name=name))
    digest, size = blobs.hash_file(path)
    location = artifacts.location_of(str(path))
    if host is not None:
        location = location.replace(f"//{capture.host_name()}/", f"//{host}/")
    added = events.ArtifactAdded(
        path="far.bin", logged=str(path), size=size, sha256=digest, reference=True, metadata={"location": location}
    )
    writer.append(added)
    writer.append(events.RunFinished(status="completed"))
    writer.seal()
    return writer.name


def seen(place):
    """What verify says of files that were referred to: (level, kind, file)."""
    answer = verification.verify(place, references=True)
    assert answer.sound
    return [(one.level, one.kind, one.file) for one in answer.findings]


def test_references_are_looked_at_where_that_is_wished(place, tmp_path):
    """Changed and missing are warnings, no damage; without the wish nothing is opened; tables tell as segments do."""
    path = tmp_path / "far.bin"
    path.write_bytes(b"as it was")
    referring(place, path)
    for _ in range(2):
        path.write_bytes(b"as it was")
        assert seen(place) == []
        path.write_bytes(b"otherwise")
        assert seen(place) == [("warning", "changed", str(path))]
        path.unlink()
        assert seen(place) == [("warning", "missing", str(path))]
        assert verification.verify(place).findings == []
        compact(place, grace_s=0.0, orphan_s=0.0)


def test_the_newest_version_of_a_reference_counts(place, tmp_path):
    """A file that changed and was logged again is as it was logged."""
    path = tmp_path / "far.bin"
    path.write_bytes(b"one")
    with ailab.start_run(id="r1", dir=place.path) as run:
        run.log_artifact(path, reference=True)
        path.write_bytes(b"two")
        run.log_artifact(path, reference=True)
    assert seen(place) == []


@pytest.mark.parametrize("by", ["a server", "a client of a server", "another host"])
def test_no_path_that_came_from_elsewhere_is_opened(place, tmp_path, by):
    """What a server wrote for a client, what a client shipped, what another host saw: not even whether it is there is said."""
    path = tmp_path / "far.bin"
    path.write_bytes(b"one")
    name = referring(place, path, via="server" if by == "a server" else "sdk", host="far" if by == "another host" else None)
    path.write_bytes(b"two")
    if by == "a client of a server":
        assert seen(place) == [("warning", "changed", str(path))]  # until it is known where the segment came from
        writer = journal.Writer(place, via="server")
        writer.append(events.SegmentAccepted(segment=name))
        writer.seal()
    assert seen(place) == []
    os.unlink(path)
    os.mkfifo(path)
    assert seen(place) == []


def test_a_pipe_in_the_place_of_a_file_does_not_block(place, tmp_path):
    path = tmp_path / "far.bin"
    path.write_bytes(b"one")
    referring(place, path)
    path.unlink()
    os.mkfifo(path)
    assert seen(place) == [("warning", "missing", str(path))]


def test_the_verb_looks_at_references_too(place, tmp_path):
    path = tmp_path / "far.bin"
    path.write_bytes(b"one")
    referring(place, path)
    path.write_bytes(b"two")
    told = CliRunner().invoke(cli.main, ["verify", "--references", "--dir", place.path])
    assert told.exit_code == 0
    assert "references  1 file, 1 changed or gone\n" in told.output
    assert "artifact far.bin of run r1 refers to this file: it has other bytes now" in told.output
    plain = CliRunner().invoke(cli.main, ["verify", "--dir", place.path]).output
    assert "every byte is as it was written" in plain
    assert "references" not in plain
    path.write_bytes(b"one")
    again = CliRunner().invoke(cli.main, ["verify", "--references", "--dir", place.path])
    assert "references  1 file, all as they were logged\n" in again.output
    assert verification.verify(place, references=True).references == 1


def test_the_verb_says_that_there_are_no_references(place):
    ailab.start_run(id="r1", dir=place.path).finish()
    told = CliRunner().invoke(cli.main, ["verify", "--references", "--dir", place.path])
    assert "references  none to files of this machine\n" in told.output
