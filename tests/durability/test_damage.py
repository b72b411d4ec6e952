"""Damage to segments: every changed byte, line and file is found and named, costs no neighbour, and gives no wrong value."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zlib
from pathlib import Path

import pytest
import unprotected

from ailab import checkup, events, journal, store, verification
from ailab.errors import DamageError

MUTATIONS = {
    "^01": lambda byte: bytes([byte ^ 0x01]),
    "^02": lambda byte: bytes([byte ^ 0x02]),
    "^10": lambda byte: bytes([byte ^ 0x10]),
    "^80": lambda byte: bytes([byte ^ 0x80]),
    ":=00": lambda _: b"\0",
    ":=0A": lambda _: b"\n",
    "delete": lambda _: b"",
    "insert": lambda byte: bytes([byte, 0x37]),
}

NEWLINE = 0x0A


@pytest.fixture
def quick_dir(tmp_path):
    """A folder in memory where there is such a place: rewriting a file thousands of times waits for the disk otherwise."""
    folder = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else tmp_path)
    yield Path(folder) / "store"
    shutil.rmtree(folder)


def points(writer, count, start=0):
    log = writer.metrics_logger(writer.run, lambda values, step, _: writer.append(events.MetricsLogged(values, step)))
    for i in range(start, start + count):
        log({"train/loss": 1 / (i + 1), "accuracy": i / 1000}, i)


def made(folder, count, *, end=True):
    """Path of a segment with events of many kinds and `count` points; it ended in order, or as by kill -9."""
    writer = journal.Writer(store.open_store(str(folder), create=True), run="r1")
    writer.append(events.RunStarted(name="x", project="p", params={"lr": 0.1, "text": "✓ two\nlines"}, seed=7))
    points(writer, count)
    writer.append(events.NoteChanged(note="a note"))
    writer.append(events.TagsChanged(set={"a": None, "b": "c"}))
    writer.append(events.ArtifactAdded(path="m.bin", logged="m.bin", size=3, sha256="ab" * 32))
    writer.append(events.RunFinished(status="completed", final_metrics={"accuracy": 0.9}))
    if end:
        writer.seal()
    else:
        writer.abandon()
    return Path(writer.store.segment_path(writer.name))


def by_hand(raw):
    """{seq: (kind, data)} of whole bytes, checked by code that shares nothing with the reader."""
    found = {}
    for line in raw.split(b"\n")[:-1]:
        crc = re.search(rb'"crc":(\d+)\}$', line)
        assert zlib.crc32(line[: crc.start(1)] + b"0}") == int(crc[1])
        event = json.loads(line)
        found[event["seq"]] = event["kind"], event["data"]
    assert list(found) == list(range(len(found)))
    return found


def salvaged(path):
    """{seq: (kind, data as bytes)} that the reader gives, whatever is wrong; none of them twice."""
    found = [(line.seq, (line.kind, bytes(line.data))) for line in journal.scan(str(path), mode="salvage")]
    assert len(found) == len(dict(found)), "an event was served twice"
    return dict(found)


def strictly(path):
    """The DamageError of strict reading, or None."""
    try:
        for _ in journal.scan(str(path), mode="strict"):
            pass
    except DamageError as problem:
        return problem
    return None


def checked(path):
    """What `salvaged` gives of a whole file, after a comparison with a reading by hand."""
    whole = salvaged(path)
    assert {seq: (kind, json.loads(data)) for seq, (kind, data) in whole.items()} == by_hand(path.read_bytes())
    return whole


def told(folder):
    """What the doctor says is wrong: (level, text, file, line, byte)."""
    found = []
    for finding in checkup.examine(str(folder)).findings:
        if finding.level != "ok" and str(folder) in finding.where:
            path, _, place = finding.where.partition(".jsonl")
            line, _, offset = place.removeprefix(":").partition(":")
            where = f"{path}.jsonl" if place or finding.where.endswith(".jsonl") else path
            found.append((finding.level, finding.what, where, int(line or 0), int(offset or 0)))
    return found


def verified(folder):
    """What `ailab verify` finds wrong: (level, text, file, line, byte)."""
    found = verification.verify(store.Store(str(folder))).findings
    return [(f.level, f"{f.kind}: {f.what}", os.path.join(folder, f.file), f.line, f.offset) for f in found]


# -- one byte ----------------------------------------------------------------------------------------------------------

FAULTS = ("missed", "misplaced", "wrong values", "cost too much", "missed by the doctor", "missed by verify")


def read_at_once(path, content):
    """(events by seq, what is wrong first) of `content` as if it stood at `path`: one pass of what every reader is made of."""
    segment = journal.Segment(path.stem, str(path), hashed=True)
    given = {line.seq: (line.kind, bytes(line.data)) for line in segment.feed(content)}
    if segment.problems:
        return given, segment.problems[0]
    if segment.offset < len(content):
        return given, DamageError("torn-tail", path=str(path), line=segment.line + 1, offset=segment.offset)
    return given, None


def damage_every(path, step, *, files_every):
    """Damage every `step`-th byte in every way; how often what went wrong.

    Every `files_every`-th damage is written to the file and read from there too, by strict reading, salvage, doctor and verify.
    """
    raw, whole = path.read_bytes(), checked(path)
    found = {"bytes": len(raw), "events": len(whole), "damages": 0, "files": 0, **dict.fromkeys(FAULTS, 0)}
    for position in range(0, len(raw), step):
        hit = raw.count(b"\n", 0, position) + 1
        for change in MUTATIONS.values():
            content = raw[:position] + change(raw[position]) + raw[position + 1 :]
            if content == raw:
                continue
            found["damages"] += 1
            given, problem = read_at_once(path, content)
            if problem is None:
                found["missed"] += 1
            elif (problem.path, problem.offset) != (str(path), start_of(content, problem.line)) or problem.line - hit not in {
                0,
                1,
            }:
                found["misplaced"] += 1
            found["wrong values"] += sum(whole.get(seq) != event for seq, event in given.items())
            found["cost too much"] += len(whole) - len(given) > (2 if raw[position] == NEWLINE else 1)
            if found["damages"] % files_every == 0:
                found["files"] += 1
                path.write_bytes(content)
                assert (salvaged(path), str(strictly(path))[:100]) == (given, str(problem)[:100])
                for who, said in (("the doctor", told(path.parents[1])), ("verify", verified(path.parents[1]))):
                    found[f"missed by {who}"] += not [e for e in said if e[2] == str(path) and e[3] - hit in {0, 1}]
    path.write_bytes(raw)
    print(found)
    return found


def start_of(content, line):
    """Where a line begins."""
    return sum(map(len, content.split(b"\n")[: line - 1])) + line - 1


def check_found(found):
    assert {name: found[name] for name in FAULTS} == dict.fromkeys(FAULTS, 0)
    assert found["events"] >= 200
    assert found["bytes"] >= 20_000


def test_every_37th_byte_of_a_sealed_segment_damaged_in_eight_ways(quick_dir):
    """G3, short: 100 % found and named by file, line and byte; all other events served, 0 wrong values; the doctor agrees."""
    check_found(damage_every(made(quick_dir, 195), 37, files_every=50))


@pytest.mark.long
def test_every_byte_of_a_sealed_segment_damaged_in_eight_ways(quick_dir):
    """G3: the same for every byte."""
    check_found(damage_every(made(quick_dir, 195), 1, files_every=100))


def test_control_without_checksums_damage_is_served(quick_dir, monkeypatch):
    """G3, negative control: where a line's checksum is not compared, the sweep finds wrong values."""
    path = made(quick_dir, 195)
    unprotected.apply("checksum", monkeypatch.setattr)
    monkeypatch.setitem(MUTATIONS, "^80", lambda byte: bytes([byte]))  # no UTF-8, which such a build may well refuse
    assert damage_every(path, 373, files_every=10**9)["wrong values"] > 0


# -- whole lines -------------------------------------------------------------------------------------------------------


def line_changes(lines, i, stranger):
    """What can happen to line `i` as a whole, and how many events that may cost."""
    yield "deleted", [*lines[:i], *lines[i + 1 :]], 1
    yield "duplicated", [*lines[: i + 1], *lines[i:]], 0
    if i + 1 < len(lines):
        yield "swapped", [*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]], 0
    yield "put in", [*lines[:i], b"\n", *lines[i:]], 0
    yield "exchanged", [*lines[:i], stranger[i], *lines[i + 1 :]], 1


def change_lines(folder, every, *, end):
    """Change every line of a segment; (what strict reading or the doctor missed, wrong values)."""
    other = made(folder / "other", 20, end=end).read_bytes().splitlines(keepends=True)
    path = made(folder / "ours", 20, end=end)
    raw, whole, places = path.read_bytes(), checked(path), f"{path}"
    lines = raw.splitlines(keepends=True)
    tried, missed, wrong = 0, [], 0
    # of a segment without a footer, what happens to its end cannot be told from a kill
    for i in range(0, len(lines) - 1, every):
        for how, changed, cost in line_changes(lines, i, other):
            tried += 1
            path.write_bytes(b"".join(changed))
            problem, given = strictly(path), salvaged(path)
            bad = {"error"} if end else {"warning", "error"}
            for said in (told(folder / "ours"), verified(folder / "ours")):
                named = {each[0] for each in said if each[2] == places and each[3]}
                if problem is None or not problem.line or not bad & named:
                    missed.append((how, i))
            if how == "exchanged":
                given.pop(i, None)  # it proves itself; that it does not belong there is what was to be named
            wrong += sum(whole.get(seq) != event for seq, event in given.items())
            assert len(whole) - len(given) <= cost, (how, i)
    path.write_bytes(raw)
    print(f"{tried} changes of lines, {len(missed)} missed, {wrong} wrong values")
    return missed, wrong


@pytest.mark.parametrize("end", [True, False], ids=["sealed", "unsealed"])
def test_whole_lines_deleted_doubled_swapped_put_in_or_exchanged(quick_dir, end):
    """G4: each of five changes of each line is named by strict reading and by the doctor, and costs that line at most."""
    assert change_lines(quick_dir, 1, end=end) == ([], 0)


@pytest.mark.parametrize(("switch", "end"), [("chain", False), ("footer", True)])
def test_control_without_chain_or_footer_changed_lines_pass(quick_dir, monkeypatch, switch, end):
    """G4, negative control: without `prev` lines of another segment pass, without the footer a sealed one takes lines put in."""
    unprotected.apply(switch, monkeypatch.setattr)
    missed, _ = change_lines(quick_dir, 5, end=end)
    assert {how for how, _ in missed} >= {"chain": {"exchanged"}, "footer": {"put in"}}[switch]


# -- whole files -------------------------------------------------------------------------------------------------------


def chained(folder, monkeypatch):
    """A run over four segments that name each other, and a shorter run in one; the segments' paths, oldest first."""
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 4000)
    path = made(folder, 60)
    monkeypatch.undo()
    writer = journal.Writer(store.Store(str(folder)), run="r2")
    writer.append(events.RunStarted(name="y"))
    points(writer, 5)
    writer.append(events.RunFinished(status="completed"))
    writer.seal()
    paths = sorted(path.parent.iterdir())
    assert len(paths) == 5
    return paths


def lines_served(folder):
    """{(name at birth, seq): (kind, data)} as the reader behind every answer gives them; none of them twice."""
    found = [
        ((segment.birth, line.seq), (line.kind, bytes(line.data)))
        for segment, lines in journal.Tail(store.Store(str(folder))).poll()
        for line in lines
    ]
    assert len(found) == len(dict(found)), "an event was served twice"
    return dict(found)


def missing(paths, i):
    """It is gone; its successor says so, or its predecessor, for one that neither names there is no trace."""
    paths[i].unlink()
    others = [each for each in (i - 1, i + 1) if 0 <= each < LAST_OF_CHAIN + 1] if i <= LAST_OF_CHAIN else []
    return {paths[i].stem}, [str(paths[each]) for each in others]


def copied(paths, i):
    """It is there twice."""
    copy = paths[i].with_name("copy.jsonl")
    shutil.copy(paths[i], copy)
    return set(), [str(copy)]


def renamed(paths, i):
    """It is called otherwise."""
    other = paths[i].with_name("other.jsonl")
    paths[i].rename(other)
    return set(), [str(other)]


def joined_with_the_next(paths, i):
    """The next one's lines stand behind its own, and the next one's file is gone."""
    following = paths[(i + 1) % len(paths)]
    paths[i].write_bytes(paths[i].read_bytes() + following.read_bytes())
    following.unlink()
    return {following.stem}, [str(paths[i])]


def joined_beside_both(paths, i):
    """It stands in a third file too, with the next one behind it."""
    both = paths[i].with_name("both.jsonl")
    both.write_bytes(paths[i].read_bytes() + paths[(i + 1) % len(paths)].read_bytes())
    return set(), [str(both)]


def zeroed(paths, i):
    """A block of it was never written to the disk: 500 zeros from byte 700 on."""
    raw = paths[i].read_bytes()
    paths[i].write_bytes(raw[:700] + bytes(500) + raw[1200:])
    first, last = raw.count(b"\n", 0, 700), raw.count(b"\n", 0, 1200)
    return {(paths[i].stem, seq) for seq in range(first, last + 1)}, [str(paths[i])]


LAST_OF_CHAIN = 3
CHANGES = [missing, copied, renamed, joined_with_the_next, joined_beside_both, zeroed]


def change_files(folder, monkeypatch, change):
    """Do `change` to each segment of a store in turn; (how often, what was wrong)."""
    paths = chained(folder, monkeypatch)
    raws, whole, wrong = [path.read_bytes() for path in paths], lines_served(folder), []
    assert [each for each in told(folder) if each[2].endswith(".jsonl")] == []
    for i in range(len(paths)):
        may_be_gone, files = change(paths, i)
        try:
            given = lines_served(folder)
        except AssertionError as twice:
            given, wrong = whole, [*wrong, (i, str(twice))]
        gone = {key for key in whole if key not in given and key not in may_be_gone and key[0] not in may_be_gone}
        if gone:
            wrong.append((i, "lost", gone))
        said, also = ([each for each in find(folder) if each[2].endswith(".jsonl")] for find in (told, verified))
        strange = {key for key, event in given.items() if whole.get(key) != event}
        if strange and not any(level == "error" and what.startswith("gap") for level, what, *_ in said):
            wrong.append((i, "from elsewhere, and not named", strange))
        wrong += [(i, "not named", path) for path in files if not any(path == each[2] for each in said)]
        if files and not any(each[2] in files for each in also):
            wrong.append((i, "not verified", files))
        for path in paths[0].parent.iterdir():
            path.unlink()
        for path, raw in zip(paths, raws, strict=True):
            path.write_bytes(raw)
    print(f"{change.__name__}: {len(paths)} changes, {len(wrong)} wrong")
    return wrong


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whole_segments_gone_copied_renamed_joined_or_with_a_hole(quick_dir, monkeypatch, change):
    """G4: named by the doctor wherever a file states it, nothing else lost, and no event served twice."""
    assert change_files(quick_dir, monkeypatch, change) == []


def test_control_without_names_at_birth_a_copy_counts_twice(quick_dir, monkeypatch):
    """G4, negative control: where the name at birth is not looked at, copies and renamed segments are served as new ones."""
    paths = chained(quick_dir, monkeypatch)
    unprotected.apply("births", monkeypatch.setattr)
    before = len(lines_served(quick_dir))
    copied(paths, 0)
    assert len(lines_served(quick_dir)) > before
    assert [each for each in told(quick_dir) if each[2].endswith("copy.jsonl")] == []


def test_a_last_segment_cut_at_a_newline_is_that_of_a_killed_writer(quick_dir, monkeypatch):
    """G4: behind whichever line it is cut, it is reported as unsealed, its run as crashed, and what is there is served."""
    path = chained(quick_dir, monkeypatch)[LAST_OF_CHAIN]
    raw, whole = path.read_bytes(), lines_served(quick_dir)
    before = checkup.examine(str(quick_dir))
    assert (before.unsealed, before.runs) == (0, {"completed": 2})
    lines = raw.splitlines(keepends=True)
    for kept in range(1, len(lines)):  # an empty file is its writer's, until it has been silent for a minute
        path.write_bytes(b"".join(lines[:kept]))
        now = checkup.examine(str(quick_dir))
        ended = any(b'"run.finished"' in line for line in lines[:kept])
        assert (now.unsealed, now.runs) == (1, {"completed": 2} if ended else {"completed": 1, "crashed": 1}), kept
        assert lines_served(quick_dir) == {key: event for key, event in whole.items() if key[0] != path.stem or key[1] < kept}


def test_a_segment_that_another_follows_and_that_has_no_footer_is_named(quick_dir, monkeypatch):
    """G4: a writer begins the next segment only behind a footer, so a cut before it is told by its successor."""
    for path in chained(quick_dir, monkeypatch)[:LAST_OF_CHAIN]:
        raw = path.read_bytes()
        path.write_bytes(b"".join(raw.splitlines(keepends=True)[:-3]))
        assert [each for each in verified(quick_dir) if each[0] == "error" and each[2] == str(path)]
        path.write_bytes(raw)
    assert [each for each in verified(quick_dir) if each[2].endswith(".jsonl")] == []


def test_lines_behind_a_footer_never_count_whenever_they_come(quick_dir, monkeypatch):
    """G4: what stands behind a footer is named and does not count, for a reader that saw the file before as for a new one."""
    *_, long, _, short = chained(quick_dir, monkeypatch)
    tail = journal.Tail(store.Store(str(quick_dir)))
    before = sum(len(lines) for _, lines in tail.poll())
    line, size = short.read_bytes().count(b"\n") + 1, short.stat().st_size
    short.write_bytes(short.read_bytes() + long.read_bytes())
    assert sum(len(lines) for _, lines in tail.poll()) == 0
    fresh = journal.Tail(store.Store(str(quick_dir)))
    assert sum(len(lines) for _, lines in fresh.poll()) == before
    assert [(p.kind, p.path, p.line, p.offset) for p in fresh.problems] == [("gap", str(short), line, size)]
    wrong = [one for one in verified(quick_dir) if one[2] == str(short)]
    assert wrong == [("error", "gap: it stands behind the footer; neither it nor what follows counts", str(short), line, size)]


# -- a live segment cut ------------------------------------------------------------------------------------------------


def cut_everywhere(folder, step):
    """Cut a live segment at every `step`-th byte and let its writer go on; what went wrong."""
    writer = journal.Writer(store.open_store(str(folder), create=True), run="r1")
    writer.append(events.RunStarted(name="x", params={"text": "✓ two\nlines"}))
    points(writer, 12)
    writer.append(events.NoteChanged(note="a note"))
    path = Path(writer.store.segment_path(writer.name))
    raw, whole = path.read_bytes(), checked(path)
    found = {"bytes": len(raw), "cuts": 0, "lost": 0, "glued": 0, "misreported": 0, "wrong values": 0}
    first = raw.find(b"\n") + 1  # before it there is no header: the writer writes that again
    for cut in range(first, len(raw) + 1, step):
        found["cuts"] += 1
        complete, begin = raw.count(b"\n", 0, cut), raw.rfind(b"\n", 0, cut) + 1
        path.write_bytes(raw[:cut])  # the file that the writer has open
        given = salvaged(path)
        found["lost"] += given != {seq: event for seq, event in whole.items() if seq < complete}
        problem = strictly(path)
        said = None if problem is None else (problem.kind, problem.line, problem.offset)
        found["misreported"] += said != (("torn-tail", complete + 1, begin) if cut > begin else None)
        writer._soil()  # as after any write that did not end well
        points(writer, 2, start=1000)
        given = salvaged(path)
        steps = [json.loads(given[seq][1])["step"] if seq in given else None for seq in (complete, complete + 1)]
        found["glued"] += steps != [1000, 1001]
        found["wrong values"] += sum(whole[seq] != event for seq, event in given.items() if seq < complete)
        problem = strictly(path)
        said = None if problem is None else (problem.kind, problem.line, problem.offset)
        found["misreported"] += said != (("torn-write", complete + 1, begin) if cut > begin else None)
    print(found)
    return found


def test_a_live_segment_cut_at_any_byte_takes_no_neighbour_with_it(quick_dir):
    """G6: at every byte of it all complete lines come, the cut one is named once, and the next events stand by themselves."""
    found = cut_everywhere(quick_dir, 1)
    assert (found["lost"], found["glued"], found["misreported"], found["wrong values"]) == (0, 0, 0, 0)
    assert found["cuts"] > 2000


def test_control_without_resync_the_next_event_is_glued(quick_dir, monkeypatch):
    """G6, negative control: where a torn line is not ended, the next event is lost with it, and the sweep finds that."""
    unprotected.apply("resync", monkeypatch.setattr)
    assert cut_everywhere(quick_dir, 53)["glued"] > 0
